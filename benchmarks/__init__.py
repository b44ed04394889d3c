"""Benchmarks: one script a question; JSON out, a table for people."""
