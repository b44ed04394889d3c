"""Labelled scenes: labels from rasters and vector files on a scene's grid."""
