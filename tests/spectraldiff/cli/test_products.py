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
from spectraldiff.models.presets import FAST, PRESETS
from spectraldiff.models.settings import replaced
from spectraldiff.training.request import Request
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.cli import run as run_sdiff
from spectraldiff_runtime.geo.georeference import apply_transform
from spectraldiff_runtime.geotiff.class_raster import read_classes, write_class_raster
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.messages import ranges
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.scene.array import ArrayScene
from tests.runtime.products import builders

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


RAW = ("--split", "per-class:20", "--features", "raw", "--epochs", "2", "--components", "5", "--device", "cpu")
# One member, because an export takes the longer the more there are.
SMALL = replaced(
    FAST,
    classifier={
        "members": (replace(FAST.classifier.members[0], window=9),),
        "network": {"width": 16, "heads": 2, "mlp": 24},
        "linear": (),
    },
    smoothing={"iterations": 1},
)


@pytest.fixture(scope="module", params=builders.ALL)
def trained(request, once):
    """A folder with a product, its labels, and a run and a model file that the commands made of them."""

    def make(folder):
        folder.mkdir()
        made = builders.ALL[request.param](folder / "product")
        polygons(folder / "labels.gpkg", made)
        raster(folder / "labels.tif", made, map_shape(made))
        labels, run = folder / "labels.gpkg", folder / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(PRESETS, "fast", SMALL)
            assert run_sdiff(words("train", made.path, "--labels", labels, "--field", "cover", "--run", run, *RAW)) == 0
            assert run_sdiff(words("export", "--run", run, "--out", folder / "model.onnx")) == 0

    folder = once(f"product-{request.param}", make)
    return folder, builders.ALL[request.param](folder / "again")


def words(*arguments):
    return [str(argument) for argument in arguments]


def mapped_arrays(model_path, made, missing=None):
    """The class map, on the map's grid, of the arrays that the builder knows: bands in the order of the model's."""
    model = Model.open(model_path, "cpu", threads=1)
    order = [int(np.nanargmin(np.abs(made.waves - wave))) for wave in model.card.wavelengths]
    values = (made.physical if made.sensor == "PRISMA" else made.cube)[..., order].astype("float32")
    values[~made.valid if missing is None else ~made.valid | missing] = np.nan
    classes = map_scene(model, ArrayScene(values), warn=lambda _: None).classes
    if made.extra is None:
        return classes
    glt_y, glt_x = made.extra
    return np.where(glt_y > 0, classes[glt_y - 1, glt_x - 1], 0)


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1), dataset


@pytest.mark.training
def test_from_labels_to_a_scored_map(trained, tmp_path, sdiff):
    folder, made = trained
    facts = json.loads(sdiff("info", folder / "model.onnx", "--json")[1])
    good = [b for b in range(1, len(made.waves) + 1) if b not in made.bad]
    assert (facts["sensor"], facts["file_bands"]) == (made.sensor, len(made.waves))
    assert (facts["bands"], facts["band_numbers"]) == (len(good), ranges(good))
    at = np.array(good) - 1
    assert facts["wavelengths_nm"] == pytest.approx([made.waves[at].min(), made.waves[at].max()], rel=1e-6)
    assert facts["fwhm_nm"] == pytest.approx([made.fwhm[at].min(), made.fwhm[at].max()], rel=1e-6)
    assert facts["units"].startswith("surface reflectance")
    out, labels = tmp_path / "map.tif", folder / "labels.gpkg"
    code, _, said = sdiff("map", made.path, "-m", folder / "model.onnx", "-o", out)
    assert code == 0, said
    found, dataset = read(out)
    wanted = mapped_arrays(folder / "model.onnx", made)
    np.testing.assert_array_equal(found, wanted)
    assert dataset.crs.to_epsg() == int(made.crs.removeprefix("EPSG:"))
    np.testing.assert_allclose(tuple(dataset.transform), tuple(made.transform), rtol=1e-12)
    assert [c.name for c in read_classes(out)] == ["Forest", "Water"]
    truth = read(folder / "labels.tif")[0]
    scored = (truth > 0) & (wanted > 0)
    for given in ((labels, "--field", "cover"), (folder / "labels.tif",)):
        code, shown, said = sdiff("evaluate", out, "--labels", *given, "--json")
        assert code == 0, said
        assert json.loads(shown)["oa"] == pytest.approx((wanted == truth)[scored].mean())


