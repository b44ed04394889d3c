"""A page to look at a map: over the true-colour scene, class by class, with the spectra behind each pixel.

The page is one HTML file with its own script. It loads nothing. What is too large for it is thinned out, and said.
"""

import base64
import json
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spectraldiff.accuracy.assessment import read_confidence
from spectraldiff.data.label_raster import ClassRaster, check_grids, read_class_raster
from spectraldiff.report.false_colour import false_colour, rgb_bands
from spectraldiff.report.html_page import hex_colour, render, write_page
from spectraldiff.report.true_colour import map_size, on_map, read_pixels
from spectraldiff_runtime.atomic import check_distinct, check_output
from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.products.recognise import open_scene
from spectraldiff_runtime.scene.raster import RasterScene

LONGEST = 1600  # pixels of the picture's longer side
LARGEST = 9_500_000  # bytes of a page
AT_ONCE = 1 << 25  # values of spectra that are held
NEAR = 1e-4  # of a pixel: how well two grids must fit


@dataclass(frozen=True)
class MapView:
    """What a page shows.

    Attributes
    ----------
    out
        The page.
    size
        Its bytes.
    picture_step, spectra_step
        The picture shows, and the page holds spectra of, every so many pixels along rows and columns.
    spectra
        Pixels with a spectrum.
    rounded
        The scene's type where the page holds its values as float32, such as ``"float64"``; else empty.
    """

    out: Path
    size: int
    picture_step: int
    spectra_step: int
    spectra: int
    rounded: str = ""


