"""The options of `map_scene`, grouped by what they concern; each group checks its own values."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.geo.bounds import choose_window
from spectraldiff_runtime.geo.masks import Mask, open_mask
from spectraldiff_runtime.geo.raster_mask import Grid
from spectraldiff_runtime.geo.reprojection import Box
from spectraldiff_runtime.mapping.band_matching import fit_bands
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.sinks import Outputs, WriteOptions
from spectraldiff_runtime.products.product import no_cloud_mask
from spectraldiff_runtime.products.recognise import open_scene
from spectraldiff_runtime.scene.array import ArrayScene
from spectraldiff_runtime.scene.clouds import DROP, KEEP, CloudChoice, cloud_choice
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import ALL_BANDS, BandChoice, Scene, chosen_bands
from spectraldiff_runtime.tiling.memory_plan import FINISHING, GpuBudget, make_plan
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.validation import as_float, as_int, as_int_or_none, as_tuple, nodata_value
from spectraldiff_runtime.window import Window

if TYPE_CHECKING:
    from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions


@dataclass(frozen=True)
class SourceOptions:
    """How a scene is read: bands in use (None: all good ones), nodata value, whether bands are interpolated, clouds."""

    bands: BandChoice
    nodata: Nodata
    resample: bool
    clouds: CloudChoice = KEEP

    @classmethod
    def of(cls, bands: BandChoice, nodata: Nodata, resample: bool, clouds: CloudChoice = KEEP) -> "SourceOptions":
        """Check and convert what the user gave; UsageError for anything that is no number."""
        if bands is not None and not (isinstance(bands, str) and bands == ALL_BANDS):
            bands = as_tuple("bands", bands, as_int, "whole numbers, counted from 1, or 'all'")
        return cls(bands, nodata_value(nodata), bool(resample), cloud_choice(clouds))

    def open(
        self, scene: str | Path | NDArray[Any] | Scene, card: ModelCard, warn: Callable[[str], None]
    ) -> AbstractContextManager[Scene]:
        """Open a scene of any kind with the bands that the model needs."""
        if isinstance(scene, str | Path):
            return self.open_raster(scene, card, warn)
        if self.clouds == DROP:
            raise no_cloud_mask("an array")
        if isinstance(scene, np.ndarray):
            return nullcontext(self._fitted(self._array_scene(scene), card, warn))
        if not hasattr(scene, "read"):
            raise UsageError(
                f"the scene is a {type(scene).__name__}: wanted a raster's path, an array (H, W, B) or a Scene"
            )
        if self.bands is not None or self.nodata != NODATA_OF_FILE:
            raise UsageError("bands and nodata belong to the scene that was opened already: give them there")
        return nullcontext(self._fitted(scene, card, warn))

    def open_raster(
        self, path: str | Path, card: ModelCard, warn: Callable[[str], None]
    ) -> AbstractContextManager[Scene]:
        """Open a product or raster with the bands that the model needs; it is closed if they are not there."""
        scene = open_scene(path, self.bands, self.nodata, scaled=card.scaled, clouds=self.clouds)
        try:
            fitted: Any = self._fitted(scene, card, warn)
        except BaseException:
            scene.close()
            raise
        opened: AbstractContextManager[Scene] = fitted
        return opened

    def _array_scene(self, cube: NDArray[Any]) -> ArrayScene:
        scene = ArrayScene(cube, None if self.nodata == NODATA_OF_FILE else self.nodata)
        if self.bands is None or isinstance(self.bands, str):
            return scene
        return scene.select(chosen_bands(scene.name, cube.shape[2], self.bands))

    def _fitted(self, scene: Scene, card: ModelCard, warn: Callable[[str], None]) -> Scene:
        return fit_bands(card, scene, explicit=isinstance(self.bands, tuple), resample=self.resample, warn=warn)


@dataclass(frozen=True)
class Region:
    """The pixels of a scene to map: a window, and within it those inside a mask."""

    window: Window
    mask: Mask | None = None

    def touches(self, window: Window) -> bool:
        """Whether `window` may contain a pixel to map."""
        return self.mask is None or self.mask.touches(window)

    @property
    def inside(self) -> Callable[[Window], NDArray[np.bool_]] | None:
        """Function that returns which pixels of a window to map; None for all."""
        return None if self.mask is None else self.mask.inside

    def facts(self) -> dict[str, Any]:
        """Return what identifies the region."""
        w = self.window
        return {
            "window": [w.row0, w.row1, w.col0, w.col1],
            "mask": None if self.mask is None else self.mask.fingerprint(),
        }


@dataclass(frozen=True)
class RegionOptions:
    """The part of the scene to map, as the user named it: see `map_scene`."""

    window: tuple[int, int, int, int] | None = None
    bounds: Box | None = None
    bounds_crs: str | None = None
    mask: str | Path | None = None
    mask_values: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        window: tuple[int, int, int, int] | None,
        bounds: Box | None,
        bounds_crs: str | None,
        mask: str | Path | None,
        mask_values: Sequence[float] | None = None,
    ) -> "RegionOptions":
        """Check and convert what the user gave; UsageError for values that are no numbers, or without a mask."""
        if mask_values is None:
            return cls(window, bounds, bounds_crs, mask)
        if mask is None:
            raise UsageError("--mask-values was given without --mask: wanted both; add --mask QUALITY.tif")
        values = as_tuple("mask_values", mask_values, as_float, "numbers")
        return cls(window, bounds, bounds_crs, mask, values)

    def find(self, scene: Scene) -> Region:
        """Return the region in the scene's pixels; a mask alone gives the smallest window that contains it.

        Raises
        ------
        SceneError, UsageError
            As `choose_window` and `open_mask`.
        """
        height, width, place, name = scene.height, scene.width, scene.georeference, scene.name
        mask = None if self.mask is None else open_mask(self.mask, self.mask_values, Grid(place, height, width, name))
        if self.window is None and self.bounds is None and mask is not None:
            return Region(mask.window, mask)
        window = choose_window(
            height, width, place, name, bounds=self.bounds, bounds_crs=self.bounds_crs, window=self.window
        )
        return Region(window, mask)


@dataclass(frozen=True)
class ComputeOptions:
    """Memory, tiles and where to run."""

    max_memory: int
    tile: int | None
    batch: int | None
    cluster: "ClusterOptions | None"

    @classmethod
    def of(
        cls, max_memory: int, tile: int | None, batch: int | None, cluster: "ClusterOptions | None"
    ) -> "ComputeOptions":
        """Check and convert what the user gave; UsageError for what is no number or less than 1."""
        tile, batch = as_int_or_none("tile", tile), as_int_or_none("batch", batch)
        if (tile is not None and tile < 1) or (batch is not None and batch < 1):
            raise UsageError(f"tile is {tile} and batch is {batch}: wanted 1 or more")
        return cls(as_int("max_memory", max_memory), tile, batch, cluster)

    def plan(self, model: Model, scene: Scene, window: Window, held: int = 0, rasters: int = 0) -> Plan:
        """Return how the window is cut into strips and tiles that fit into memory.

        `held` bytes are taken, and `rasters` at the end by the process that makes them.
        """
        return make_plan(
            model.card, 2 * model.size + held, scene, window, max_memory=self.max_memory, tile=self.tile,
            batch=self.batch, gpu=gpu_budget(model, self.cluster), rasters=rasters,
        )  # fmt: skip

    def left_for_rasters(self, model: Model, held: int) -> int:
        """Return the bytes that the process may take which makes the rasters, where `held` are taken here."""
        return self.max_memory - FINISHING - 2 * model.size - held


def gpu_budget(model: Model, cluster: "ClusterOptions | None" = None) -> GpuBudget | None:
    """Return the GPU memory that tiles may take; local workers of a cluster share it, one run each."""
    if model.gpu is None:
        return None
    if cluster is None:
        return GpuBudget(model.gpu_memory, model.runs)
    return GpuBudget(model.gpu_memory, 1, cluster.workers or 1)


@dataclass(frozen=True)
class MapRequest:
    """All options of one map."""

    source: SourceOptions
    region: RegionOptions
    outputs: Outputs
    writing: WriteOptions
    compute: ComputeOptions
