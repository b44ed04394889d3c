"""How the tests train on the tiny scene's files, and labels of other kinds for it."""

from pathlib import Path

import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio import warp
from rasterio.features import shapes

from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.geotiff.class_raster import write_class_raster

RAW = ("--features", "raw", "--split", "per-class:8")  # trained soon
SHORT = ["--diffusion-steps", "2", "--epochs", "1", "--components", "5", "--device", "cpu"]


def own(files: tuple[Path, Path], *options: object) -> list[str]:
    return ["train", str(files[0]), "--labels", str(files[1]), *SHORT, *map(str, options)]


def labels_like(path: Path, labels: np.ndarray, scene: LabelledScene) -> Path:
    write_class_raster(path, labels, scene.classes, crs=scene.crs, transform=scene.transform)
    return path


def vector_labels(path, scene, crs="EPSG:4326"):
    """Write the scene's labels as polygons in another CRS, their classes as text."""
    transform = rasterio.Affine(*scene.transform)
    found = list(shapes(scene.labels, scene.labels > 0, transform=transform))
    areas = [shapely.segmentize(shapely.geometry.shape(area), 20) for area, _ in found]
    moved = [shapely.transform(a, lambda p: np.stack(warp.transform(scene.crs, crs, *p.T.tolist()), 1)) for a in areas]
    names = np.array([scene.classes[int(value) - 1].name for _, value in found], dtype=object)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(moved)), [names], ["cover"], crs=crs, layer="a", geometry_type="Polygon"
    )
    return path
