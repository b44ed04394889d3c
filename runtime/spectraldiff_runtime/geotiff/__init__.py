"""Class rasters as GeoTIFF: layout, encoding, sidecar and the way back."""
