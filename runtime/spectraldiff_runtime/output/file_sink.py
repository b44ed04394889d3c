"""Writes the layers of a map to files, with a journal."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.atomic import (
    SIDECARS,
    check_distinct,
    check_output,
    check_sidecars,
    check_writable,
    commit,
    partial_folder,
)
from spectraldiff_runtime.classes import class_dtype
from spectraldiff_runtime.errors import OutputError, UsageError
from spectraldiff_runtime.formats.kinds import check_classes, check_place, driver_of, is_polygons
from spectraldiff_runtime.formats.other_rasters import CLASS_RASTERS
from spectraldiff_runtime.formats.polygon_file import PolygonFile, RawMap
from spectraldiff_runtime.geo.georeference import window_georeference
from spectraldiff_runtime.geotiff.encode import EncodedRaster, check_blocksize, check_format
from spectraldiff_runtime.geotiff.spec import (
    Format,
    RasterSpec,
    class_spec,
    confidence_spec,
    outside_spec,
    probability_spec,
    raster_memory,
)
from spectraldiff_runtime.geotiff.transcoder import Transcoder
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.output.block import NO_OUTSIDE, Block
from spectraldiff_runtime.output.journal import Journal, has_unfinished_map
from spectraldiff_runtime.output.pixel_counts import counts, raw_chunks
from spectraldiff_runtime.output.preview import PreviewOutput, check_preview
from spectraldiff_runtime.output.provenance import difference_of, picture_record, record
from spectraldiff_runtime.output.qgis_style import StyleOutput
from spectraldiff_runtime.output.raw_layers import Layer
from spectraldiff_runtime.output.sinks import Outputs, WriteOptions
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.signals import interrupts_deferred
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window

_Finished = EncodedRaster | PolygonFile | PreviewOutput | StyleOutput

# The process that makes the rasters is started when this share of the pixels is left to be done.
LAST_SHARE = 0.1


class FileSink:
    """Writes a map to a class raster or polygons and, if requested, to further rasters and a picture.

    The map grows in raw files (see `journal`) and becomes rasters at the end.

    Parameters
    ----------
    inputs
        Files, in addition to the scene's, that must not be overwritten.

    Attributes
    ----------
    tile_done
        Called with the pixels of each part of the finished map that becomes polygons; None unless it is set.

    Raises
    ------
    OutputError
        A file exists, cannot be written, or is the scene itself; or there is an unfinished map.
    UsageError
        A creation option that GDAL does not know, or without a GeoTIFF.
    """

    def __init__(
        self,
        card: ModelCard,
        scene: Scene,
        window: Window,
        outputs: Outputs,
        writing: WriteOptions,
        facts: Mapping[str, Any],
        plan: Plan,
        inputs: Sequence[Path] = (),
    ) -> None:
        assert outputs.out is not None
        check_format(writing.form, {layer.dtype.name for layer in layers_of(card, outputs)})
        if writing.form.options and not any(driver_of(path) == "GTiff" for path in outputs.rasters().values()):
            raise UsageError("--co is for GeoTIFFs and none is written: leave it out")
        check_distinct(outputs.paths(), [*getattr(scene, "files", ()), *inputs])
        if outputs.preview is not None:
            check_preview(outputs.preview)
        check_classes(outputs.out, len(card.classes))
        check_place(outputs.out, scene.name, scene.georeference)
        self._card, self._scene, self._window, self._outputs, self._writing = card, scene, window, outputs, writing
        self._facts, self._first_plan = facts, plan
        self.tile_done: Callable[[int], None] | None = None
        self.plan: Plan | None = None
        self.unlike: int | None = None
        self._journal: Journal
        self._left = window.height * window.width
        self._stack, self._rastering = ExitStack(), ExitStack()
        self._named: set[Path] = set()
        self._transcoder: Transcoder | None = None

    def __enter__(self) -> Self:
        for path in self._outputs.paths().values():
            check_output(path, overwrite=True)
            check_writable(path)
        with ExitStack() as begun:
            with interrupts_deferred():  # a folder that was made is also one that will be removed
                self._journal = begun.enter_context(self._begin())
            if self._journal.published:
                self._named = self._published()
            self._check_names(self._journal.published)
            self.plan = self._plan_of_journal()
            begun.enter_context(self._rastering)
            self._stack = begun.pop_all()
        self._left -= self._journal.done_pixels
        return self

    def _published(self) -> set[Path]:
        """Return the outputs that an earlier run of this map has given their names before it was killed."""
        named = self._outputs.paths().items()
        return {p for _, p in named if p.exists() and difference_of(p, self._facts) is None}

    def _check_names(self, published: bool = False) -> None:
        """Refuse names that others have, and rasters next to which lie others' files."""
        overwrite = self._writing.overwrite
        for option, path in self._outputs.paths().items():
            if path not in self._named:
                check_output(path, overwrite)
                if option in self._outputs.rasters():
                    check_sidecars(path, overwrite, SIDECARS[:1] if published else ())  # that may be its own

    def _plan_of_journal(self) -> Plan:
        try:
            return Plan.of(self._journal.plan)
        except (TypeError, ValueError) as error:
            raise OutputError(
                f"the journal in '{self._journal.folder}' cannot be read: begin again with --overwrite"
            ) from error

    def _begin(self) -> Journal:
        out = self._outputs.out
        assert out is not None
        if not (self._writing.resume and has_unfinished_map(out)):
            self._check_owned()
            self._check_names()
        size = self._window.height, self._window.width
        return Journal(
            out, size, layers_of(self._card, self._outputs), self._facts, self._first_plan.as_dict(),
            resume=self._writing.resume, discard=self._writing.overwrite, outputs=list(self._outputs.paths().values()),
        )  # fmt: skip

    def _check_owned(self) -> None:
        """Refuse to resume where an output belongs to another map, and name the difference."""
        existing = [path for path in self._outputs.paths().values() if path.exists()]
        for path in existing if self._writing.resume and not self._writing.overwrite else ():
            found = difference_of(path, self._facts)
            if found is not None:
                raise OutputError(f"'{path}' {found}: choose another name, or replace it with --overwrite")

    def is_done(self, window: Window) -> bool:
        """Whether an earlier run has done this window."""
        return self._journal.is_done(self._own(window))

    def write(self, window: Window, block: Block | None) -> None:
        """Write a window, and its line in the journal when it has reached the disk."""
        values: dict[str, NDArray[Any]] = {}
        if block is not None:
            named = {
                "classes": block.classes,
                "confidence": block.confidence,
                "probabilities": block.probabilities,
                "outside": block.outside,
            }
            values = {name: array for name, array in named.items() if array is not None}
            if self._outputs.percent and block.confidence is not None:
                values["confidence"] = to_percent(block.confidence)
        self._journal.write(self._own(window), values)
        self._left -= window.height * window.width
        if (
            self._transcoder is None
            and self._has_rasters
            and self._left < LAST_SHARE * self._window.height * self._window.width
        ):
            self._transcoder = self._started()

    @property
    def _has_rasters(self) -> bool:
        return any(not is_polygons(path) for path in self._outputs.rasters().values())

    def _started(self) -> Transcoder:
        """Start the process that makes the rasters, so that it is ready when it is needed."""
        with interrupts_deferred():
            return self._rastering.enter_context(Transcoder(self._writing.memory))

    def _own(self, window: Window) -> Window:
        """Return a window in the map's rows and columns."""
        row, col = self._window.row0, self._window.col0
        return Window(window.row0 - row, window.row1 - row, window.col0 - col, window.col1 - col)

    def finish(self) -> tuple[None, tuple[int, ...]]:
        """Make rasters of the raw files and give them their names."""
        try:
            self._journal.sync()
            classes = raw_chunks(self._journal.raw("classes"), class_dtype(self._values - 1))
            with ExitStack() as files, ThreadPoolExecutor(1) as background:
                counted = background.submit(counts, classes, self._values)
                unlike = background.submit(self._count_unlike)
                outputs = self._finished(files)
                pixels, self.unlike = counted.result(), unlike.result()
                self._check_names(self._journal.published)
                self._journal.announce_publishing()
                with interrupts_deferred():
                    for output in outputs:
                        output.publish()
                    self._journal.remove()
        except (OSError, OutputError) as error:
            raise self._journal.failed(error) from error
        return None, pixels

    def _count_unlike(self) -> int | None:
        requested = self._outputs.requested
        if not requested.reads_outside:
            return None
        parts = raw_chunks(self._journal.raw("outside"), np.dtype(np.uint8))
        return sum(int(requested.unlike(part).sum()) for part in parts)

    @property
    def _values(self) -> int:
        return len(self._card.classes) + 1

    def _finished(self, files: ExitStack) -> list[_Finished]:
        """Write all files under other names."""
        outputs: list[_Finished] = []
        overwrite = self._writing.overwrite
        folders = {path: partial_folder(path) for path in self._outputs.paths().values() if path not in self._named}
        self._journal.announce_partials(list(folders.values()))
        layers = self._layers()
        for option, (path, raw, spec) in layers.items():
            if path not in folders:
                continue
            layer: EncodedRaster | PolygonFile
            if option == "--out" and is_polygons(path):
                layer = self._polygons(path, spec, folders[path])
            else:
                kind = CLASS_RASTERS[driver_of(path)] if option == "--out" else EncodedRaster
                self._transcoder = self._transcoder or self._started()
                layer = kind(path, overwrite, raw, spec, self._writing.form, folders[path], self._transcoder)
            _finish(files, outputs, layer)
        self._rastering.close()  # what the process holds goes before the picture is drawn
        preview = self._outputs.preview
        if preview is not None and preview in folders:
            title = Path(self._scene.name).name
            exif = picture_record(self._facts)
            _, raw, spec = layers["--out"]
            picture = PreviewOutput(preview, overwrite, raw, spec, self._card, title, folders[preview], exif)
            _finish(files, outputs, picture)
        for option, path in self._outputs.styles().items():
            if path in folders:
                style = style_output(
                    self._outputs, option, self._card, self._facts, overwrite=overwrite, folder=folders[path]
                )
                _finish(files, outputs, style)
        # The classes come last: where it is, all others are.
        return [*outputs[1:], *outputs[:1]]

    def _polygons(self, path: Path, spec: RasterSpec, folder: Path) -> PolygonFile:
        found = RawMap(self._journal.raw("classes"), self._journal.raw("confidence"), spec, self._outputs.percent)
        overwrite, sieve = self._writing.overwrite, self._outputs.sieve
        return PolygonFile(path, overwrite, folder, found, sieve, self.tile_done)

    def _layers(self) -> dict[str, tuple[Path, Path, RasterSpec]]:
        """Return the map's layers by the option that names them: file, raw file, and what it holds."""
        classes, outputs = self._card.classes, self._outputs
        size = self._window.height, self._window.width
        place = window_georeference(self._scene.georeference, self._window)
        tags = {**card_tags(self._card), **record(self._facts)}
        specs = {
            "--out": ("classes", class_spec(*size, classes, place, tags)),
            "--confidence": ("confidence", confidence_spec(*size, place, tags, percent=outputs.percent)),
            "--probabilities": ("probabilities", probability_spec(*size, classes, place, tags)),
            "--outside": ("outside", outside_spec(*size, place, tags)),
        }
        return {
            option: (path, self._journal.raw(specs[option][0]), specs[option][1])
            for option, path in outputs.rasters().items()
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _finish(files: ExitStack, outputs: list[_Finished], output: _Finished) -> None:
    with interrupts_deferred():  # a file that was made is also one that will be removed
        files.enter_context(output)
    output.finish()
    outputs.append(output)


def layers_of(card: ModelCard, outputs: Outputs) -> list[Layer]:
    """Return the raw files that a map grows in."""
    count = len(card.classes)
    layers = [Layer("classes", class_dtype(count))]
    if outputs.requested.confidence:
        layers.append(Layer("confidence", np.dtype(np.uint8 if outputs.percent else np.float32)))
    if outputs.requested.probabilities:
        layers.append(Layer("probabilities", np.dtype(np.float32), count))
    if outputs.requested.reads_outside:
        layers.append(Layer("outside", np.dtype(np.uint8), fill=NO_OUTSIDE))
    return layers


def memory_of_rasters(card: ModelCard, outputs: Outputs, form: Format) -> int:
    """Return the bytes that the process takes at least which makes the rasters of a map.

    UsageError where there are no tiles of the side that is asked for.
    """
    check_blocksize(form)  # before somebody is told to give it more memory
    return max(raster_memory(layer.count, layer.dtype.name, form) for layer in layers_of(card, outputs))


def to_percent(confidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return confidences as whole percent, at least 1 where there is any: 0 says that a pixel has no class."""
    return np.where(confidence > 0, np.maximum(np.rint(100 * confidence), 1), 0).astype(np.uint8)


def is_up_to_date(outputs: Outputs, facts: Mapping[str, Any]) -> bool:
    """Whether all files are there, each made from the same facts; styles may be missing, see `add_styles`."""
    if outputs.out is None or has_unfinished_map(outputs.out):
        return False
    styles = outputs.styles().values()
    there = [path for path in outputs.paths().values() if path.exists() or path not in styles]
    return all(path.exists() and difference_of(path, facts) is None for path in there)


def add_styles(outputs: Outputs, card: ModelCard, facts: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write the styles that are missing of a map that is there, and return them; OutputError."""
    missing = {option: path for option, path in outputs.styles().items() if not path.exists()}
    for option, path in missing.items():
        with style_output(outputs, option, card, facts, overwrite=False, folder=partial_folder(path)) as style:
            commit([style])
    return tuple(missing.values())


def style_output(
    outputs: Outputs, option: str, card: ModelCard, facts: Mapping[str, Any], *, overwrite: bool, folder: Path
) -> StyleOutput:
    """Return the style of the layer that an option names."""
    shown = "polygons" if option == "--out" and is_polygons(outputs.out) else option
    return StyleOutput(outputs.styles()[option], overwrite, folder, shown, card, outputs.percent, facts)


def card_tags(card: ModelCard) -> dict[str, str]:
    """Return the tags that say in a map which model made it."""
    tags = {"SPECTRALDIFF_MODEL": card.name, "SPECTRALDIFF_PRESET": card.preset}
    if card.accuracy is not None:
        tags["SPECTRALDIFF_ACCURACY"] = json.dumps(dict(card.accuracy))
    return tags
