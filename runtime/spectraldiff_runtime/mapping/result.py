"""What a mapping returns."""

import base64
import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.formats.polygon_file import PatchCounts
from spectraldiff_runtime.output.preview import LARGEST, draw_preview, read_reduced


@dataclass(frozen=True)
class MapResult:
    """What `map_scene` did.

    Attributes
    ----------
    classes, confidence, probabilities
        As in `Block`, for the whole scene; None where written to a file or not asked for.
    out
        The class raster, if one was written.
    legend
        The model's classes.
    pixels
        Pixels of each value, 0..K.
    seconds
        Wall time from the first read to the last write.
    hectares_per_pixel
        None unless the scene has a projected CRS.
    profile
        One entry for each stage: what it did and what it waited for.
    skipped
        Whether the map was there already, so that nothing was done.
    clouds
        ``pixels`` of the scene that are cloudy, in its own rows and columns, and whether they were ``dropped``; None
        where the scene has no cloud mask.
    outside
        As in `Block`; None where written to a file or not read.
    unlike
        Pixels without a class because they are too far from the training classes; None where nobody asked.
    polygons
        What was written and left out, where the map consists of polygons.
    added
        Styles that were written for a map that was there already.
    notes
        How the bands in use were chosen, and each warning, one line each.
    """

    classes: NDArray[Any] | None
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    out: Path | None
    legend: tuple[LandCoverClass, ...]
    pixels: tuple[int, ...]
    height: int
    width: int
    seconds: float
    hectares_per_pixel: float | None
    profile: tuple[Mapping[str, Any], ...] = ()
    skipped: bool = False
    clouds: Mapping[str, Any] | None = None
    outside: NDArray[np.uint8] | None = None
    unlike: int | None = None
    notes: tuple[str, ...] = ()
    polygons: PatchCounts | None = None
    added: tuple[Path, ...] = ()

    @property
    def pixels_per_second(self) -> float:
        """Pixels of the scene for each second."""
        return self.height * self.width / max(self.seconds, 1e-9)

    @property
    def bottleneck(self) -> Mapping[str, Any] | None:
        """The stage that worked longest; None without a profile."""
        return max(self.profile, key=lambda stage: stage["busy_s"], default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, without the arrays, in types that JSON knows."""
        return {
            "out": None if self.out is None else str(self.out),
            "height": self.height,
            "width": self.width,
            "seconds": self.seconds,
            "pixels_per_second": self.pixels_per_second,
            "unclassified_pixels": self.pixels[0],
            "unlike_training_pixels": self.unlike,
            "skipped": self.skipped,
            "clouds": None if self.clouds is None else dict(self.clouds),
            "notes": list(self.notes),
            "polygons": None if self.polygons is None else asdict(self.polygons),
            "classes": [self._row(c) for c in self.legend],
            "profile": list(self.profile),
        }

    def _repr_html_(self) -> str:
        """Show the map with its legend in a notebook; of polygons, their number."""
        if self.polygons is not None:
            return f"<p>{html.escape(str(self.out))}: {self.polygons.patches:,} polygons</p>"
        size, buffer = f"{self.width:,} x {self.height:,} pixels", BytesIO()
        if self.out is None:
            assert self.classes is not None
            step = max(1, -(-max(self.classes.shape) // LARGEST))
            drawn = draw_preview(self.classes[::step, ::step], self.legend, "Class map", size)
        else:
            drawn = draw_preview(read_reduced(self.out, LARGEST)[0], self.legend, self.out.name, size)
        drawn.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return f'<img src="data:image/png;base64,{data}" alt="Class map" style="max-width: 100%">'

    def _row(self, c: LandCoverClass) -> dict[str, Any]:
        pixels, area = self.pixels[c.value], self.hectares_per_pixel
        return {
            "value": c.value,
            "name": c.name,
            "colour": list(c.colour),
            "pixels": pixels,
            "share": pixels / (self.height * self.width),
            "hectares": None if area is None else area * pixels,
        }
