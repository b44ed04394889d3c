"""Clouds of a scene, as its product marks them: counted, and left out where the user wants it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import UsageError

KEEP: Literal["keep"] = "keep"
DROP: Literal["drop"] = "drop"
CloudChoice = Literal["keep", "drop"]


@dataclass(frozen=True, eq=False)
class Clouds:
    """Where a scene's product says that there are clouds.

    Attributes
    ----------
    cloudy
        (H, W) bool, in the scene's own rows and columns.
    dropped
        Whether cloudy pixels count as pixels without data.
    files
        The local files that say so.
    """

    cloudy: NDArray[np.bool_]
    dropped: bool
    files: tuple[Path, ...] = ()

    @property
    def pixels(self) -> int:
        """How many pixels are cloudy."""
        return int(np.count_nonzero(self.cloudy))

    @property
    def note(self) -> str:
        """Say how many pixels are cloudy, and what becomes of them."""
        fate = "left out" if self.dropped else "kept; --clouds drop leaves them out"
        return f"{self.pixels:,} of {self.cloudy.size:,} pixels are cloudy by the product's mask: {fate}"

    def facts(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {"pixels": self.pixels, "dropped": self.dropped}


def hide_clouds(
    clouds: Clouds | None, known: NDArray[np.bool_] | None, row0: int, row1: int, col0: int, col1: int
) -> NDArray[np.bool_] | None:
    """Return where there is data, (h, w), without the clouds that are to be left out.

    Parameters
    ----------
    known
        What the scene's own mask says of that window; None without one.
    """
    if clouds is None or not clouds.dropped:
        return known
    clear = ~clouds.cloudy[row0:row1, col0:col1]
    return clear if known is None else known & clear


def cloud_choice(value: Any) -> CloudChoice:
    """Return ``"keep"`` or ``"drop"``; UsageError for anything else."""
    if value == KEEP:
        return KEEP
    if value == DROP:
        return DROP
    raise UsageError(f"clouds is {value!r}: wanted '{KEEP}' or '{DROP}'")
