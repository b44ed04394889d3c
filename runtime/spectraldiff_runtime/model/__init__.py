"""Model files: card, inference session and memory use."""
