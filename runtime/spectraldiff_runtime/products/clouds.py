"""The layers of products that mark clouds: in the file of the spectra, or in files next to it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import GDAL_ERRORS, reason
from spectraldiff_runtime.products.hdf5_file import described, text
from spectraldiff_runtime.scene.open import open_dataset


@dataclass(frozen=True)
class CloudLayer:
    """A layer that marks clouds.

    Attributes
    ----------
    file
        GDAL's name of a raster, or the path of an HDF5 file.
    values
        The values that mark clouds.
    bands
        Its bands that do so, from 1.
    dataset
        The data set in an HDF5 file, (row, column) or (row, column, band); empty for a raster.
    local
        The local file that holds it.
    named
        Of an HDF5 file: the data set with the names of its bands, and a regular expression of those that mark clouds,
        whatever the case; they come before `bands`.
    """

    file: str
    values: tuple[int, ...]
    local: Path
    bands: tuple[int, ...] = (1,)
    dataset: str = ""
    named: tuple[str, str] | None = None

    def read(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return where there are clouds, (H, W) of `shape`.

        Raises
        ------
        SceneError
            It has another size than the scene, or cannot be read.
        """
        marks = self._in_hdf5(shape) if self.dataset else self._in_raster(shape)
        return np.asarray(np.isin(marks, self.values).any(axis=0))

    def _in_raster(self, shape: tuple[int, int]) -> Any:
        with open_dataset(self.file) as dataset:
            self._check(dataset.shape, dataset.count, shape)
            try:
                return dataset.read(list(self.bands))
            except GDAL_ERRORS as error:
                raise SceneError(
                    f"'{self.file}' cannot be read ({reason(error)}): it is damaged or cut short; copy or download it "
                    "again"
                ) from error

    def _in_hdf5(self, shape: tuple[int, int]) -> Any:
        with described(Path(self.file)) as file:
            data = file[self.dataset]
            if not isinstance(data, h5py.Dataset) or data.ndim not in (2, 3):
                raise ValueError(f"{self.dataset} is no layer")
            self._check(data.shape[:2], data.shape[2] if data.ndim == 3 else 1, shape)
            values = data[()].reshape(*data.shape[:2], -1)
            return np.stack([values[..., band - 1] for band in self._by_name(file) or self.bands])

    def _by_name(self, file: h5py.File) -> list[int]:
        """Return the bands whose names say that they mark clouds; none where bands have no names."""
        if self.named is None or self.named[0] not in file:
            return []
        names = [text(name) for name in file[self.named[0]][()]]
        return [i for i, name in enumerate(names, start=1) if re.search(self.named[1], name, re.IGNORECASE)]

    def _check(self, found: Any, count: int, wanted: tuple[int, int]) -> None:
        if tuple(found) != wanted or count < max(self.bands):
            raise SceneError(
                f"the cloud mask '{Path(self.file).name}' is {found[0]} x {found[1]} with {count} bands and its scene "
                f"{wanted[0]} x {wanted[1]}: wanted the files of one product as delivered"
            )


def read_clouds(layers: tuple[CloudLayer, ...], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where any of some layers marks clouds, (H, W) of `shape`."""
    return np.asarray(np.logical_or.reduce([layer.read(shape) for layer in layers]))
