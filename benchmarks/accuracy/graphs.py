"""Graphs of pixels for miniGCN (Hong et al. 2020): nearest neighbours by spectrum, weighted by similarity."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array
from sklearn.neighbors import kneighbors_graph

NEIGHBOURS = 10  # Hong et al. 2021
# Width of the Gaussian of the squared distance; assumed: the mean squared distance between neighbours.
SETTINGS = {"neighbours": NEIGHBOURS, "kernel": "gaussian, mean squared distance"}


def similarities(spectra: NDArray[np.float32], part: int) -> csr_array:
    """Return the symmetric similarities (n, n) between each pixel and its nearest neighbours, without itself.

    Parameters
    ----------
    spectra
        (n, B).
    part
        Pixels of one graph. Pixels of other parts are not neighbours, so time grows with n and not with n^2.
    """
    parts = [_similarities(spectra[start : start + part]) for start in range(0, len(spectra), part)]
    return csr_array(block_diag(parts))


def _similarities(spectra: NDArray[np.float32]) -> csr_array:
    neighbours = min(NEIGHBOURS, len(spectra) - 1)
    if neighbours < 1:
        return csr_array((len(spectra), len(spectra)), dtype=np.float32)
    graph = csr_array(kneighbors_graph(spectra, neighbours, mode="distance"))
    squared = graph.data.astype(np.float64) ** 2
    graph.data = np.exp(-squared / max(float(squared.mean()), np.finfo(np.float32).tiny)).astype(np.float32)
    return csr_array(graph.maximum(graph.T))


def normalised(adjacency: NDArray[Any]) -> NDArray[np.float32]:
    """Return D^-1/2 (A + I) D^-1/2 of similarities A, (n, n); D holds the row sums of A + I."""
    looped = adjacency + np.eye(len(adjacency), dtype=np.float32)
    scale = 1 / np.sqrt(looped.sum(1))
    return np.asarray(scale[:, None] * looped * scale, dtype=np.float32)
