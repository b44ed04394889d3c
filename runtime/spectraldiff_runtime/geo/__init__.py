"""Georeference, bounds, reprojection, polygons and vector files."""
