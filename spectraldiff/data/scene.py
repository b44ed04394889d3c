"""A labelled hyperspectral scene, in memory or on disk: cube, labels, classes, wavelengths and georeference.

Labels follow one rule everywhere: 0 is unlabelled, classes are 1..K, in uint8 (past 254 classes in uint16).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.canvas import LARGE, Canvas
from spectraldiff.data.cube import Room, SceneCube, missing_pixels
from spectraldiff.data.label_ground import Ground, check_class_count, read_on_ground
from spectraldiff.data.label_raster import sizes
from spectraldiff.data.label_reader import LabelFeatures, renumbered
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.scene_output import CubeOutput, scene_tags
from spectraldiff.data.statistics import statistics_of
from spectraldiff_runtime.atomic import Output, commit
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, OutputError, SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.encode import ArrayRaster
from spectraldiff_runtime.geotiff.spec import class_spec
from spectraldiff_runtime.limits import NAME
from spectraldiff_runtime.products.recognise import open_scene
from spectraldiff_runtime.scene.band_metadata import Scaling
from spectraldiff_runtime.scene.clouds import KEEP, CloudChoice, Clouds
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import BandChoice
from spectraldiff_runtime.window import Window


@dataclass(frozen=True)
class LabelledScene:
    """A hyperspectral scene with labels.

    Attributes
    ----------
    name
        Name in runs and reports.
    cube
        (H, W, B), raw units in the sensor's type (uint16, int16, float32): an array, or what stays on disk where a file
        holds more than `spectraldiff.data.cube.HELD` bytes. `read` reads either by window.
    labels
        (H, W) uint8 or uint16, 0 = unlabelled, 1..K.
    classes
        The K classes in order: value i + 1 at index i.
    wavelengths
        (B,) band centres in nm, in the order of the bands, not necessarily rising; None if not known.
    crs, transform
        CRS as an authority code or WKT, and the first six numbers of the affine transform; None if the
        scene has no georeference.
    nodata
        The value that marks missing pixels; None for none.
    missing
        (H, W) bool, True for additional pixels without data: from the raster's mask or alpha band, or from different
        nodata values of its bands. None for none.
    scaled
        Whether the cube holds stored value x scale + offset, as float32.
    sensor, attribution, note
        Instrument, whom to cite, and a note on the data; may be empty.
    groups
        (H, W) int32, from 1: the polygon that labels a pixel, 0 for none; None if no polygon labels a pixel.
    remarks
        Notes for the user on how the labels were read, one line each.
    grid
        Where a scene in sensor geometry lies on a map; None for any other.
    quantity
        What a product's physical values are, such as ``"surface reflectance"``; empty where it is not known.
    acquired
        When it was taken, as its product says; empty where it is not known.
    scaling
        Scale and offset of each band in the file; None where it has none.
    class_numbers
        (K,) number of each class in the file of the labels, None where that has a text; empty where it is not known.
    canvas
        Of a large scene, the parts of it that hold labels: `labels`, `groups` and `valid` are arrays on this, (h, w).
        None where they are those of the whole scene.
    part
        Whether reports map parts of it alone, and labels lie on a canvas, though it is small: others are read with it.
    features
        What each vector file of labels holds for the scene.
    numbers, band_names
        (B,) numbers of the bands in their file, from 1, None if they are those of the cube; and their names in the
        file, which may be empty.
    """

    name: str
    cube: Any
    labels: NDArray[Any]
    classes: tuple[LandCoverClass, ...]
    wavelengths: NDArray[np.float64] | None = None
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    nodata: float | None = None
    sensor: str = ""
    attribution: str = ""
    note: str = ""
    missing: NDArray[np.bool_] | None = None
    scaled: bool = False
    groups: NDArray[np.int32] | None = None
    remarks: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    band_names: tuple[str, ...] = ()
    file_bands: int | None = None
    fwhm: NDArray[np.float64] | None = None
    grid: LookupGrid | None = None
    quantity: str = ""
    class_numbers: tuple[int | None, ...] = ()
    acquired: str = ""
    scaling: Scaling | None = None
    canvas: Canvas | None = None
    part: bool = False
    features: tuple[LabelFeatures, ...] = ()

    def __post_init__(self) -> None:
        self._check_names()
        if self.cube.ndim != 3 or 0 in self.cube.shape:
            raise SceneError(f"the cube is {self.cube.shape}: wanted (height, width, bands), not empty")
        if self.labels.shape != (self.cube.shape[:2] if self.canvas is None else self.canvas.shape):
            raise LabelsError(sizes("the labels", self.labels.shape, "the scene", self.cube.shape))
        if self.missing is not None and self.missing.shape != self.cube.shape[:2]:
            raise SceneError(sizes("the mask", self.missing.shape, "the scene", self.cube.shape))
        if self.groups is not None and self.groups.shape != self.labels.shape:
            raise LabelsError(sizes("the polygons", self.groups.shape, "the scene", self.cube.shape))
        if self.wavelengths is not None and self.wavelengths.shape != self.cube.shape[2:]:
            found, wanted = self.wavelengths.size, self.cube.shape[2]
            raise SceneError(f"there are {found} wavelengths for {wanted} bands: give one for each band")
        if tuple(c.value for c in self.classes) != tuple(range(1, len(self.classes) + 1)):
            raise LabelsError("the classes have gaps or another order: wanted the values 1, 2, ... K")
        if self.labels.dtype not in (np.uint8, np.uint16) or self.labels.max() > len(self.classes):
            raise LabelsError(
                f"the labels are {self.labels.dtype} up to {self.labels.max()}: "
                f"wanted uint8 or uint16 from 0 to {len(self.classes)}, the number of classes"
            )

    def _check_names(self) -> None:
        """Refuse names that a model file does not take: before a training, not after it."""
        for what, name in (("the scene", self.name), *(("a class", c.name) for c in self.classes)):
            if len(name) > NAME:
                raise LabelsError(
                    f"{what} has a name of {len(name):,} characters ('{name[:40]}...'): wanted {NAME} at most; "
                    "shorten it"
                )

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W) bool: no band of the pixel is nodata, NaN or infinite, and the pixel is not in `missing`.

        On the canvas where the scene has one.
        """
        if self.large:
            return statistics_of(self).valid
        return self.read(Window(0, self.labels.shape[0], 0, self.labels.shape[1]))[1]

    @property
    def labels_with_data(self) -> NDArray[Any]:
        """The labels, 0 where a pixel has no data."""
        return np.where(self.valid, self.labels, 0).astype(self.labels.dtype)

    @property
    def large(self) -> bool:
        """Whether some parts stand for the scene where all would take long."""
        return isinstance(self.cube, SceneCube) or self.cube.shape[0] * self.cube.shape[1] > LARGE

    @property
    def labelled(self) -> bool:
        """Whether any pixel has a label; a scene without trains the denoiser alone."""
        return bool(self.labels.any())

    @property
    def parts(self) -> tuple[tuple[Window, tuple[int, int]], ...]:
        """The windows of the scene that labels are arrays of, each with row and column of its first pixel on these."""
        if self.canvas is not None:
            return self.canvas.parts
        return ((Window(0, self.cube.shape[0], 0, self.cube.shape[1]), (0, 0)),)

    def on_scene(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return row and column on the scene, (n, 2), of pixels of the label arrays."""
        return pixels if self.canvas is None else self.canvas.on_scene(pixels)

    def place(self, values: NDArray[Any], window: Window, found: NDArray[Any]) -> None:
        """Write what a window of the scene holds, (h, w), to its place in an array like the labels."""
        for outer, inner in self._shared(window):
            values[outer] = found[inner]

    def labels_in(self, window: Window, of: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the labels of a window of the scene, (h, w), or what another array like them holds there."""
        values, found = self.labels if of is None else of, np.zeros((window.height, window.width), np.int32)
        for outer, inner in self._shared(window):
            found[inner] = values[outer]
        return found

    def _shared(self, window: Window) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Yield what a window and the parts share: rows and columns of the label arrays, and of the window."""
        for part, (row, column) in self.parts:
            row0, row1 = max(part.row0, window.row0), min(part.row1, window.row1)
            col0, col1 = max(part.col0, window.col0), min(part.col1, window.col1)
            if row0 < row1 and col0 < col1:
                rows = slice(row + row0 - part.row0, row + row1 - part.row0)
                columns = slice(column + col0 - part.col0, column + col1 - part.col0)
                inner = slice(row0 - window.row0, row1 - window.row0), slice(col0 - window.col0, col1 - window.col0)
                yield (rows, columns), inner

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the values of a window of the scene, (h, w, B), and which of its pixels are valid, (h, w).

        Raises
        ------
        SceneError
            A file is damaged there, or cannot be reached any more.
        """
        if isinstance(self.cube, SceneCube):
            values, missing = self.cube.read(window)
        else:
            at = slice(window.row0, window.row1), slice(window.col0, window.col1)
            values, missing = self.cube[at], None if self.missing is None else self.missing[at]
        good = np.ones(values.shape[:2], np.bool_)
        if values.dtype.kind == "f":
            good &= np.isfinite(values).all(axis=-1)
        if self.nodata is not None:
            good &= (values != self.nodata).all(axis=-1)
        if missing is not None:
            good &= ~missing
        return values, good

    def band(self, index: int) -> str:
        """Return the number of the band at `index` of the cube and, if it has one, its name, for messages."""
        number = index + 1 if self.numbers is None else self.numbers[index]
        name = self.band_names[index] if self.band_names else ""
        return f"{number} ('{name}')" if name else str(number)

    @classmethod
    def from_files(
        cls,
        scene_path: str | Path,
        labels_path: str | Path | Sequence[str | Path],
        *,
        bands: BandChoice = None,
        nodata: Nodata = NODATA_OF_FILE,
        scaled: bool = False,
        clouds: CloudChoice = KEEP,
        fields: LabelFields | None = None,
        room: Room | None = None,
    ) -> "LabelledScene":
        """Read a scene from a raster, and its labels from a vector file or another raster.

        Parameters
        ----------
        scene_path
            A raster that GDAL reads, or a product as delivered.
        labels_path
            Polygons or points in a vector file, in any CRS; or a raster with one band of whole numbers 0..65535, its
            nodata value counted as 0, on any grid in the scene's CRS (`spectraldiff.data.label_reader`). Names and
            colours come from the file if it has them, else they are "Class 1", ... and default colours. Labels of
            several files are put together (`spectraldiff.data.merge_labels`).
        bands
            Numbers of the bands to use, from 1; by default all but those that the raster calls bad.
        nodata
            ``"file"`` for the raster's own values, a number to use instead, or None for none.
        scaled
            Apply the raster's scale and offset; the cube is then float32, with NaN for pixels without data.
        clouds
            Whether pixels that the product marks as cloudy are used (``"keep"``) or count as without data (``"drop"``).
        fields
            Fields and layer of a vector file.
        room
            Of all scenes of a training, what this one may take; it is taken from. None for a scene alone.

        Raises
        ------
        SceneError
            A raster cannot be read.
        UsageError
            The vector file does not have the field or layer.
        LabelsError
            The labels do not fit the scene, have other values, or have too few classes.
        """
        with open_scene(scene_path, bands, nodata, scaled=scaled, clouds=clouds) as raster:
            room = room or Room()
            part = not room.maps(raster.height * raster.width)
            again = partial(open_scene, scene_path, bands, nodata, scaled=scaled, clouds=clouds)
            cube, missing = _pixels(raster, again, None if part else room)
            place, wavelengths, value = raster.georeference, raster.wavelengths, raster.nodata
            numbers, tags, names, grid = raster.bands, raster.tags, raster.band_names, getattr(raster, "grid", None)
            sensor, said, count, fwhm = raster.sensor, (raster.note, *raster.warnings), raster.count, raster.fwhm
            marked, quantity, acquired, scaling = raster.clouds, raster.quantity, raster.acquired, raster.scaling
        paths = [labels_path] if isinstance(labels_path, str | Path) else list(labels_path)
        ground = Ground(cube.shape[:2], place, str(scene_path), grid, part=part)
        own, canvas = read_on_ground(paths, ground, fields, needed=room.least > 0)
        check_class_count([own.labels], own.classes, paths, room.least, own.remarks)
        return cls(
            name=Path(scene_path).stem,
            cube=cube,
            labels=own.labels,
            classes=own.classes,
            wavelengths=wavelengths,
            crs=None if place.crs is None else str(place.crs.to_string()),
            transform=None if place.transform is None else tuple(place.transform)[:6],
            nodata=None if isinstance(value, tuple) else value,
            missing=missing,
            scaled=scaled,
            sensor=sensor,
            attribution=tags.get("ATTRIBUTION", ""),
            note=tags.get("NOTE", ""),
            groups=own.groups,
            remarks=(
                *filter(None, [*said, _cloud_remark(marked, own.labels, canvas)]),
                *own.remarks,
                *(renumbered(own, paths[0]) if room.least else ()),
            ),
            numbers=numbers,
            file_bands=count,
            fwhm=fwhm,
            grid=grid,
            quantity=quantity,
            acquired=acquired,
            scaling=scaling,
            class_numbers=own.numbers,
            canvas=canvas,
            part=part,
            features=own.features,
            band_names=tuple(names[number - 1] for number in numbers),
        )

    def write(self, path: str | Path, *, labels: str | Path | None = None, overwrite: bool = False) -> None:
        """Write the scene as a GeoTIFF, with wavelengths, and its labels as a class raster.

        Parameters
        ----------
        path
            The GeoTIFF: tiled, compressed, wavelengths as band tags (``wavelength`` in nm and GDAL's
            ``CENTRAL_WAVELENGTH_UM``) and band descriptions.
        labels
            File for the labels, with class names and colours; not written by default.
        overwrite
            Replace files that exist.

        Raises
        ------
        OutputError
            A file exists and `overwrite` is not set, or it cannot be written. No partial file is left.
        """
        path, labels = Path(path), None if labels is None else Path(labels)
        if labels is not None and labels.resolve() == path.resolve():
            raise OutputError(f"scene and labels would both go to '{path}': give two names")
        place = Georeference.of(self.crs, self.transform)
        with ExitStack() as files:
            outputs: list[Output] = [files.enter_context(CubeOutput(self, path, overwrite))]
            if labels is not None:
                height, width = self.labels.shape
                spec = class_spec(height, width, self.classes, place, scene_tags(self))
                outputs.append(files.enter_context(ArrayRaster(labels, overwrite, self.labels, spec)))
            commit(outputs)


def _cloud_remark(clouds: Clouds | None, labels: NDArray[Any], canvas: Canvas | None) -> str:
    """Say how many pixels of a scene, and how many labelled ones, are cloudy; empty where nothing says so."""
    if clouds is None:
        return ""
    cloudy = clouds.cloudy if canvas is None else canvas.gathered(clouds.cloudy)
    return f"{clouds.note} (labelled: {int(np.count_nonzero(labels[cloudy])):,})"


def _pixels(raster: Any, again: Callable[[], Any], room: Room | None) -> tuple[Any, NDArray[np.bool_] | None]:
    """Return the cube of a raster and its missing pixels: read, or, without room for it, what reads it by window."""
    shape = raster.height, raster.width, len(raster.bands)
    if room is None or not room.holds(math.prod(shape) * raster.dtype.itemsize):
        return SceneCube(again), None
    cube, whole = np.empty(shape, raster.dtype), Window(0, raster.height, 0, raster.width)
    raster.read(0, raster.height, 0, raster.width, out=cube.transpose(2, 0, 1))
    return cube, missing_pixels(raster, cube, whole)
