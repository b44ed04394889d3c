"""A model file: its card, what runs it, and how much memory that takes."""
