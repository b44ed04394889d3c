"""Scenes: pixels by window, with wavelengths, nodata and georeference."""
