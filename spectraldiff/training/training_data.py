"""The scenes of a training as it reads them, and tiles of them that an export is checked on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectraldiff.accuracy.mapped_scene import Picture, look_of
from spectraldiff.data.canvas import BLOCK
from spectraldiff.data.cube import SceneCube
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.statistics import spread_blocks, statistics_of
from spectraldiff.ensemble.mosaic import MOST
from spectraldiff.ensemble.prior import OF_TRAINING_PIXELS, Prior
from spectraldiff.models.classifier import NO_OUTSIDE, WindowModel, no_layers, square
from spectraldiff.models.normaliser import NormalisedScene, Normaliser, common_normaliser, filled_window
from spectraldiff.splits.hold_out import groups_of
from spectraldiff.splits.split import Split
from spectraldiff.training.tasks import LEAST_BLOCKS, BlockPool
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.window import Window

SAMPLES = 16  # blocks that stand for large scenes
BANDS_AT_ONCE = 16
DRAWN = 64  # windows that are mapped for the picture of a large scene
POOL = 64 * 2**20  # bytes of the blocks that the denoiser's instances are cut from at a time
SAMPLE = 32  # output pixels along the side of a sample tile


@dataclass(frozen=True)
class TrainingData:
    """Scenes and splits as a training reads them.

    Attributes
    ----------
    scenes, splits
        The scenes, each with its split.
    normaliser, fill
        Of all scenes together; `fill` is their mean spectrum.
    pixels
        The normalised pixels of each scene, computed by window, on the training device.
    prior
        The shares of the classes that the map assumes.
    folder, memory
        Where features lie meanwhile that are more than so many bytes; None for memory.
    """

    scenes: tuple[LabelledScene, ...]
    splits: tuple[Split, ...]
    normaliser: Normaliser
    fill: Tensor
    pixels: tuple[NormalisedScene, ...]
    prior: Prior = OF_TRAINING_PIXELS
    folder: Path | None = None
    memory: int = MOST

    @classmethod
    def of(cls, scenes: tuple[LabelledScene, ...], splits: tuple[Split, ...], device: torch.device) -> "TrainingData":
        """Normalise scenes on a device."""
        normaliser, fill = common_normaliser(scenes)
        normaliser.to(device)
        return cls(scenes, splits, normaliser, fill, tuple(NormalisedScene(one, normaliser, fill) for one in scenes))

    @property
    def valid(self) -> tuple[Tensor, ...]:
        """(H, W) bool of each scene, on the training device."""
        return tuple(torch.from_numpy(scene.valid).to(self.normaliser.low.device) for scene in self.scenes)

    def samples(self) -> list[tuple[int, Window]]:
        """Return parts of the scenes that stand for all of them where they are large.

        SceneError where they hold one spectrum only: nothing can be learnt of how spectra differ.
        """
        found = spread_blocks(self.scenes, SAMPLES)
        spectra = [values[good] for values, good in (self.scenes[index].read(window) for index, window in found)]
        if all((one == spectra[0][0]).all() for one in spectra):
            raise SceneError(
                f"{len(found)} blocks that are spread evenly over the scenes hold the same spectrum in every pixel: "
                "where that is no measurement, give --nodata VALUE or correct the file"
            )
        return found

    @contextmanager
    def instances(self, seed: int) -> "Iterator[list[NormalisedScene | BlockPool]]":
        """Give what the denoiser's instances are cut from: scenes, and blocks of those that stay on disk."""
        on_disk = [one for one in self.pixels if isinstance(one.scene.cube, SceneCube)]
        with ThreadPoolExecutor(1) as reader:
            share, least = POOL // max(1, len(on_disk)), max(1, LEAST_BLOCKS // max(1, len(on_disk)))
            pools = {id(one): BlockPool(one, share, seed + at, reader, least) for at, one in enumerate(on_disk)}
            try:
                yield [pools.get(id(one), one) for one in self.pixels]
            finally:
                for pool in pools.values():
                    pool.close()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each normalised band, (B,): of all scenes, or of evenly spread blocks.

        Blocks stand for large scenes.
        """
        if any(scene.large for scene in self.scenes):
            parts = [self.scenes[index].read(window) for index, window in spread_blocks(self.scenes, 4 * SAMPLES)]
        else:
            parts = [(scene.cube, scene.valid) for scene in self.scenes]
        found = []
        for first in range(0, len(self.fill), BANDS_AT_ONCE):
            bands = slice(first, first + BANDS_AT_ONCE)
            some = [np.ascontiguousarray(cube[..., bands][good].T, np.float32) for cube, good in parts]
            raw = torch.from_numpy(np.concatenate(some, 1)).to(self.normaliser.low.device)  # (b, n)
            scale, shift = (one[bands, None] for one in self.normaliser.affine())
            known = raw * scale + shift
            found.append(torch.stack([known.mean(1), known.std(1)]))
        mean, std = torch.cat(found, 1)
        return mean, std

    @property
    def disjoint(self) -> bool:
        """Whether most test pixels of a scene are spatially disjoint from its training pixels."""
        return any(split.spatially_disjoint for split in self.splits)

    @property
    def folded(self) -> bool:
        """Whether all labelled pixels train, and folds of them are held out for the accuracy."""
        return all(split.folds is not None for split in self.splits)

    def fold_numbers(self) -> NDArray[np.int64]:
        """Return the fold, from 1, that holds out each training pixel, (n,); 0 for none."""
        found = [split.folds[split.train] for split in self.splits if split.folds is not None]
        return np.concatenate(found).astype(np.int64)

    def groups(self) -> int:
        """Return the number of training pixels or, on disjoint splits, of the groups that they form."""
        return len(np.unique(groups_of(self.scenes, self.splits)))


def pool_bytes(scenes: Sequence[LabelledScene]) -> int:
    """Return what blocks of scenes on disk take beyond `POOL` bytes, now and next: one of each is read at least."""
    on_disk = [scene.cube for scene in scenes if isinstance(scene.cube, SceneCube)]
    return 2 * max(0, sum(BLOCK**2 * cube.pixel for cube in on_disk) - POOL)


def drawn_in_part(
    model: WindowModel, scene: LabelledScene, report: Callable[[int, int], None] = lambda done, total: None
) -> Picture:
    """Map evenly spread windows of a large scene, for its picture; `report` gets windows done, and all."""
    cube, wavelengths, valid = look_of(scene)
    step, (height, width) = statistics_of(scene).look[2], valid.shape
    layers = no_layers((height, width), scene.labels.dtype, model.knows_outside)
    windows = [window for _, window in spread_blocks([scene], DRAWN)]
    for done, window in enumerate(windows, start=1):
        good = scene.read(window)[1]
        found = model.predict_window(scene, window, torch.zeros(model.classes))
        at, every = _thinned(window, step)
        for layer, part, nothing in zip(layers, found, (0, 0, 0, NO_OUTSIDE), strict=True):
            if layer is not None and part is not None:
                layer[at] = np.where(good, part, nothing)[every]
        report(done, len(windows))
    labels = np.zeros((height, width), scene.labels.dtype)
    pixels = np.argwhere(scene.labels > 0)
    places = scene.on_scene(pixels) // step
    labels[places[:, 0], places[:, 1]] = scene.labels[pixels[:, 0], pixels[:, 1]]
    share = sum(w.height * w.width for w in windows) / (scene.cube.shape[0] * scene.cube.shape[1])
    return Picture(
        cube, wavelengths, valid, labels, layers.classes, layers.confidence, layers.outside, len(windows), BLOCK, share
    )


def _thinned(window: Window, step: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where every so many rows and columns of a window lie among those of the scene, and which these are."""
    places, each = [], []
    for start, stop in ((window.row0, window.row1), (window.col0, window.col1)):
        first = -start % step
        places.append(slice((start + first) // step, -(-stop // step)))
        each.append(slice(first, None, step))
    return (places[0], places[1]), (each[0], each[1])


def sample_tiles(
    scenes: Sequence[LabelledScene], splits: Sequence[Split], fill: Tensor, halo: int
) -> tuple[Tensor, Tensor]:
    """Return tiles spread over the scenes, what an export is checked on, and the labels of their scored pixels.

    Returns
    -------
    tiles
        (9, B, T, T) float32 raw units, T = 2 halo + 32: three by three tiles, of each scene with scored pixels in turn,
        of many by evenly spread ones, mirrored and filled as in mapping.
    labels
        (9, 32, 32) int32, 0 where the accuracy of no pixel is measured.
    """
    side, tiles, labels, each = 2 * halo + SAMPLE, [], [], list(zip(scenes, splits, strict=True))
    each = [one for one in each if one[1].scored.any()] or each
    for index, (r, c) in enumerate((r, c) for r in (0, 1, 2) for c in (0, 1, 2)):
        scene, split = each[index % len(each) if len(each) <= 9 else index * len(each) // 9]
        window = _sample_window(scene, split, r, c)
        edges = window.row0 - halo, window.row1 + halo, window.col0 - halo, window.col1 + halo
        tiles.append(square(filled_window(scene, fill, *edges), side))
        tests = scene.labels_in(window, np.where(split.scored, scene.labels, 0))
        labels.append(square(torch.from_numpy(tests)[None], SAMPLE)[0])
    return torch.stack(tiles), torch.stack(labels)


def _sample_window(scene: LabelledScene, split: Split, row: int, column: int) -> Window:
    """Return the window of a sample tile: by its place among three by three, or, on a canvas, round a scored pixel."""
    height, width = scene.cube.shape[:2]
    top, left = (max(0, size - SAMPLE) * at // 2 for size, at in ((height, row), (width, column)))
    if scene.canvas is not None:
        pixels = np.argwhere(split.scored if split.scored.any() else scene.labels > 0)
        around = scene.on_scene(pixels[[(3 * row + column) * (len(pixels) - 1) // 8]])[0] - SAMPLE // 2
        top, left = (
            int(np.clip(at, 0, max(0, size - SAMPLE))) for at, size in zip(around, (height, width), strict=True)
        )
    return Window(top, min(top + SAMPLE, height), left, min(left + SAMPLE, width))
