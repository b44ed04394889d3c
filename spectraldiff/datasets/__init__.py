"""Benchmark scenes: registry, download and loaders."""
