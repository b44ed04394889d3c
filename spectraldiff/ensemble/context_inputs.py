"""What linear members read at the training pixels: feature vectors after a mean over a window, or after smoothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spectraldiff.ensemble.mosaic import ComputedMosaic, Layout, Mosaic
from spectraldiff.models.linear_members import PixelContext, mean_filter
from spectraldiff.models.padding import Pixels, cropped, mirrored
from spectraldiff.models.pca import PCA, fit_pca
from spectraldiff.models.score_smoothing import GUIDES, RADIUS, Smoothing, averaged, shares
from spectraldiff_runtime.window import Window

# Names of the feature maps that linear members read.
COMPONENTS, BANDS, BAND_COMPONENTS = "components", "bands", "band components"
KERNEL_FEATURES = 128  # random features of a kernel
KERNEL_SCALE = 10 * (2 / KERNEL_FEATURES) ** 0.5  # a pixel's features have the length 10, which suits the penalties
TILE = 64  # pixels along the side of the tiles that training pixels are read in
NOISE_TILES = 16  # tiles that the noise covariance is taken from, at most
QUIET = 0.75  # share of the pairs of neighbours, the most similar ones, that count as noise


@dataclass(frozen=True)
class FeatureMap:
    """A map of feature vectors, and how they follow from the extractor's features.

    Attributes
    ----------
    values
        (H, W, P) mosaic of all scenes with their rims.
    weight, offset
        (P, D) and (P,) float64: values = weight @ features + offset.
    """

    values: Mosaic
    weight: NDArray[np.float64]
    offset: NDArray[np.float64]

    def fold(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight (K, D) and bias (K,) on the extractor's features of linear scores of this map's values."""
        return weight.T @ self.weight, bias + self.offset @ weight


