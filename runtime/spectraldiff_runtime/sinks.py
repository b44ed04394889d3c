"""Where the blocks of a map go: arrays in memory, or files that appear together at the end."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from .card import ModelCard
from .geotiff import RasterOutput
from .interrupts import interrupts_held_back
from .outputs import Output, check_apart, commit
from .preview import PreviewOutput
from .results import Block
from .scene import Scene


class Sink(Protocol):
    """A context manager that takes blocks of the scene's full width, from top to bottom."""

    confidence: bool
    probabilities: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def append(self, block: Block) -> None:
        """Take the next rows."""
        ...

    def finish(self) -> Block | None:
        """Make the result whole; return it if it is in memory."""
        ...


class ArraySink:
    """Keeps a map in memory."""

    def __init__(self, card: ModelCard, scene: Scene, confidence: bool, probabilities: bool) -> None:
        self.confidence, self.probabilities = confidence, probabilities
        self._map = Block.empty(scene.height, scene.width, len(card.classes), confidence, probabilities)
        self._row = 0

    def append(self, block: Block) -> None:
        """Copy the next rows."""
        end = self._row + block.classes.shape[0]
        for whole, part in zip(self._map.layers(), block.layers(), strict=True):
            whole[..., self._row : end, :] = part
        self._row = end

    def finish(self) -> Block:
        """Return the whole map."""
        return self._map

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FileSink:
    """Writes a map to a class raster and, where asked for, a confidence raster and a picture.

    Raises
    ------
    OutputError
        A file exists, cannot be written, or is the scene itself.
    """

    probabilities = False

    def __init__(
        self,
        card: ModelCard,
        scene: Scene,
        out: Path,
        confidence: Path | None,
        preview: Path | None,
        overwrite: bool,
    ) -> None:
        paths = {"--out": out, "--confidence": confidence, "--preview": preview}
        inputs: Sequence[Path] = getattr(scene, "files", ())
        check_apart({option: path for option, path in paths.items() if path is not None}, inputs)
        self.confidence = confidence is not None
        self._card, self._scene, self._overwrite = card, scene, overwrite
        self._paths = out, confidence, preview
        self._rasters: list[RasterOutput] = []
        self._outputs: list[Output] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            with interrupts_held_back():  # a file that was made is also one that will be removed
                self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        out, confidence, preview = self._paths
        card, scene = self._card, self._scene
        size, place, tags = (scene.height, scene.width), scene.georeference, card_tags(card)
        classes = RasterOutput.of_classes(out, *size, card.classes, place, tags, self._overwrite)
        self._own(classes)
        if confidence is not None:
            self._own(RasterOutput.of_confidence(confidence, *size, place, tags, self._overwrite))
        if preview is not None:
            title = Path(scene.name).name
            self._own(PreviewOutput(preview, self._overwrite, classes.partial, card, title))

    def _own(self, output: RasterOutput | PreviewOutput) -> None:
        self._stack.enter_context(output)
        self._outputs.append(output)
        if isinstance(output, RasterOutput):
            self._rasters.append(output)

    def append(self, block: Block) -> None:
        """Write the next rows."""
        for raster, rows in zip(self._rasters, block.layers(), strict=True):
            raster.append(rows)

    def finish(self) -> None:
        """Finish all files and give them their names."""
        commit(self._outputs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def card_tags(card: ModelCard) -> dict[str, str]:
    """Return the tags that say in a map which model made it."""
    tags = {"SPECTRALDIFF_MODEL": card.name, "SPECTRALDIFF_PRESET": card.preset}
    if card.accuracy is not None:
        tags["SPECTRALDIFF_ACCURACY"] = json.dumps(dict(card.accuracy))
    return tags
