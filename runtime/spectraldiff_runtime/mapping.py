"""From a scene to its class map: read, gather, infer, write.

`map_block` is the unit of work: a pure function of model, scene and window. `map_scene` runs it over a
scene, strip by strip, and hands the blocks to a sink.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .card import ModelCard
from .engine import Model
from .errors import SceneError, UsageError
from .kernels import gather_tiles, limit_threads
from .raster import RasterScene
from .results import Block as Block
from .results import MapResult as MapResult
from .results import side_by_side
from .scene import NODATA_OF_FILE, ArrayScene, Nodata, Scene
from .sinks import ArraySink, FileSink, Sink
from .tiling import Window, source_window, strips, tiles_of

# A strip of a wide scene is read in parts of about this many bytes.
READ_BYTES = 256 * 2**20


def map_scene(
    model: Model,
    scene: str | Path | NDArray[Any] | Scene,
    out: str | Path | None = None,
    *,
    confidence: bool | str | Path = False,
    probabilities: bool = False,
    preview: str | Path | None = None,
    tile: int = 64,
    batch: int = 1,
    bands: Sequence[int] | None = None,
    nodata: Nodata = NODATA_OF_FILE,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> MapResult:
    """Map a whole scene.

    Parameters
    ----------
    scene
        A raster's path, a cube (H, W, B) in raw units, or any `Scene`.
    out
        The GeoTIFF to write; None returns arrays instead.
    confidence
        The path of a float32 raster beside `out`, or True for an array where `out` is None.
    probabilities
        Whether to return an array (K, H, W); only where `out` is None.
    preview
        The path of a picture of the map with a legend, PNG or JPEG; only with `out`.
    tile, batch
        Output pixels along a tile's side, and tiles for each run of the model. The map does not depend
        on them.
    bands, nodata
        As in `RasterScene`; an array has no nodata value but the one given here.
    overwrite
        Whether outputs that exist are replaced.
    progress
        Called with the number of pixels done since the last call.
    warn
        Called with each warning; `warnings.warn` if None.

    Raises
    ------
    SceneError, OutputError, UsageError
        With nothing written and nothing left.
    """
    warn = warn or (lambda message: warnings.warn(message, stacklevel=3))
    _check_options(out, confidence, probabilities, preview, tile, batch)
    with _opened(scene, bands, nodata) as opened:
        check_fits(model.card, opened, warn)
        with _sink(model.card, opened, out, confidence, probabilities, preview, overwrite) as sink:
            start = time.perf_counter()
            pixels = _map_into(sink, model, opened, tile, batch, progress)
            whole = sink.finish()
            seconds = time.perf_counter() - start
    if not any(pixels[1:]):
        warn(f"no pixel of '{opened.name}' has data in all bands: the map is unclassified everywhere")
    return MapResult(
        None if whole is None else whole.classes,
        None if whole is None else whole.confidence,
        None if whole is None else whole.probabilities,
        None if out is None else Path(out),
        model.card.classes,
        pixels,
        opened.height,
        opened.width,
        seconds,
        opened.georeference.hectares_per_pixel,
    )


def map_block(
    model: Model,
    scene: Scene,
    window: Window,
    *,
    tile: int = 64,
    batch: int = 1,
    confidence: bool = False,
    probabilities: bool = False,
) -> Block:
    """Map a window of a scene; the result depends on model, scene and window alone.

    Tiles start at the window's corner. Those without any valid pixel are not run.
    """
    card, scene_size = model.card, (scene.height, scene.width)
    need = source_window(window, card.halo, *scene_size)
    data, origin = scene.read(need.row0, need.row1, need.col0, need.col1), (need.row0, need.col0)
    fill = np.array(card.fill, np.float32)
    block = Block.empty(window.height, window.width, len(card.classes), confidence, probabilities)
    for tiles in _batches(tiles_of(window, tile), batch):
        size = _padded_size(tiles[0], model.rectangular)
        inputs, valid = gather_tiles(data, origin, scene_size, tiles, card.halo, fill, scene.nodata, size)
        _classify(model, inputs, valid, tiles, window, block)
    return block


def check_fits(card: ModelCard, scene: Scene, warn: Callable[[str], None]) -> None:
    """Compare a scene with what the model was trained on.

    Raises
    ------
    SceneError
        The number of bands differs. Other wavelengths are a warning.
    """
    found = len(scene.bands)
    if found != card.bands:
        hint = f"choose {card.bands} of them with --bands, such as --bands 1-{card.bands}"
        if found < card.bands:
            hint = "map a scene of the sensor that the model was trained on, or choose others with --bands"
        raise SceneError(f"'{scene.name}' has {found} bands in use and the model wants {card.bands}: {hint}")
    difference = wavelength_difference(card, scene.wavelengths)
    if difference is not None:
        warn(f"'{scene.name}' {difference}: the map is likely to be wrong")


def wavelength_difference(card: ModelCard, wavelengths: NDArray[np.float64] | None) -> str | None:
    """Say how a scene's wavelengths (B,) in nm differ from the model's; None where they agree.

    They agree within the larger of 2 nm and half the model's typical band spacing, or where one of the
    two is unknown.
    """
    if card.wavelengths is None or wavelengths is None:
        return None
    own = np.array(card.wavelengths)
    spacing = float(np.median(np.abs(np.diff(own)))) if own.size > 1 else 0.0
    off = np.abs(wavelengths - own)
    worst = int(off.argmax())
    if off[worst] <= max(2.0, 0.5 * spacing):
        return None
    return (
        f"has other wavelengths than the model: band {worst + 1} in use is at {wavelengths[worst]:.1f} nm "
        f"and the model's at {own[worst]:.1f} nm (scene {wavelengths.min():.0f}-{wavelengths.max():.0f} nm, "
        f"model {own.min():.0f}-{own.max():.0f} nm)"
    )


def _check_options(
    out: str | Path | None,
    confidence: bool | str | Path,
    probabilities: bool,
    preview: str | Path | None,
    tile: int,
    batch: int,
) -> None:
    if tile < 1 or batch < 1:
        raise UsageError(f"tile is {tile} and batch is {batch}: wanted 1 or more")
    named = isinstance(confidence, str | Path)
    if out is None and (named or preview is not None):
        raise UsageError("a confidence or preview file was named without `out`: name the class raster too")
    if out is not None and (probabilities or confidence is True):
        raise UsageError("with `out`, confidence is a file's name and probabilities are not written")


def _opened(
    scene: str | Path | NDArray[Any] | Scene, bands: Sequence[int] | None, nodata: Nodata
) -> AbstractContextManager[Scene]:
    if isinstance(scene, str | Path):
        return RasterScene(scene, bands, nodata)
    if isinstance(scene, np.ndarray):
        cube = scene if bands is None else scene[:, :, np.array(bands) - 1]
        return nullcontext(ArrayScene(cube, None if nodata == NODATA_OF_FILE else nodata))
    if bands is not None or nodata != NODATA_OF_FILE:
        raise UsageError("bands and nodata belong to the scene that was opened already: give them there")
    return nullcontext(scene)


def _sink(
    card: ModelCard,
    scene: Scene,
    out: str | Path | None,
    confidence: bool | str | Path,
    probabilities: bool,
    preview: str | Path | None,
    overwrite: bool,
) -> Sink:
    if out is None:
        return ArraySink(card, scene, bool(confidence), probabilities)
    beside = None if isinstance(confidence, bool) else Path(confidence)
    return FileSink(card, scene, Path(out), beside, None if preview is None else Path(preview), overwrite)


def _map_into(
    sink: Sink, model: Model, scene: Scene, tile: int, batch: int, progress: Callable[[int], None] | None
) -> tuple[int, ...]:
    """Map strip by strip; return the number of pixels of each value, 0..K."""
    limit_threads(model.threads)
    pixels = np.zeros(len(model.card.classes) + 1, np.int64)
    for windows in strips(scene.height, scene.width, tile, _tiles_at_once(scene, tile, model.card.halo)):
        parts = []
        for window in windows:
            wanted = {"confidence": sink.confidence, "probabilities": sink.probabilities}
            parts.append(map_block(model, scene, window, tile=tile, batch=batch, **wanted))
            if progress is not None:
                progress(window.height * window.width)
        strip = side_by_side(parts)
        pixels += np.bincount(strip.classes.ravel(), minlength=pixels.size)
        sink.append(strip)
    return tuple(int(count) for count in pixels)


def _tiles_at_once(scene: Scene, tile: int, halo: int) -> int:
    rows = min(tile + 2 * halo, scene.height)
    tile_bytes = rows * tile * len(scene.bands) * scene.dtype.itemsize
    return int(max(1, READ_BYTES // tile_bytes))


def _batches(tiles: Sequence[Window], batch: int) -> Iterator[list[Window]]:
    """Yield tiles of equal size, at most `batch` at a time."""
    by_size: dict[tuple[int, int], list[Window]] = {}
    for tile in tiles:
        by_size.setdefault((tile.height, tile.width), []).append(tile)
    for same in by_size.values():
        for at in range(0, len(same), batch):
            yield same[at : at + batch]


def _padded_size(tile: Window, rectangular: bool) -> tuple[int, int]:
    """Return the size of the batch's output part: square where the graph takes nothing else."""
    side = max(tile.height, tile.width)
    return (tile.height, tile.width) if rectangular else (side, side)


def _classify(
    model: Model,
    inputs: NDArray[np.float32],
    valid: NDArray[np.bool_],
    tiles: Sequence[Window],
    window: Window,
    block: Block,
) -> None:
    """Run a batch and copy what is valid of it into `block`."""
    kept = np.flatnonzero(valid.any(axis=(1, 2)))
    if not kept.size:
        return
    predicted = model.run(
        inputs if kept.size == len(tiles) else inputs[kept],
        confidence=block.confidence is not None,
        probabilities=block.probabilities is not None,
    )
    results = [result for result in predicted if result is not None]
    for i, k in enumerate(kept.tolist()):
        tile, good = tiles[k], valid[k, : tiles[k].height, : tiles[k].width]
        rows = slice(tile.row0 - window.row0, tile.row1 - window.row0)
        cols = slice(tile.col0 - window.col0, tile.col1 - window.col0)
        for into, result in zip(block.layers(), results, strict=True):
            into[..., rows, cols] = np.where(good, result[i][..., : tile.height, : tile.width], 0)
