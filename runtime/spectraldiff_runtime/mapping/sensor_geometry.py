"""Scenes in sensor geometry: mapped as they are, and their maps gathered onto a grid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectraldiff_runtime.classes import class_dtype
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.mapping.request import Region
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.output.block import Block, RequestedLayers
from spectraldiff_runtime.output.gathered_sink import SIDE, GatheredSink
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.scene.clouds import Clouds
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.window import Window

# Bytes of the two indices that NumPy takes for each pixel that it gathers.
INDICES = 16


@dataclass(frozen=True)
class OnMap:
    """What a scene in sensor geometry is on the map: what the part to map, and the map's files, go by."""

    scene: Any
    grid: LookupGrid

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.scene.name)

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return self.grid.height

    @property
    def width(self) -> int:
        """Columns of the grid."""
        return self.grid.width

    @property
    def georeference(self) -> Georeference:
        """Where the grid lies."""
        return self.grid.place

    @property
    def files(self) -> tuple[Path, ...]:
        """The local files that the scene is read from."""
        return tuple(getattr(self.scene, "files", ()))

    @property
    def clouds(self) -> Clouds | None:
        """The scene's, in its own rows and columns."""
        clouds: Clouds | None = getattr(self.scene, "clouds", None)
        return clouds

    def fingerprint(self) -> dict[str, Any]:
        """Return the scene's."""
        facts: dict[str, Any] = self.scene.fingerprint()
        return facts


def on_map(scene: Scene) -> Any:
    """Return a scene as it lies on the map: itself, unless it is in sensor geometry."""
    grid = getattr(scene, "grid", None)
    return scene if grid is None else OnMap(scene, grid)


def sensor_region(scene: Scene, laid: Any, region: Region) -> Region:
    """Return the part of the scene itself that a part of its map takes: all of it in sensor geometry."""
    return region if laid is scene else Region(Window(0, scene.height, 0, scene.width))


def held_for_map(scene: Scene, laid: Any, card: ModelCard, wanted: RequestedLayers) -> int:
    """Return the bytes that are held to the end for the map of a scene in sensor geometry; 0 for any other.

    Its lookup table, the map as a whole, and what is gathered of it at once.
    """
    if laid is scene:
        return 0
    pixel = class_dtype(len(card.classes)).itemsize + wanted.asks_outside
    pixel += 4 * wanted.confidence + 4 * len(card.classes) * wanted.probabilities
    part = min(SIDE, int(laid.height)) * min(SIDE, int(laid.width))
    table = int(laid.grid.rows.nbytes) + int(laid.grid.columns.nbytes)
    return table + pixel * int(scene.height) * int(scene.width) + (2 * pixel + INDICES) * part


def gathered(sink: Sink, scene: Scene, laid: Any, region: Region, card: ModelCard, wanted: RequestedLayers) -> Sink:
    """Return a sink that takes the scene's own windows and gives `sink` those of the map."""
    if laid is scene:
        return sink
    whole = Block.empty(scene.height, scene.width, len(card.classes), wanted)
    return GatheredSink(sink, laid.grid, region.window, region.inside, whole)
