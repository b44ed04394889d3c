"""Where the products of the builders have clouds, and the file of EMIT that says so."""

from pathlib import Path

import h5py
import numpy as np


def cloudy(shape: tuple[int, int], part: int | None = None) -> np.ndarray:
    """Where there are clouds: a box, of which the upper (0) and lower (1) part are clouds of two kinds."""
    clouds = np.zeros(shape, bool)
    top, bottom = {None: (11, 16), 0: (11, 14), 1: (14, 16)}[part]
    clouds[top:bottom, 24:33] = True
    return clouds


def emit_mask(path: Path, valid: np.ndarray) -> None:
    """`EMIT_L2A_MASK_...nc`: float32 flags of the same pixels; water is no cloud."""
    names = [
        "Cloud flag",
        "Cirrus flag",
        "Water flag",
        "Spacecraft Flag",
        "Dilated Cloud Flag",
        "AOD550",
        "H2O (g cm-2)",
    ]
    flags = np.zeros((*valid.shape, len(names)), "float32")
    flags[..., 0], flags[..., 4], flags[..., 2] = cloudy(valid.shape, 0), cloudy(valid.shape, 1), 1
    with h5py.File(path, "w") as file:
        file["mask"], file["sensor_band_parameters/mask_bands"] = flags, names
        file["location/glt_x"] = np.zeros((2, 2), "int32")
        file.attrs.update(instrument=np.bytes_("EMIT"), title=np.bytes_("EMIT L2A Masks 60 m V001"))
