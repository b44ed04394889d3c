"""Hyperspectral products as their providers deliver them: one module a product, `recognise` in front."""
