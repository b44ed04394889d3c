"""What the Python functions return: plain dataclasses that a notebook shows as a picture with a table."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from spectraldiff.accuracy.assessment import Assessment
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneSource
from spectraldiff.training.run_folder import FIGURES, REPORT


@dataclass(frozen=True)
class OpenedScene(LabelledScene):
    """A labelled scene that knows where it was read, so that a run can read it again.

    Attributes
    ----------
    source
        Its files and how they were read, or the name of the benchmark scene.
    """

    source: SceneSource = field(default_factory=SceneSource)

    @classmethod
    def of(cls, scene: LabelledScene, source: SceneSource) -> "OpenedScene":
        """Return a scene with its source."""
        return cls(**{f.name: getattr(scene, f.name) for f in fields(LabelledScene)}, source=source)

    def _repr_html_(self) -> str:
        """Show the scene in false colour, and how many pixels each class labels."""
        import numpy as np

        from spectraldiff.accuracy.mapped_scene import look_of
        from spectraldiff.report import false_colour, html_page

        cube, wavelengths, valid = look_of(self)
        height, width, bands = self.cube.shape
        counts = np.bincount(self.labels[self.valid], minlength=len(self.classes) + 1)
        return html_page.render(
            "cell.html",
            title=self.name,
            line=f"{height:,} \N{MULTIPLICATION SIGN} {width:,} pixels, {bands} bands, {self.crs or 'no CRS'}",
            png=html_page.raster(false_colour.false_colour(cube, wavelengths, valid=valid)),
            table=html_page.Table(["Class", "Labelled pixels"], [[c, f"{counts[c.value]:,}"] for c in self.classes]),
        )


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes
    ----------
    path
        The run folder.
    metrics
        Its figures, as in its ``metrics.json``: ``metrics["accuracy"]["oa"]`` is the overall accuracy, 0..1.
    """

    path: Path
    metrics: dict[str, Any] = field(repr=False)

    @property
    def report(self) -> Path:
        """The report, a page of HTML."""
        return self.path / REPORT

    def __fspath__(self) -> str:
        """Return the folder's path: a run stands wherever its path does."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """Show the maps, and the accuracy of each class."""
        from spectraldiff.report import html_page

        accuracy, percent = self.metrics["accuracy"], html_page.percent_or_absent
        rows = [
            [one["name"], f"{one['training']:,}", f"{sum(row):,}", percent(share)]
            for one, share, row in zip(
                self.metrics["labels"], accuracy["per_class"], accuracy["confusion"], strict=True
            )
        ]
        maps = (self.path / FIGURES).glob("map*.png")  # of many scenes, some are drawn
        picture = min(maps, key=lambda path: (len(path.name), path.name), default=None)
        return html_page.render(
            "cell.html",
            title=f"Run {self.path}",
            line=f"OA {percent(accuracy['oa'])} %, AA {percent(accuracy['aa'])} %, split {self.metrics['split']}",
            png=None if picture is None else picture.read_bytes(),
            table=html_page.Table(["Class", "Training", "Scored", "Found, %"], rows),
        )


@dataclass(frozen=True)
class MapAccuracy(Assessment):
    """The accuracy of a map at labelled pixels; its figures are in `accuracy`, those of `Assessment`."""

    @classmethod
    def of(cls, found: Assessment) -> "MapAccuracy":
        """Return an assessment that a notebook shows."""
        return cls(**{f.name: getattr(found, f.name) for f in fields(Assessment)})

    def _repr_html_(self) -> str:
        """Show the map, and the accuracy of each class."""
        from spectraldiff.report import accuracy_report, figures, html_page

        accuracy = self.accuracy
        return html_page.render(
            "cell.html",
            title=f"OA {html_page.percent(accuracy.oa)} %, AA {html_page.percent(accuracy.aa)} %",
            line=f"kappa \N{MULTIPLICATION SIGN} 100: {html_page.percent(accuracy.kappa)}; {accuracy.pixels:,} pixels",
            png=html_page.raster(figures.paint(html_page.thinned(self.predicted), self.classes)),
            table=accuracy_report.scored_table(accuracy, self.classes),
        )


@dataclass(frozen=True)
class ReconstructionPictures:
    """The reverse process, drawn.

    Attributes
    ----------
    run
        The run folder.
    step
        The diffusion step that the process began at.
    noised, reconstructed
        Mean absolute difference to the original before and after, of values normalised to -1..1.
    strip, spectra
        The pictures, PNG.
    """

    run: Path
    step: int
    noised: float
    reconstructed: float
    strip: Path
    spectra: Path

    def _repr_html_(self) -> str:
        """Show the strip."""
        from spectraldiff.report import html_page

        return html_page.render(
            "cell.html",
            title=f"Reverse process from step {self.step}",
            line=f"mean error {self.noised:.4f} noised, {self.reconstructed:.4f} reconstructed",
            png=self.strip.read_bytes(),
            table=None,
        )
