"""`sdiff map` and `sdiff info` on products as delivered: no flag, the right place, the pixels of the arrays behind."""

import json
from dataclasses import replace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from spectraldiff_runtime.geo.georeference import apply_transform
from spectraldiff_runtime.mapping.band_matching import fit_bands
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.mapping.sensor_geometry import held_for_map, on_map
from spectraldiff_runtime.output.block import RequestedLayers
from spectraldiff_runtime.products.recognise import open_scene
from spectraldiff_runtime.scene.array import ArrayScene
from tests.runtime.products import builders


@pytest.fixture(params=builders.ALL)
def made(request, tmp_path):
    return builders.ALL[request.param](tmp_path / "product")


def by_array(model, made):
    """Map the arrays that the builder knows, bands in the model's order."""
    order = [int(np.nanargmin(np.abs(made.waves - wave))) for wave in model.card.wavelengths]
    physical = made.sensor == "PRISMA"
    values = (made.physical if physical else made.cube)[..., order].astype("float32")
    values[~made.valid] = np.nan
    return map_scene(model, ArrayScene(values), confidence=True, warn=lambda _: None)


def on_grid(made, values):
    """What a map in sensor geometry is on the map, by the definition of a lookup table."""
    glt_y, glt_x = made.extra
    return np.where(glt_y > 0, values[glt_y - 1, glt_x - 1], 0)


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1), dataset.crs, dataset.transform


def test_map_without_any_flag(made, model, model_path, tmp_path, sdiff):
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "map.tif", "--confidence",
                          tmp_path / "sure.tif")  # fmt: skip
    assert code == 0, said
    wanted = by_array(model, made)
    classes, sure = wanted.classes, wanted.confidence
    if made.extra is not None:
        classes, sure = on_grid(made, classes), on_grid(made, sure)
    found, crs, transform = read(tmp_path / "map.tif")
    np.testing.assert_array_equal(found, classes)
    np.testing.assert_allclose(read(tmp_path / "sure.tif")[0], sure, atol=1e-5)
    assert crs.to_epsg() == int(made.crs.removeprefix("EPSG:"))
    np.testing.assert_allclose(tuple(transform), tuple(made.transform), rtol=1e-12)
    if made.bad:
        assert f"{len(made.bad)} of {len(made.waves)} bands were left out" in said


def test_all_bands_are_matched_by_wavelength(made, model_path, tmp_path, sdiff):
    for name, options in (("plain", []), ("all", ["--bands", "all"])):
        code, _, said = sdiff("map", made.path, "-m", model_path, "-o", tmp_path / f"{name}.tif", *options)
        if made.sensor == "PRISMA" and options:  # it has bands without a wavelength
            assert code == 1
            assert "has 10 bands in use and the model wants 7" in said
            return
        assert code == 0, said
    np.testing.assert_array_equal(read(tmp_path / "all.tif")[0], read(tmp_path / "plain.tif")[0])


def test_a_part_of_a_map_in_sensor_geometry(model_path, tmp_path, sdiff):
    made = builders.emit(tmp_path)
    assert sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "whole.tif")[0] == 0
    whole = read(tmp_path / "whole.tif")[0]
    assert sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "part.tif", "--window", 5, 4, 20, 17)[0] == 0
    np.testing.assert_array_equal(read(tmp_path / "part.tif")[0], whole[4:21, 5:25])
    t = made.transform
    west, north = apply_transform(t, 6, 5)
    east, south = apply_transform(t, 21, 15)
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "box.tif", "--bounds", west, south, east,
                          north)  # fmt: skip
    assert code == 0, said
    np.testing.assert_array_equal(read(tmp_path / "box.tif")[0], whole[5:15, 6:21])
    area = shapely.Polygon([apply_transform(t, 8, 6), apply_transform(t, 20.5, 6), apply_transform(t, 8, 18.5)])
    pyogrio.raw.write(tmp_path / "area.gpkg", shapely.to_wkb(np.array([area])), [], [], geometry_type="Polygon",
                      crs="EPSG:4326")  # fmt: skip
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "in.tif", "--mask",
                          tmp_path / "area.gpkg")  # fmt: skip
    assert code == 0, said
    found, _, transform = read(tmp_path / "in.tif")
    row, col = round((transform.f - t.f) / t.e), round((transform.c - t.c) / t.a)
    y, x = np.mgrid[row : row + found.shape[0], col : col + found.shape[1]]
    inside = (x + 0.5 > 8) & (y + 0.5 > 6) & (x + 0.5 - 8 + y + 0.5 - 6 < 12.5)
    np.testing.assert_array_equal(found, np.where(inside, whole[row : row + len(found), col : col + len(found[0])], 0))


