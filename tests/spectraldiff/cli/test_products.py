"""Products as delivered go from labels to a map without a flag: trained, exported, mapped, and scored."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.scene import LabelledScene
from spectraldiff.training.request import Request
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.geo.georeference import apply_transform
from spectraldiff_runtime.geotiff.class_raster import read_classes, write_class_raster
from tests.runtime.products import builders
from tests.spectraldiff.cli.own_scene import SHORT

# Boxes of pixels on the map, and their class: columns and rows from, to.
BOXES = [
    ((10, 2, 18, 12), "Water"),
    ((20, 3, 30, 13), "Forest"),
    ((8, 14, 20, 24), "Water"),
    ((22, 15, 34, 26), "Forest"),
]

CLASSES = [LandCoverClass(1, "Forest", (0, 120, 0)), LandCoverClass(2, "Water", (0, 0, 200))]


def polygons(path, made):
    """Write the boxes as a vector file in the map's CRS."""
    t = made.transform
    shapes = [
        shapely.Polygon([apply_transform(t, x, y) for x, y in ((c0, r0), (c1, r0), (c1, r1), (c0, r1))])
        for (c0, r0, c1, r1), _ in BOXES
    ]
    names = np.array([name for _, name in BOXES], object)
    pyogrio.raw.write(path, shapely.to_wkb(np.array(shapes)), [names], ["cover"], geometry_type="Polygon", crs=made.crs)
    return path


def raster(path, made, shape):
    """Write the boxes as a label raster on the map's grid: Forest is 1, Water 2, in the order of their names."""
    labels = np.zeros(shape, np.uint8)
    for (c0, r0, c1, r1), name in BOXES:
        labels[r0:r1, c0:c1] = 1 if name == "Forest" else 2
    write_class_raster(path, labels, CLASSES, crs=made.crs, transform=tuple(made.transform)[:6])
    return labels


def map_shape(made):
    return made.valid.shape if made.extra is None else made.extra[0].shape


@pytest.mark.parametrize("name", builders.ALL)
def test_labels_of_both_kinds_lie_on_the_same_pixels(name, tmp_path):
    made = builders.ALL[name](tmp_path / "product")
    vector = LabelledScene.from_files(made.path, polygons(tmp_path / "l.gpkg", made), fields=LabelFields("cover"))
    on_map = raster(tmp_path / "l.tif", made, map_shape(made))
    drawn = LabelledScene.from_files(made.path, tmp_path / "l.tif")
    wanted = on_map
    if made.extra is not None:
        wanted = np.zeros(made.valid.shape, np.uint8)
        glt_y, glt_x = made.extra
        for row, col in np.argwhere((glt_y > 0) & (on_map > 0)):
            wanted[glt_y[row, col] - 1, glt_x[row, col] - 1] = on_map[row, col]
    np.testing.assert_array_equal(vector.labels, wanted)
    np.testing.assert_array_equal(drawn.labels, wanted)
    np.testing.assert_array_equal(vector.valid, made.valid)
    assert [c.name for c in vector.classes] == ["Forest", "Water"]
    assert vector.sensor == made.sensor
    assert ((vector.groups > 0) == (wanted > 0)).all()
    assert len(vector.wavelengths) == len(made.waves) - len(made.bad)
    if made.bad:
        assert f"{len(made.bad)} of {len(made.waves)} bands were left out" in vector.remarks[0]


def test_clouds_are_left_out_of_training(tmp_path):
    for name in ("enmap", "emit"):
        made = builders.ALL[name](tmp_path / name)
        labels = polygons(tmp_path / f"{name}.gpkg", made)
        kept = LabelledScene.from_files(made.path, labels, fields=LabelFields("cover"))
        scene = LabelledScene.from_files(made.path, labels, fields=LabelFields("cover"), clouds="drop")
        np.testing.assert_array_equal(kept.valid, made.valid)
        np.testing.assert_array_equal(scene.valid, made.valid & ~made.cloudy)
        labelled = np.count_nonzero(kept.labels[made.cloudy])
        assert labelled
        for one, fate in ((kept, "kept; --clouds drop leaves them out"), (scene, "left out")):
            assert one.remarks[1].endswith(f"cloudy by the product's mask: {fate} (labelled: {labelled})")


