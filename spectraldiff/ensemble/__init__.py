"""The choice of the ensemble: closed-form members, held-out scores, and weights by held-out likelihood."""
