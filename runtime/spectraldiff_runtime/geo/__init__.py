"""Where a scene lies: georeference, bounds, polygons and vector files."""