def test_a_training_keeps_its_choice_of_clouds(tiny_request):
    kept = Request.from_json(json.loads(json.dumps(replace(tiny_request, clouds="drop").to_json())))
    assert kept.source.clouds == "drop"
    assert "--clouds drop" in kept.command()
    assert "--clouds" in kept.source.options


def test_pixels_under_two_classes_are_left_unlabelled(tmp_path):
    made = builders.emit(tmp_path / "product")
    glt_y, glt_x = made.extra
    with h5py.File(made.path, "a") as file:  # two pixels of the map that are one of the scene
        file["location/glt_y"][10, 20], file["location/glt_x"][10, 20] = glt_y[10, 21], glt_x[10, 21]
    labels = np.zeros(glt_y.shape, np.uint8)
    labels[9:12, 15:21], labels[9:12, 21:28] = 1, 2
    write_class_raster(tmp_path / "l.tif", labels, CLASSES, crs=made.crs, transform=tuple(made.transform)[:6])
    scene = LabelledScene.from_files(made.path, tmp_path / "l.tif")
    assert scene.labels[glt_y[10, 21] - 1, glt_x[10, 21] - 1] == 0
    assert scene.labels[glt_y[10, 22] - 1, glt_x[10, 22] - 1] == 2
    assert any(remark.endswith("left unlabelled: 1") for remark in scene.remarks)


@pytest.mark.training
@pytest.mark.parametrize("name", ["emit", "enmap"])
def test_from_labels_to_a_map_without_a_flag(name, tmp_path, sdiff):
    made = builders.ALL[name](tmp_path / "product")
    labels = polygons(tmp_path / "labels.gpkg", made)
    run, model, out = tmp_path / "run", tmp_path / "model.onnx", tmp_path / "map.tif"
    code, shown, said = sdiff("train", made.path, "--labels", labels, "--field", "cover", "--run", run, "--json",
                              "--split", "per-class:20", "--features", "raw", *SHORT)  # fmt: skip
    assert code == 0, said
    assert "2 of 9 bands were left out" in said
    assert json.loads(shown)["train_pixels"] == 40
    code, _, said = sdiff("export", "--run", run, "--out", model)
    assert code == 0, said
    facts = json.loads(sdiff("info", model, "--json")[1])
    assert (facts["sensor"], facts["band_numbers"], facts["file_bands"]) == (made.sensor, "1-3,5-7,9", 9)
    for part in (made.path, made.path.parent):
        code, _, said = sdiff("map", part, "-m", model, "-o", out, "--overwrite")
        assert code == 0, said
        with rasterio.open(out) as dataset:
            found = dataset.read(1)
            assert dataset.shape == map_shape(made)
            assert dataset.crs.to_epsg() == int(made.crs.removeprefix("EPSG:"))
        there = made.valid
        if made.extra is not None:
            glt_y, glt_x = made.extra
            there = (glt_y > 0) & made.valid[glt_y - 1, glt_x - 1]
        np.testing.assert_array_equal(found > 0, there)
    assert [c.name for c in read_classes(out)] == ["Forest", "Water"]
    code, shown, said = sdiff("evaluate", out, "--labels", labels, "--field", "cover", "--json")
    assert code == 0, said
    assert 0 <= json.loads(shown)["oa"] <= 1


def test_a_request_keeps_all_bands(tiny_request):
    kept = Request.from_json(json.loads(json.dumps(replace(tiny_request, bands="all").to_json())))
    assert kept.bands == "all"
    assert "--bands all" in kept.command()
