"""Published figures of the paper, in percent; None is a figure that is not known here, printed as a dash."""

from collections.abc import Mapping
from dataclasses import dataclass

# Rows below the classes, in the order of the paper's tables.
MEASURES = ("oa", "aa", "kappa")
TITLES = {"oa": "OA", "aa": "AA", "kappa": "kappa x 100"}

# Table VI: layer indexes by timesteps.
GRID_LAYERS = (0, 1, 2)
GRID_TIMESTEPS = (5, 10, 100, 200)


@dataclass(frozen=True)
class Published:
    """Published accuracies of one method on one scene, percent."""

    oa: float | None = None
    aa: float | None = None
    kappa: float | None = None


UNKNOWN = Published()

# By data set, then by method: SpectralDiff from Table II, the same transformer on raw features from Table V.
_INDIAN_PINES = {"spectraldiff": Published(98.34, 93.33, 98.11), "raw": Published(oa=95.37)}
PUBLISHED: Mapping[str, Mapping[str, Published]] = {
    "indian-pines": _INDIAN_PINES,
    "indian-pines-ehu": _INDIAN_PINES,
}


def published(dataset: str, split: str, method: str) -> Published:
    """Return the paper's figures, which are for its own split only."""
    return PUBLISHED.get(dataset, {}).get(method, UNKNOWN) if split == "paper" else UNKNOWN
