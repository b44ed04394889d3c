"""A compact model: a small network that a full model teaches on ground with and without labels."""
