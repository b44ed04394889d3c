"""Training of hyperspectral land-cover classifiers with spectral-spatial diffusion features.

The method is that of Chen, Yue, Fang and Xia, *SpectralDiff: Hyperspectral Image Classification with
Spectral-Spatial Diffusion Models*, 2023. Nothing is imported here, so that each module stays cheap to load.
"""