def write_view(
    classes: Path,
    scene: str | Path,
    out: Path,
    *,
    confidence: Path | None = None,
    probabilities: Path | None = None,
    overwrite: bool = False,
) -> MapView:
    """Write a page that shows a map over its scene.

    Parameters
    ----------
    classes
        The class raster; 0 is unclassified.
    scene
        The scene that was mapped, whole or in part: a product as delivered, or a raster.
    out
        The page, .html.
    confidence
        The map's confidence raster: 0..1, or whole percent where it holds integers.
    probabilities
        The map's probabilities, one band a class: the runner-up of a pixel is read from it. Without it, that is the
        class whose mean spectrum is closest, by the mean squared difference.
    overwrite
        Whether `out` may exist.

    Raises
    ------
    SceneError, LabelsError
        A file cannot be read, or does not lie on the map's grid.
    OutputError, UsageError
        `out` exists, cannot be written, or is no .html.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out is '{out}': wanted a page, such as view.html")
    check_output(out, overwrite)
    check_distinct({"--out": out}, [classes, Path(scene), *filter(None, (confidence, probabilities))])
    found = read_class_raster(classes)
    shape = (found.labels.shape[0], found.labels.shape[1])
    sure = None if confidence is None else read_confidence(confidence, shape, found.place)
    with open_scene(scene) as opened:
        check_distinct({"--out": out}, opened.files)
        part = _Part(opened, *_offset(opened, found, str(classes), str(scene)), *shape)
        steps = Steps(max(1, -(-max(shape) // LONGEST)), _least_step(shape, len(opened.bands)))
        picture = _picture(part, found, sure, steps.picture)
        room = LARGEST - sum(len(text) for text in picture.values() if isinstance(text, str))
        spectra = _Spectra.read(part, found, steps.spectra, 0.7 * room)
        runner_up = None if probabilities is None else _second(probabilities, found, spectra.step)
        content = {
            "picture": picture,
            "spectra": spectra.as_dict(sure, runner_up),
            "axis": _axis(opened),
            "transform": None if found.place.transform is None else list(found.place.transform)[:6],
            "crs": _crs_name(found.place),
            "classes": _legend(found),
        }
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = render("map_view.html", title=classes.name, scene=Path(scene).name, data=data, notes=_notes(spectra, steps))
    write_page(out, page, overwrite)
    return MapView(out, len(page.encode("utf-8")), steps.picture, spectra.step, spectra.count, spectra.rounded)


@dataclass(frozen=True)
class Steps:
    """Every how many pixels the picture is drawn and spectra are read."""

    picture: int
    spectra: int


@dataclass(frozen=True)
class _Part:
    """The part of a scene's map that a class raster shows."""

    scene: Any
    row0: int
    col0: int
    height: int
    width: int

    def read(self, step: int, bands: tuple[int, ...] | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return every step-th pixel, (h, w, B), and where there is data."""
        rows, columns = on_map(self.scene, self.row0, self.col0, self.height, self.width, step)
        return read_pixels(self.scene if bands is None else self.scene.select(bands), rows, columns)


@dataclass(frozen=True)
class _Spectra:
    """Spectra of every step-th pixel, and the mean of each class."""

    values: NDArray[Any]  # (h, w, B)
    known: NDArray[np.bool_]
    labels: NDArray[Any]  # (h, w)
    means: NDArray[np.float64]  # (K, B), NaN for classes without a pixel
    pixels: NDArray[np.int64]  # (K,) that the means are of
    step: int

    @property
    def count(self) -> int:
        return int(self.known.sum())

    @property
    def rounded(self) -> str:
        """The type of values that the page holds as float32; empty where it holds them as they are."""
        kind = self.values.dtype
        return kind.name if kind.itemsize > (4 if kind.kind in "iuf" else 0) else ""

    @classmethod
    def read(cls, part: _Part, found: ClassRaster, step: int, room: float) -> "_Spectra":
        """Read them, and keep as many as fit into so many bytes when they are compressed."""
        values, known = part.read(step)
        labels = np.where(known, found.labels[::step, ::step], 0)
        kinds = len(found.classes)
        pixels = np.bincount(labels.ravel(), minlength=kinds + 1)[1:]
        means = np.full((kinds, values.shape[2]), np.nan)
        for kind in np.flatnonzero(pixels):
            with np.errstate(invalid="ignore"):  # infinite values of both signs have no mean
                means[kind] = values[labels == kind + 1].mean(axis=0, dtype=np.float64)
        every = 1
        while every < max(labels.shape) and len(_packed(values[::every, ::every])) > room:
            every += 1
        thin = slice(None, None, every)
        return cls(values[thin, thin], known[thin, thin], labels[thin, thin], means, pixels, step * every)

    def closest(self) -> NDArray[np.int64]:
        """Return the class, 1..K, whose mean is closest to each spectrum, but for its own; (h, w), 0 for none."""
        spectra, own = self.values.reshape(-1, self.values.shape[2]).astype(np.float64), self.labels.ravel()
        known: NDArray[np.bool_] = np.asarray(np.isfinite(self.means).all(axis=1))
        means = np.where(known[:, None], self.means, 0)
        with np.errstate(invalid="ignore", over="ignore"):  # a spectrum with infinite values is close to no class
            far = (spectra**2).sum(1)[:, None] - 2 * spectra @ means.T + (means**2).sum(1)
        far[:, ~known] = np.inf
        inside = own > 0
        far[inside, own[inside] - 1] = np.inf
        best = np.where(inside & np.isfinite(far).any(axis=1), far.argmin(axis=1) + 1, 0)
        return best.reshape(self.labels.shape)

    def as_dict(self, sure: NDArray[np.float32] | None, second: NDArray[np.int64] | None) -> dict[str, Any]:
        """Return them as the page's script reads them."""
        with np.errstate(over="ignore"):
            values = self.values.astype(np.float32) if self.rounded or self.values.dtype.kind == "f" else self.values
        return {
            "step": self.step,
            "height": values.shape[0],
            "width": values.shape[1],
            "bands": values.shape[2],
            "type": values.dtype.newbyteorder("<").str[1:],
            "values": _base64(_packed(values)),
            "known": _base64(_packed(self.known.astype(np.uint8))),
            "labels": _base64(_packed(self.labels.astype("<u2"))),
            "second": _base64(_packed((self.closest() if second is None else second).astype("<u2"))),
            "secondOf": "mean spectrum" if second is None else "probability",
            "percent": _percent(sure, self.step),
            "means": [[float(f"{v:.6g}") for v in row] if np.isfinite(row).all() else None for row in self.means],
            "pixels": self.pixels.tolist(),
        }


def _least_step(shape: tuple[int, int], bands: int) -> int:
    """Return the smallest step with which the values of a map's spectra can be held."""
    step = 1
    while -(-shape[0] // step) * -(-shape[1] // step) * bands > AT_ONCE:
        step += 1
    return step


def _packed(values: NDArray[Any]) -> bytes:
    """Return values, little-endian, compressed as the browser's DecompressionStream("deflate") reads it.

    Bytes of equal weight stand together, which compresses them better.
    """
    plain = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    planes = plain.view(np.uint8).reshape(-1, plain.itemsize).T
    return zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _percent(sure: NDArray[np.float32] | None, step: int) -> str | None:
    """Return every step-th confidence in whole percent, as the page's script reads it; None for none."""
    return None if sure is None else _base64(_packed(np.rint(100 * sure[::step, ::step]).astype(np.uint8)))


def _picture(part: _Part, found: ClassRaster, sure: NDArray[np.float32] | None, step: int) -> dict[str, Any]:
    """Return the true-colour picture, and the classes and confidences above it."""
    scene = part.scene
    at = sorted(set(rgb_bands(len(scene.bands), scene.wavelengths)))  # of few bands, two may be one
    values, known = part.read(step, tuple(scene.bands[i] for i in at))
    waves = None if scene.wavelengths is None else scene.wavelengths[at]
    buffer = BytesIO()
    Image.fromarray(false_colour(values, waves, valid=known)).save(buffer, "JPEG", quality=88)
    labels = found.labels[::step, ::step]
    return {
        "step": step,
        "height": labels.shape[0],
        "width": labels.shape[1],
        "rows": part.height,
        "columns": part.width,
        "jpeg": _base64(buffer.getvalue()),
        "labels": _base64(_packed(labels.astype("<u2"))),
        "percent": _percent(sure, step),
    }


def _legend(found: ClassRaster) -> list[dict[str, Any]]:
    counts = np.bincount(found.labels.ravel(), minlength=len(found.classes) + 1)
    return [
        {"name": c.name, "colour": hex_colour(c.colour), "share": float(counts[c.value] / counts.sum())}
        for c in found.classes
    ]


def _axis(scene: Any) -> dict[str, Any]:
    """Return what stands below a spectrum: wavelengths in nm, or numbers of bands."""
    if scene.wavelengths is None:
        return {"title": "band", "values": list(scene.bands)}
    return {"title": "wavelength, nm", "values": [round(float(nm), 2) for nm in scene.wavelengths]}


def _crs_name(place: Georeference) -> str:
    return "" if place.crs is None else str(place.crs)[:60]


def _second(path: Path, found: ClassRaster, step: int) -> NDArray[np.int64]:
    """Return the class of the second highest probability of every step-th pixel, 1..K; 0 without data."""
    with RasterScene(path, nodata=None) as raster:
        if len(raster.bands) != len(found.classes):
            raise SceneError(
                f"'{path}' has {len(raster.bands)} bands and the map {len(found.classes)} classes: wanted the map's "
                "probabilities, as `sdiff map --probabilities` writes them"
            )
        shape = (raster.height, raster.width)
        check_grids("the probabilities", shape, raster.georeference, "the map", found.labels.shape, found.place)
        rows, columns = on_map(raster, 0, 0, *shape, step)
        values, known = read_pixels(raster, rows, columns)
    if values.shape[2] < 2:
        return np.zeros(values.shape[:2], np.int64)
    second = np.argsort(values, axis=2)[..., -2] + 1
    return np.where(known & (values.max(axis=2) > 0), second, 0)


def _offset(scene: Any, found: ClassRaster, classes: str, name: str) -> tuple[int, int]:
    """Return row and column of the scene's map where a class raster begins.

    Raises
    ------
    LabelsError
        It lies elsewhere, or on another grid.
    """
    grid = getattr(scene, "grid", None)
    place = scene.georeference if grid is None else grid.place
    height, width = map_size(scene)
    rows, columns = found.labels.shape
    row = col = 0
    if (rows, columns) != (height, width) and place.transform is not None and found.place.transform is not None:
        moved = ~place.transform @ found.place.transform
        col, row = round(moved.c), round(moved.f)
        one = max(abs(moved.a - 1), abs(moved.e - 1), abs(moved.b), abs(moved.d)) * max(rows, columns)
        inside = 0 <= row <= height - rows and 0 <= col <= width - columns
        if inside and max(one, abs(moved.c - col), abs(moved.f - row)) < NEAR:
            place = Georeference(place.crs, place.transform @ place.transform.translation(col, row))
            height, width = rows, columns
    check_grids(
        f"the pixels of '{classes}'", (rows, columns), found.place, f"the scene '{name}'", (height, width), place
    )
    return row, col


def _notes(spectra: _Spectra, steps: Steps) -> list[str]:
    """Say what was thinned out, and rounded."""
    notes = [f"The scene holds {spectra.rounded}: its values are shown as float32."] if spectra.rounded else []
    if steps.picture > 1:
        notes.append(f"The picture shows every {_ordinal(steps.picture)} pixel along rows and columns.")
    if spectra.step > 1:
        notes.append(
            f"Spectra are held of every {_ordinal(spectra.step)} pixel along rows and columns: a click goes to the "
            "nearest of them."
        )
    if steps.spectra > 1:
        notes.append(f"Mean spectra are those of every {_ordinal(steps.spectra)} pixel.")
    return notes


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"
