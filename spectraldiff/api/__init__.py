"""The Python face of ``sdiff``: each function does what the command of its name does, with the same defaults.

Errors are those of `spectraldiff_runtime.errors`, all of them `SpectralDiffError`; warnings go to `warnings.warn`.
PyTorch is imported when a function that trains is called, and not before.
"""