@dataclass
class ContextInputs:
    """Reads feature maps at some pixels in any context; what was read is kept.

    Attributes
    ----------
    maps
        Feature maps of the same height and width, by name.
    pixels
        (n, 2) row and column on the mosaic.
    guides
        (H, W, G) guides of the smoothing.
    valid
        (H, W) bool, pixels of the mosaic that are pixels of a scene with data.
    samples
        Rows and columns of the parts that stand for the scenes; None for all.
    """

    maps: dict[str, FeatureMap]
    pixels: Tensor
    guides: Mosaic
    valid: Mosaic
    samples: Sequence[tuple[slice, slice]] | None = None
    _kept: dict[tuple[str, PixelContext], NDArray[np.float64]] = field(default_factory=dict)

    def read(self, name: str, contexts: Sequence[PixelContext]) -> list[NDArray[np.float64]]:
        """Return the feature vectors, (n, P) float64, of a map in each of some contexts."""
        missing = [context for context in contexts if (name, context) not in self._kept]
        if missing:
            found = self._read(self.maps[name].values, missing)
            self._kept |= {(name, context): values for context, values in zip(missing, found, strict=True)}
        return [self._kept[name, context] for context in contexts]

    def noise(self, name: str, window: int) -> NDArray[np.float64]:
        """Return the noise covariance, (P, P), of a map's means over a window: half that of neighbours' differences.

        It needs no labels: pixels side by side are mostly of one class. The largest quarter of the differences is left
        out. Tiles are spread evenly over the scenes. Without any pixels side by side it is the identity.
        """
        parts = [part for part in self.samples or self._parts() if self.valid[part].any()]
        chosen = parts[:: max(1, len(parts) // NOISE_TILES)][:NOISE_TILES]
        pairs = [pair for part in chosen for pair in self._pairs(name, window, part) if len(pair)]
        if not pairs:  # no two pixels with data lie side by side
            return np.eye(self.maps[name].values.shape[2])
        sizes = [np.square(pair, dtype=np.float64).mean(1) for pair in pairs]
        most = np.quantile(np.concatenate(sizes), QUIET)
        total, count = np.zeros((pairs[0].shape[1],) * 2), 0
        for pair, size in zip(pairs, sizes, strict=True):
            quiet = pair[size <= most].astype(np.float64)
            total += quiet.T @ quiet
            count += len(quiet)
        return total / (2 * count)

    def spread(self, most: int) -> Tensor:
        """Return row and column, (m, 2), of pixels with data that are spread evenly over the scenes, about `most`."""
        if isinstance(self.valid, Tensor):
            pixels = self.valid.nonzero()
        else:
            found = [(rows, columns, self.valid[rows, columns]) for rows, columns in self.samples or ()]
            pixels = torch.cat([one.nonzero() + torch.tensor([r.start, c.start]) for r, c, one in found])
            pixels = pixels.to(self.pixels.device)
        return pixels[:: max(1, len(pixels) // most)]

    def _parts(self) -> list[tuple[slice, slice]]:
        height, width = self.valid.shape
        corners = ((row, column) for row in range(0, height, TILE) for column in range(0, width, TILE))
        return [(slice(row, row + TILE), slice(column, column + TILE)) for row, column in corners]

    def _pairs(self, name: str, window: int, part: tuple[slice, slice]) -> Iterator[NDArray[Any]]:
        """Yield the differences of pixels side by side, both with data, of a part of the mosaic."""
        radius = window // 2
        values = self.maps[name].values[part].movedim(-1, 0)[None]
        if min(values.shape[2:]) <= 2 * radius + 1:
            return
        mean = mean_filter(values, window)[0].movedim(0, -1)  # (h, w, P)
        valid = cropped(self.valid[part], radius)
        for axis in (0, 1):
            size = valid.shape[axis] - 1
            both = valid.narrow(axis, 0, size) & valid.narrow(axis, 1, size)
            found = mean.narrow(axis, 0, size)[both] - mean.narrow(axis, 1, size)[both]
            yield found.cpu().numpy()

    def _read(self, values: Mosaic, contexts: Sequence[PixelContext]) -> list[NDArray[np.float64]]:
        found = [np.empty((len(self.pixels), values.shape[2])) for _ in contexts]
        tiles = torch.div(self.pixels, TILE, rounding_mode="floor")
        for tile in torch.unique(tiles, dim=0):
            inside = (tiles == tile).all(1)
            read = self._tile(values, self.pixels[inside], contexts)
            at = inside.cpu().numpy()
            for own, part in zip(found, read, strict=True):
                own[at] = part.double().cpu().numpy()
        return found

    def _tile(self, values: Mosaic, pixels: Tensor, contexts: Sequence[PixelContext]) -> list[Tensor]:
        """Return the values, (m, P) each, at pixels that lie near each other."""
        rim = max(context.radius + RADIUS * context.iterations for context in contexts)
        first, last = pixels.amin(0), pixels.amax(0)
        rows, columns = (slice(int(f) - rim, int(g) + rim + 1) for f, g in zip(first, last, strict=True))
        part = values[rows, columns].movedim(-1, 0)[None]  # (1, P, h, w)
        at = pixels - first
        most = max(context.iterations for context in contexts)
        smoothed = [part]
        if most:
            guides = self.guides[rows, columns].movedim(-1, 0)[None]
            weights = shares(cropped(guides, rim - RADIUS * most))  # (1, 5, 5, h', w')
            smoothed = [cropped(part, rim - RADIUS * most)]
            for step in range(most):
                smoothed.append(averaged(smoothed[-1], cropped(weights, RADIUS * step)))
        found = []
        for context in contexts:
            if context.iterations:
                one = cropped(smoothed[context.iterations], RADIUS * (most - context.iterations))
            else:
                one = mean_filter(cropped(part, rim - context.radius), context.window)
            found.append(one[0, :, at[:, 0], at[:, 1]].T)
        return found


def component_map(values: Mosaic, pca: PCA) -> FeatureMap:
    """Return the components of the features as a feature map, without those of the bands alone."""
    first = len(pca.components) - pca.band_components
    weight = pca.components[:first].double().cpu().numpy()
    return FeatureMap(first_of(values, first), weight, -weight @ pca.mean.double().cpu().numpy())


def band_maps(
    scenes: Sequence[Tensor], valid: Sequence[Tensor], rim: int, features: int, components: int
) -> dict[str, FeatureMap]:
    """Return the standardised bands, and their principal components, as feature maps.

    Parameters
    ----------
    scenes
        (B, H, W) normalised pixels each.
    valid
        (H, W) bool each.
    rim
        Pixels to add on each side of a scene.
    features
        D, of which the bands are the last B.
    components
        Principal components at most.
    """
    batches = [one[:, known].T for one, known in zip(scenes, valid, strict=True)]
    raw = mosaic_of([mirrored(one, rim).movedim(0, -1) for one in scenes])
    return {
        name: _band_map((raw - centre.float()) @ weight.float().T, weight, centre, features)
        for name, (weight, centre) in _band_weights(batches, components).items()
    }


def computed_band_maps(
    scenes: Sequence[Pixels],
    layout: Layout,
    samples: Sequence[tuple[int, Window]],
    features: int,
    components: int,
) -> dict[str, FeatureMap]:
    """Return the maps of `band_maps` as what is computed where it is read, for large scenes.

    Parameters
    ----------
    scenes, layout
        The scenes, and where they lie on the mosaic.
    samples
        The parts that mean, deviation and principal components are taken from: the number of a scene, and a window.
    features, components
        As of `band_maps`.
    """
    parts = [(scenes[index], (w.row0, w.row1, w.col0, w.col1)) for index, w in samples]
    batches = [scene.window(*edges)[:, scene.valid(*edges)].T for scene, edges in parts]

    def computed(weight: Tensor, centre: Tensor) -> ComputedMosaic:
        def read(rows: slice, columns: slice) -> Tensor:
            index, edges = layout.on_scene(rows, columns)
            return (scenes[index].window(*edges).movedim(0, -1) - centre.float()) @ weight.float().T

        return ComputedMosaic(layout.size, len(weight), read)

    return {
        name: _band_map(computed(weight, centre), weight, centre, features)
        for name, (weight, centre) in _band_weights(batches, components).items()
    }


def kernel_map(bands: FeatureMap, gamma: float, seed: int) -> FeatureMap:
    """Return random Fourier features of a Gaussian kernel as a feature map, computed where it is read.

    Its weight and offset give what the cosine is taken of. See `spectraldiff.models.linear_members.KernelMembers`.

    Parameters
    ----------
    bands
        The standardised bands.
    gamma
        Of the kernel, see `spectraldiff.models.settings.LinearMember`.
    seed
        Of the draw: the same for all widths.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    count = len(bands.weight)
    frequency = generator.standard_normal((KERNEL_FEATURES, count)) * np.sqrt(2 * gamma / count)
    phase = generator.uniform(0, 2 * np.pi, KERNEL_FEATURES)
    matrix, offset = torch.from_numpy(frequency.T).float(), torch.from_numpy(phase).float()

    def read(rows: slice, columns: slice) -> Tensor:
        part = bands.values[rows, columns]
        found: Tensor = torch.cos(part @ matrix.to(part.device) + offset.to(part.device)) * KERNEL_SCALE
        return found

    computed = ComputedMosaic(bands.values.shape, KERNEL_FEATURES, read)
    return FeatureMap(computed, frequency @ bands.weight, frequency @ bands.offset + phase)


def _band_weights(batches: Sequence[Tensor], components: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return weight (P, B) and centre (B,), float64, of both maps of the bands, from pixels (n, B) each."""
    pca = fit_pca(iter(batches), components)
    known = torch.cat(list(batches)).double()
    mean, deviation = known.mean(0), known.std(0)
    scale = torch.where(deviation > 0, 1 / deviation.clamp_min(1e-12), torch.zeros_like(deviation))
    return {BANDS: (torch.diag(scale), mean), BAND_COMPONENTS: (pca.components.double(), pca.mean.double())}


def _band_map(values: Mosaic, weight: Tensor, centre: Tensor, features: int) -> FeatureMap:
    whole = np.zeros((len(weight), features))
    whole[:, features - weight.shape[1] :] = weight.cpu().numpy()
    return FeatureMap(values, whole, -(weight @ centre).cpu().numpy())


def mosaic_of(maps: Sequence[Tensor]) -> Tensor:
    """Put maps, (h, w, P) each, below each other; narrower ones get zeros at the right."""
    width = max(one.shape[1] for one in maps)
    return torch.cat([F.pad(one, (0, 0, 0, width - one.shape[1])) for one in maps])


def guides_of(components: Mosaic, smoothing: Smoothing) -> Mosaic:
    """Return the guides, (H, W, G), of a mosaic of components (H, W, P)."""

    def guides(part: Tensor) -> Tensor:
        return smoothing.guides(part.movedim(-1, 0)[None])[0].movedim(0, -1)

    if isinstance(components, Tensor):
        return guides(components)
    channels = min(GUIDES, components.shape[2])
    return ComputedMosaic(components.shape, channels, lambda rows, columns: guides(components[rows, columns]))


def first_of(values: Mosaic, most: int) -> Mosaic:
    """Return the first `most` values of a mosaic (H, W, P), or all."""
    if isinstance(values, Tensor):
        return values[..., :most]
    channels = min(most, values.shape[2])
    return ComputedMosaic(values.shape, channels, lambda rows, columns: values[rows, columns][..., :most])


def padded_valid(valid: Sequence[Tensor], rim: int) -> Tensor:
    """Return where the mosaic of some scenes, each with a rim, holds pixels with data, (H, W) bool."""
    padded = [F.pad(one, (rim,) * 4) for one in valid]
    width = max(one.shape[1] for one in padded)
    return torch.cat([F.pad(one, (0, width - one.shape[1])) for one in padded])


def computed_valid(scenes: Sequence[Pixels], layout: Layout) -> Mosaic:
    """Return the same of large scenes, computed where it is read."""

    def read(rows: slice, columns: slice) -> Tensor:
        index, edges = layout.on_scene(rows, columns)
        return scenes[index].valid(*edges)

    return ComputedMosaic(layout.size, 0, read)
