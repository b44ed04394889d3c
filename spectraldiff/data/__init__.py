"""Labelled scenes: a scene with labels from a raster or a vector file on its grid."""
