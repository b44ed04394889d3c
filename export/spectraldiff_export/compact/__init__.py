"""A compact model: a small model that a full model teaches on ground with and without labels."""