def test_the_memory_of_a_map_in_sensor_geometry_is_planned(model, tmp_path):
    with open_scene(builders.emit(tmp_path).path) as scene:
        laid, every = on_map(scene), RequestedLayers(confidence=True, probabilities=True)
        table, pixel = 2 * 4 * 32 * 39, 1 + 4 + 4 * 4
        held = held_for_map(scene, laid, model.card, every)
        assert held == table + pixel * 23 * 31 + (2 * pixel + 16) * 32 * 39
        assert held_for_map(scene, laid, model.card, RequestedLayers()) < held
        far = held_for_map(scene, laid, model.card, replace(every, outside=True))
        assert far == held + 23 * 31 + 2 * 32 * 39
    with open_scene(builders.neon(tmp_path).path) as scene:
        assert held_for_map(scene, on_map(scene), model.card, every) == 0


def test_another_quantity_is_said(made, model, tmp_path):
    if made.sensor == "PRISMA":
        return
    warnings = []
    other = replace(model.card, units="radiance")
    with open_scene(made.path) as scene:
        fit_bands(other, scene, explicit=False, resample=False, warn=warnings.append)
    assert warnings == [f"'{made.path}' holds surface reflectance and the model was trained on radiance: the map is "
                        "likely to be wrong"]  # fmt: skip


def test_resume_and_arrays_in_sensor_geometry(model, model_path, tmp_path, sdiff):
    made = builders.emit(tmp_path)
    out = tmp_path / "map.tif"
    assert sdiff("map", made.path, "-m", model_path, "-o", out, "--resume")[0] == 0
    before = out.stat().st_mtime_ns
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", out, "--resume")
    assert (code, out.stat().st_mtime_ns) == (0, before)
    assert "is mapped already" in said
    result = map_scene(model, made.path, warn=lambda _: None)
    np.testing.assert_array_equal(result.classes, read(out)[0])
    assert result.pixels[1:] == tuple(np.bincount(result.classes.ravel(), minlength=5)[1:5])


def test_info(made, tmp_path, sdiff):
    for path in (made.path, made.path.parent):
        code, shown, said = sdiff("info", path, "--json")
        assert code == 0, said
        facts = json.loads(shown)
        assert (facts["kind"], facts["sensor"]) == ("product", made.sensor)
        assert facts["bad_bands"] == list(made.bad)
        assert facts["bands"] == len(made.waves)
        assert facts["bands_in_use"] == len(made.waves) - len(made.bad)
        assert facts["wavelengths_nm"] == pytest.approx([400, 700])
        assert facts["crs"] == made.crs
        assert facts["transform"] == pytest.approx(list(made.transform)[:6], rel=1e-12)
    code, shown, _ = sdiff("info", made.path)
    assert code == 0
    assert made.sensor in shown


def test_info_of_a_zip(tmp_path, sdiff):
    builders.enmap(tmp_path / "product")
    archive = builders.zipped(tmp_path / "product", tmp_path / "delivered.zip")
    code, shown, said = sdiff("info", archive)
    assert code == 0, said
    for text in (
        "EnMAP", "L2A", "2023-04-15", "2 of 9 bands were left out (2: without data)", "clouds percent  7.5",
        "cloudy pixels   45", "bad bands       4,8", "bad bands nm    520, 680", "wavelengths nm  400 to 700",
    ):  # fmt: skip
        assert text in shown
