"""Where the windows of a map go: arrays in memory, or files that appear together at the end."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from spectraldiff_runtime.atomic import check_raster_name
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.formats.kinds import check_map_name, driver_of, is_polygons
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.limits import PIXELS
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.output.block import BEYOND_ALL, Block, RequestedLayers
from spectraldiff_runtime.output.pixel_counts import count_values as count_values
from spectraldiff_runtime.output.pixel_counts import counts
from spectraldiff_runtime.output.qgis_style import STYLED
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.validation import as_float, as_int
from spectraldiff_runtime.window import Window


class Sink(Protocol):
    """A context manager that takes windows of a map, in the scene's rows and columns and in any order."""

    plan: Plan | None

    @property
    def unlike(self) -> int | None:
        """Pixels too far from the training classes for a class, once it is finished; None where nobody asked."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def is_done(self, window: Window) -> bool:
        """Whether an earlier run has done this window."""
        ...

    def write(self, window: Window, block: Block | None) -> None:
        """Take a window; None where no pixel of it has a class."""
        ...

    def finish(self) -> tuple[Block | None, tuple[int, ...]]:
        """Make the result whole; return it if it is in memory, and the pixels of each value, 0..K."""
        ...


@dataclass(frozen=True)
class WriteOptions:
    """How files are written: their format, what happens to files that exist, and the bytes to make rasters with."""

    form: Format
    overwrite: bool = False
    resume: bool = False
    memory: int | None = None

    @classmethod
    def of(cls, form: Format, overwrite: bool, resume: bool) -> "WriteOptions":
        """Convert the format to Python's own numbers and texts, as JSON takes them."""
        options = {str(key): str(value) for key, value in form.options.items()}
        form = replace(form, blocksize=as_int("blocksize", form.blocksize), options=options)
        return cls(form, overwrite, resume)


@dataclass(frozen=True)
class Outputs:
    """Which layers are requested and the files that they go to; without `out`, arrays are returned."""

    out: Path | None
    requested: RequestedLayers
    confidence_path: Path | None = None
    probabilities_path: Path | None = None
    preview: Path | None = None
    percent: bool = False
    outside_path: Path | None = None
    qml: bool = False
    sieve: int = 0

    @classmethod
    def of(
        cls,
        out: str | Path | None,
        confidence: bool | str | Path,
        probabilities: bool | str | Path,
        preview: str | Path | None,
        percent: bool = False,
        min_confidence: float = 0.0,
        outside: bool | str | Path = False,
        max_outside: int = BEYOND_ALL,
    ) -> "Outputs":
        """Check what the user gave.

        Raises
        ------
        UsageError
            Options that exclude each other, or a least confidence outside 0..1.
        OutputError
            A file name with an unknown suffix.
        """
        target = _path(out)
        named = [value for value in (confidence, probabilities, preview, outside) if isinstance(value, str | Path)]
        if out is None and (named or percent):
            raise UsageError("an additional file was requested without `out`: name the class raster too")
        if out is not None and any(value is True for value in (confidence, probabilities, outside)):
            raise UsageError("with `out`, confidence, probabilities and outside are the names of files")
        least, most = _checked_confidence(min_confidence), _checked_outside(max_outside)
        sure = bool(confidence) or is_polygons(target)  # polygons have their mean confidence
        requested = RequestedLayers(sure, bool(probabilities), least, bool(outside), most)
        surely, shares, picture, far = (_path(value) for value in (confidence, probabilities, preview, outside))
        outputs = cls(target, requested, surely, shares, picture, bool(percent), far)
        for option, path in outputs.rasters().items():
            if path is target:
                check_map_name(path)
            else:
                check_raster_name(option, path)
        return outputs

    def sieved(self, sieve: int) -> "Outputs":
        """Return the same without patches of fewer pixels; UsageError for anything but polygons."""
        least = as_int("sieve", sieve)
        if least < 0 or (least and not is_polygons(self.out)):
            raise UsageError(
                f"sieve is {least}: wanted the fewest pixels of a polygon, with a map such as classes.gpkg"
            )
        if least > PIXELS:
            raise UsageError(f"sieve is {str(least)[:20]}: wanted at most the pixels of the largest scene, {PIXELS:,}")
        return replace(self, sieve=least)

    def styled(self, qml: bool) -> "Outputs":
        """Return the same with styles for QGIS, if asked for; UsageError without files."""
        if qml and self.out is None:
            raise UsageError("styles were requested without `out`: name the class raster too")
        return replace(self, qml=bool(qml))

    def rasters(self) -> dict[str, Path]:
        """Return the map's layers by the option that names them, the classes first: rasters, or polygons."""
        named = {
            "--out": self.out,
            "--confidence": self.confidence_path,
            "--probabilities": self.probabilities_path,
            "--outside": self.outside_path,
        }
        return {option: path for option, path in named.items() if path is not None}

    def styles(self) -> dict[str, Path]:
        """Return the styles by the option that names the raster that each is for."""
        rasters = self.rasters() if self.qml else {}
        return {option: rasters[option].with_suffix(".qml") for option in STYLED if option in rasters}

    def paths(self) -> dict[str, Path]:
        """Return all files by the option that asks for them, the class raster first."""
        picture = {} if self.preview is None else {"--preview": self.preview}
        styles = {f"--qml for {option}": path for option, path in self.styles().items()}
        return self.rasters() | picture | styles

    def facts(self) -> dict[str, Any]:
        """Return what the files' contents depend on."""
        options = sorted(self.rasters())
        most = self.requested.max_outside
        more: dict[str, Any] = {} if most == BEYOND_ALL else {"most outside": most}
        if self.out is not None and driver_of(self.out) != "GTiff":
            more |= {"format of the classes": driver_of(self.out), "sieve": self.sieve}
        return {"set of outputs": options, "confidence type": "uint8" if self.percent else "float32", **more}


def _checked_confidence(value: float) -> float:
    least = as_float("min_confidence", value)
    if not 0 <= least <= 1:
        raise UsageError(f"the least confidence is {least:g}: wanted a number from 0 to 1")
    return least


def _checked_outside(value: int) -> int:
    most = as_int("max_outside", value)
    if not 0 <= most <= BEYOND_ALL:
        raise UsageError(f"max_outside is {most}: wanted a whole percentage from 0 to {BEYOND_ALL}")
    return most


def _path(value: bool | str | Path | None) -> Path | None:
    return Path(value) if isinstance(value, str | Path) else None


class ArraySink:
    """Keeps a map in memory."""

    plan: Plan | None = None

    def __init__(self, card: ModelCard, window: Window, requested: RequestedLayers) -> None:
        self._window = window
        size = window.height, window.width
        self._map, self._requested = Block.empty(*size, len(card.classes), requested), requested
        self._values = len(card.classes) + 1

    @property
    def unlike(self) -> int | None:
        """Pixels too far from the training classes for a class."""
        outside = self._map.outside
        return None if outside is None else int(self._requested.unlike(outside).sum())

    def is_done(self, window: Window) -> bool:
        """Return False: nothing is there yet."""
        return False

    def write(self, window: Window, block: Block | None) -> None:
        """Copy a window."""
        if block is not None:
            self._map.paste(block, window.row0 - self._window.row0, window.col0 - self._window.col0)

    def finish(self) -> tuple[Block, tuple[int, ...]]:
        """Return the whole map."""
        return self._map, counts([self._map.classes], self._values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
