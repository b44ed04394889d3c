"""Models in fewer bits than float32, and what they lose by it."""
