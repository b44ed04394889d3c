"""Compare a training on a user's own files with one on the built-in data set, on the same pixels.

Indian Pines is written as a GeoTIFF, and its labels as polygons in another CRS (longitude and latitude) in a
GeoPackage. `sdiff train` on these two files, split by pixel with the same seed, must reach the accuracy of the built-in
data set to the last digit.

    python -m benchmarks.own_data --folder own                      # the default preset: two whole trainings
    python -m benchmarks.own_data --folder own --features raw --epochs 5
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.warp import transform as reproject
from rich.console import Console
from rich.table import Table

from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles
from spectraldiff.datasets import registry
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.training.compute import Compute, choose_compute
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import METRICS, RunFolder, create_run, write_pixels
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.classes import LandCoverClass

CRS = "EPSG:4326"
SAME = ("split", "labels", "accuracy", "calibration", "temperature", "losses")


def part_of(scene: LabelledScene, rows: slice, columns: slice) -> LabelledScene:
    """Return a part of a scene with the classes that occur in it, renumbered in the same order."""
    labels = scene.labels[rows, columns]
    values = [int(value) for value in np.unique(labels) if value]
    classes = tuple(
        LandCoverClass(new, scene.classes[old - 1].name, scene.classes[old - 1].colour)
        for new, old in enumerate(values, start=1)
    )
    numbers = np.searchsorted([0, *values], labels).astype(labels.dtype)
    assert scene.transform is not None
    moved = rasterio.Affine(*scene.transform) @ rasterio.Affine.translation(columns.start or 0, rows.start or 0)
    return replace(
        scene, cube=scene.cube[rows, columns], labels=numbers, classes=classes, transform=tuple(moved)[:6]
    )  # fmt: skip


def write_polygons(scene: LabelledScene, path: Path) -> None:
    """Write the labels as polygons in `CRS`: their classes as numbers and names, and the classes' colours.

    Edges are cut into pieces of at most two pixels, so that they stay straight on the scene's grid.
    """
    assert scene.transform is not None
    place = rasterio.Affine(*scene.transform)
    found = list(shapes(scene.labels.astype(np.int32), scene.labels > 0, transform=place))
    classes = [scene.classes[int(value) - 1] for _, value in found]
    geometries = [
        shapely.transform(
            shapely.segmentize(shapely.geometry.shape(area), 2 * place.a),
            lambda points: np.stack(reproject(scene.crs, CRS, *points.T.tolist()), 1),
        )
        for area, _ in found
    ]
    fields: dict[str, Any] = {
        "code": np.array([c.value for c in classes]),
        "crop": np.array([c.name for c in classes], dtype=object),
        "colour": np.array(["#" + bytes(c.colour).hex() for c in classes], dtype=object),
    }
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(geometries)), list(fields.values()), list(fields), crs=CRS, layer="fields",
        geometry_type="Unknown",
    )  # fmt: skip


def train_both(
    scene: LabelledScene, folder: Path, preset: Preset, split: str, seed: int, compute: Compute
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Train on a scene in memory and on its files; return the metrics of both runs."""
    folder.mkdir(parents=True, exist_ok=True)
    scene.write(folder / "scene.tif", overwrite=True)
    (folder / "labels.gpkg").unlink(missing_ok=True)
    write_polygons(scene, folder / "labels.gpkg")
    files = SceneFiles(str(folder / "scene.tif"), (str(folder / "labels.gpkg"),))
    request = Request(
        preset, split, seed, compare_raw=False, scenes=(files,), field="code", name_field="crop", split_by="pixel"
    )
    own = request.load_scene()
    return _train(scene, request, folder / "built-in", compute), _train(own, request, folder / "own", compute)


def _train(scene: LabelledScene, request: Request, path: Path, compute: Compute) -> Mapping[str, Any]:
    split, run = request.make_split(scene), create_run(path)
    write_pixels(run, scene, split)
    Training(run, scene, split, request.preset, request.seed, compute).finish(command=request.command())
    return RunFolder(path).read_json(METRICS)


def main() -> None:
    """Train twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="files and runs go here")
    parser.add_argument("--split", default="per-class:30")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", choices=("diffusion", "raw"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--diffusion-steps", type=int)
    options = parser.parse_args()
    changes = {name: getattr(options, name) for name in ("features", "epochs", "diffusion_steps")}
    preset, compute = FAST.changed(**changes), choose_compute("auto")
    both = train_both(
        registry.load("indian-pines"), options.folder, preset, options.split, options.seed, compute
    )  # fmt: skip
    table = Table("Trained on", "OA", "AA", "kappa x 100", "ECE, %")
    for name, metrics in zip(("the built-in data set", "a GeoTIFF and a GeoPackage"), both, strict=True):
        figures = [metrics["accuracy"][key] for key in ("oa", "aa", "kappa")] + [metrics["calibration"]["ece"]]
        table.add_row(name, *(f"{100 * value:.4f}" for value in figures))
    Console().print(table)
    differ = [key for key in SAME if _plain(both[0][key]) != _plain(both[1][key])]
    Console().print(f"Different: {', '.join(differ)}" if differ else "All figures are equal.")


def _plain(value: Any) -> Any:
    """Return the counts of labels without the polygons, which only one of the two has."""
    return [{k: v for k, v in one.items() if k != "polygons"} for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
