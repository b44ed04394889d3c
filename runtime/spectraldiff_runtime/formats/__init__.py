"""Class maps in other formats than GeoTIFF: polygons, pictures with a place, netCDF, Zarr."""