@pytest.mark.training
def test_training_pixels_lie_on_the_map(trained, tmp_path, sdiff):
    """Also those of a scene in sensor geometry: they can be left out of a score, and train again."""
    folder, made = trained
    pixels, dataset = read(folder / "run" / "train_pixels.tif")
    assert pixels.shape == map_shape(made)
    assert dataset.crs.to_epsg() == int(made.crs.removeprefix("EPSG:"))
    truth = read(folder / "labels.tif")[0]
    np.testing.assert_array_equal(pixels[pixels > 0], truth[pixels > 0])
    assert (np.bincount(pixels.ravel(), minlength=3)[1:] >= 20).all()
    out = tmp_path / "map.tif"
    assert sdiff("map", made.path, "-m", folder / "model.onnx", "-o", out)[0] == 0
    code, shown, said = sdiff("evaluate", out, "--labels", folder / "labels.tif", "--exclude",
                              folder / "run" / "train_pixels.tif", "--json")  # fmt: skip
    assert code == 0, said
    found, scored = read(out)[0], (truth > 0) & (pixels == 0)
    assert json.loads(shown)["oa"] == pytest.approx((found == truth)[scored & (found > 0)].mean())


@pytest.mark.training
def test_labels_in_a_raster_train_the_same_pixels(trained, tmp_path, sdiff, monkeypatch, undrawn):
    folder, made = trained
    split = ("--split", f"file:{folder / 'run' / 'train_pixels.tif'}", *RAW[2:])
    monkeypatch.setitem(PRESETS, "fast", SMALL)
    code, shown, said = sdiff("train", made.path, "--labels", folder / "labels.tif", "--run", tmp_path / "run",
                              "--json", *split)  # fmt: skip
    assert code == 0, said
    facts = json.loads(shown)
    assert facts["train_pixels"] == 40
    if made.cloudy is not None:
        assert any(remark.startswith(f"{made.cloudy.sum()} of ") for remark in facts["remarks"])
    np.testing.assert_array_equal(
        read(tmp_path / "run" / "train_pixels.tif")[0], read(folder / "run" / "train_pixels.tif")[0]
    )


@pytest.fixture
def second(trained, tmp_path, monkeypatch):
    """Another scene of the product: other values, size and place, and of PRISMA another scale."""
    monkeypatch.setattr(builders, "SEED", 11)
    monkeypatch.setattr(builders, "HEIGHT", 34)
    monkeypatch.setattr(builders, "WIDTH", 43)
    monkeypatch.setattr(builders, "EMIT_SIZE", (26, 35))
    monkeypatch.setattr(builders, "PLACE", rasterio.Affine(30.0, 0.0, 421_500.0, 0.0, -30.0, 5_611_230.0))
    monkeypatch.setattr(builders, "PRISMA_SCALES", ((0.0, 0.7), (0.02, 0.9)))
    name = trained[0].name.removeprefix("product-")
    return builders.ALL[name](tmp_path / "second")


@pytest.mark.training
def test_a_second_scene_needs_no_flag(trained, second, tmp_path, sdiff):
    model = trained[0] / "model.onnx"
    assert second.valid.shape != trained[1].valid.shape
    for given in (second.path, second.path.parent):
        code, _, said = sdiff("map", given, "-m", model, "-o", tmp_path / "map.tif", "--overwrite")
        assert code == 0, said
        assert "warning" not in said
        found, dataset = read(tmp_path / "map.tif")
        np.testing.assert_array_equal(found, mapped_arrays(model, second))
        np.testing.assert_allclose(tuple(dataset.transform), tuple(second.transform), rtol=1e-12)
    there = second.valid if second.extra is None else on_map(second, second.valid)
    np.testing.assert_array_equal(found > 0, there)
    code, _, said = sdiff("map", second.path, "-m", model, "-o", tmp_path / "clear.tif", "--clouds", "drop")
    if second.cloudy is None:
        assert (code, "has no cloud mask" in said) == (2, True)
        return
    assert code == 0, said
    clear = read(tmp_path / "clear.tif")[0]
    np.testing.assert_array_equal(clear, mapped_arrays(model, second, missing=second.cloudy))
    clouds = second.cloudy if second.extra is None else on_map(second, second.cloudy)
    assert clouds.any()
    assert not clear[clouds].any()


def on_map(made, there):
    glt_y, glt_x = made.extra
    return (glt_y > 0) & there[glt_y - 1, glt_x - 1]


def test_a_request_keeps_all_bands(tiny_request):
    kept = Request.from_json(json.loads(json.dumps(replace(tiny_request, bands="all").to_json())))
    assert kept.bands == "all"
    assert "--bands all" in kept.command()
