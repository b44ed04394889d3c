"""The peak of a training, in a process of its own, does not depend on the size of the scene."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

CHILD = """
import resource, sys
from pathlib import Path
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.models.presets import FAST
from spectraldiff.models.settings import replaced
from spectraldiff.data.source import SceneFiles
from spectraldiff.training import session
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request

scene, labels, run = sys.argv[1:]
network = {"most_positions": 8, "stem_channels": 4, "channels": (6, 8, 8)}
preset = replaced(FAST, diffusion={"network": network, "steps": 3, "loop": {"batch": 4}},
    components={"most": 10, "bands": 4},
    classifier={"network": {"width": 16, "heads": 2, "mlp": 24}, "epochs": 1, "linear": FAST.classifier.linear[:2]},
    smoothing={"iterations": 2})
request = Request(preset, "per-class:100", 0, compare_raw=False, scenes=(SceneFiles(scene, (labels,)),), field="crop")
session.train(request, session.RunPlace(Path(run), threads=1), Monitor())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def vrt_of(path: Path, source: Path, side: int, bands: int) -> Path:
    """Write a VRT of `side` pixels a side with a small scene in its middle and nothing elsewhere."""
    at = side // 2
    size = 'xSize="600" ySize="600"'
    rects = f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{at}" yOff="{at}" {size}/>'
    each = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>{band}</SourceBand>{rects}</SimpleSource></VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    place = f"<SRS>EPSG:32616</SRS><GeoTransform>{-10 * at}, 10, 0, {10 * at}, 0, -10</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{place}{each}</VRTDataset>')
    return path


@pytest.mark.training
def test_a_scene_of_20000_pixels_a_side_takes_the_memory_of_its_part_with_labels(
    tmp_path: Path, subprocess_environment: dict[str, str]
):
    """Peaks of processes of their own; a byte for each pixel would be 400 MB."""
    rng, bands = np.random.default_rng(0), 2
    rows, columns = np.mgrid[:600, :600]
    truth = (rows // 100 + columns // 100) % 2
    cube = (60 + 60 * truth[..., None] * [1, 2] + rng.integers(0, 40, (600, 600, bands))).astype(np.uint8)
    profile = {"driver": "GTiff", "height": 600, "width": 600, "crs": "EPSG:32616", "nodata": 0}
    with rasterio.open(
        tmp_path / "small.tif",
        "w",
        count=bands,
        dtype="uint8",
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        **profile,
    ) as raster:
        raster.write(cube.transpose(2, 0, 1))
    points = [(r, c) for r in range(30, 600, 33) for c in range(30, 600, 33)][:300]
    features = [
        {
            "type": "Feature",
            "properties": {"crop": "ab"[truth[r, c]]},
            "geometry": {"type": "Point", "coordinates": [10 * c + 5, -10 * r - 5]},
        }
        for r, c in points
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    labels = tmp_path / "labels.geojson"
    labels.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    peaks = []
    for scene in (tmp_path / "small.tif", vrt_of(tmp_path / "large.vrt", tmp_path / "small.tif", 20_000, bands)):
        command = [sys.executable, "-c", CHILD, str(scene), str(labels), str(tmp_path / f"run-{scene.stem}")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=subprocess_environment)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    assert peaks[1] < peaks[0] + 250e6
