"""Benchmarks: one script per question. Each prints a table and can write JSON."""

import spectraldiff_runtime  # noqa: F401 (before ONNX Runtime: it switches telemetry off)
