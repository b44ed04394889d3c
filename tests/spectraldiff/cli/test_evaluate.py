"""`sdiff evaluate`: figures, what is left out, names, points and polygons, confidence, reports, and wrong grids."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import warp

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.geotiff.class_raster import write_class_raster

CLASSES = (LandCoverClass(1, "Grass", (0, 200, 0)), LandCoverClass(2, "Water", (0, 0, 200)))
PLACE = {"crs": "EPSG:32616", "transform": (20.0, 0.0, 500240.0, 0.0, -20.0, 4480260.0)}
LABELS = np.array([[1, 1, 1, 1], [2, 2, 0, 0]], dtype=np.uint8)
PREDICTED = np.array([[1, 1, 1, 0], [2, 1, 2, 0]], dtype=np.uint8)
EXCLUDED = np.array([[1, 0, 0, 0], [0, 0, 0, 2]], dtype=np.uint8)


@pytest.fixture
def rasters(tmp_path: Path) -> dict[str, str]:
    values = {"map": PREDICTED, "labels": LABELS, "exclude": EXCLUDED}
    for name, raster in values.items():
        write_class_raster(tmp_path / f"{name}.tif", raster, CLASSES, **PLACE)
    return {name: str(tmp_path / f"{name}.tif") for name in values}


def evaluated(capsys, rasters, *options) -> dict:
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"], "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def write_raster(path: Path, values: np.ndarray, nodata: float | None, **place) -> None:
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    crs, transform = place.get("crs", PLACE["crs"]), rasterio.Affine(*place.get("transform", PLACE["transform"]))
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata) as dataset:
        dataset.write(values, 1)


def test_figures_as_json(capsys, rasters):
    write_raster(Path(rasters["map"]), PREDICTED, None)
    found = evaluated(capsys, rasters)
    assert found["oa"] == pytest.approx(4 / 6)
    assert found["aa"] == pytest.approx(0.625)
    assert found["kappa"] == pytest.approx(1 / 3)
    assert found["per_class"] == [0.75, 0.5]
    assert found["confusion"] == [[1, 3, 0], [0, 1, 1]]
    assert (found["pixels"], found["excluded_pixels"]) == (6, 0)
    assert found["classes"] == ["Grass", "Water"]


def test_excluded_pixels_are_left_out(capsys, rasters):
    found = evaluated(capsys, rasters, "--exclude", rasters["exclude"])
    assert (found["pixels"], found["excluded_pixels"], found["nodata_pixels"]) == (4, 1, 1)
    assert found["confusion"] == [[0, 2, 0], [0, 1, 1]]


def test_pixels_without_data_in_the_map_are_left_out_and_counted(capsys, rasters):
    found = evaluated(capsys, rasters)
    assert (found["pixels"], found["nodata_pixels"]) == (5, 1)
    assert found["confusion"] == [[0, 3, 0], [0, 1, 1]]
    assert evaluated(capsys, rasters, "--count-nodata")["confusion"] == [[1, 3, 0], [0, 1, 1]]


def test_zeros_are_unclassified_where_another_value_is_nodata(capsys, rasters):
    values = PREDICTED.copy()
    values[0, 0] = 9
    write_raster(Path(rasters["map"]), values, 9)
    found = evaluated(capsys, rasters)
    assert (found["pixels"], found["nodata_pixels"]) == (5, 1)
    assert found["confusion"] == [[1, 2, 0], [0, 1, 1]]


def test_pixels_that_the_map_saw_and_rejected_are_wrong(capsys, rasters, tmp_path):
    """As `sdiff map --min-confidence` leaves them: no class, and a confidence."""
    confidence = np.where(PREDICTED > 0, 0.9, 0).astype(np.float32)
    confidence[0, 3] = 0.4
    write_raster(tmp_path / "confidence.tif", confidence, 0)
    found = evaluated(capsys, rasters, "--confidence", str(tmp_path / "confidence.tif"))
    assert (found["pixels"], found["nodata_pixels"]) == (6, 0)
    assert found["confusion"] == [[1, 3, 0], [0, 1, 1]]


@pytest.mark.parametrize(("dtype", "factor"), [(np.float32, 1), (np.uint8, 100)])
def test_confidence_gives_the_calibration(capsys, rasters, tmp_path, dtype, factor):
    write_raster(tmp_path / "confidence.tif", np.where(PREDICTED > 0, 0.9 * factor, 0).astype(dtype), 0)
    found = evaluated(capsys, rasters, "--confidence", str(tmp_path / "confidence.tif"))
    assert found["calibration"]["ece"] == pytest.approx(0.1)
    assert sum(found["calibration"]["counts"]) == 5
    assert evaluated(capsys, rasters)["calibration"] is None


def test_map_without_data_at_any_label(capsys, rasters):
    write_raster(Path(rasters["map"]), PREDICTED * 0, 0)
    error = failure(capsys, [rasters["map"], "--labels", rasters["labels"]])
    assert "no data at all 6 labelled pixels" in error


def test_areas_come_from_the_whole_map_and_its_pixels(capsys, rasters):
    adjusted = evaluated(capsys, rasters)["area_adjusted"]
    # Of 4 pixels mapped as grass 3 were right and of 2 as water one was labelled; pixels of 20 m.
    assert adjusted["mapped_pixels"] == [4, 2]
    assert adjusted["oa"]["value"] == pytest.approx(4 / 6 * 3 / 4 + 2 / 6)
    assert adjusted["areas_ha"][0]["value"] == pytest.approx(3 * 0.04)


def test_geographic_maps_get_shares(capsys, rasters, tmp_path):
    place = {"crs": "EPSG:4326", "transform": (0.1, 0.0, 10.0, 0.0, -0.1, 50.0)}
    for name, values in (("map", PREDICTED), ("labels", LABELS)):
        write_class_raster(tmp_path / f"{name}.tif", values, CLASSES, **place, overwrite=True)
    adjusted = evaluated(capsys, rasters)["area_adjusted"]
    assert adjusted["areas_ha"] is None
    assert adjusted["shares"][0]["value"] == pytest.approx(0.5)


def write_features(path: Path, shapes: list, names: list, kind: str = "Unknown") -> str:
    """Features in the map's pixels, x in columns and y in rows, written in degrees."""
    transform = rasterio.Affine(*PLACE["transform"])

    def degrees(points):
        x, y = points.T
        metres = transform.a * x + transform.c, transform.e * y + transform.f
        return np.stack(warp.transform(PLACE["crs"], "EPSG:4326", *metres), axis=1)

    geometry = shapely.to_wkb(shapely.transform(np.array(shapes), degrees))
    values = np.array(names, dtype=object)
    pyogrio.raw.write(path, geometry, [values], ["class"], geometry_type=kind, crs="EPSG:4326")
    return str(path)


def test_points_and_polygons_in_another_crs_by_name(capsys, rasters, tmp_path):
    shapes = [shapely.box(0, 0, 3, 1), shapely.Point(0.5, 1.5), shapely.Point(1.2, 1.7), shapely.Point(3.5, 1.5)]
    rasters["labels"] = write_features(tmp_path / "r.gpkg", shapes, ["grass", "Water", "Water", "Rock"])
    command = ["evaluate", rasters["map"], "--labels", rasters["labels"], "--json", "--count-nodata"]
    assert run(command) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["classes"] == ["Grass", "Water", "Rock"]
    assert found["confusion"] == [[0, 3, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]]
    assert "warning: the map has no class 'Rock': its 1 labelled pixels count as wrong" in printed.err


@pytest.mark.parametrize("raw", ["map", "features", "both"])
def test_names_with_tabs_and_line_ends_match(capsys, rasters, tmp_path, raw):
    """Whether the map was made before names were cleaned, or the labels are the file that was trained on."""
    clean, dirty = ["Dry grass", "Water"], [" Dry\t\ngrass\x07", "Wa\x01ter"]
    named = [replace(c, name=name) for c, name in zip(CLASSES, clean if raw == "features" else dirty, strict=True)]
    write_class_raster(Path(rasters["map"]), PREDICTED, named, **PLACE, overwrite=True)
    points = [shapely.Point(0.5, 0.5), shapely.Point(0.5, 1.5)]
    path = write_features(tmp_path / "points.geojson", points, clean if raw == "map" else dirty)
    found = evaluated(capsys, {**rasters, "labels": path})
    assert (found["classes"], found["confusion"]) == (clean, [[0, 1, 0], [0, 0, 1]])


def test_field_that_is_not_there_is_a_usage_error(capsys, rasters, tmp_path):
    labels = write_features(tmp_path / "r.gpkg", [shapely.Point(0.5, 0.5)], ["Grass"])
    assert run(["evaluate", rasters["map"], "--labels", labels, "--field", "cover"]) == 2
    error = capsys.readouterr().err
    assert "no field 'cover'" in error
    assert error.count("\n") == 1


def test_report_is_written_and_not_overwritten_unasked(capsys, rasters, tmp_path):
    report = tmp_path / "accuracy.html"
    command = ["evaluate", rasters["map"], "--labels", rasters["labels"], "--report", str(report)]
    assert run(command) == 0
    page = report.read_text("utf-8")
    assert "<title>Accuracy of map.tif</title>" in page
    assert f"sdiff evaluate {rasters['map']} --labels {rasters['labels']} --report {report}" in page
    assert "no data at 1 labelled pixels" in page
    assert "exists: choose another name" in failure(capsys, command[1:])
    assert run([*command, "--overwrite"]) == 0


def test_report_never_replaces_an_input(capsys, rasters):
    arguments = [rasters["map"], "--labels", rasters["labels"], "--report", rasters["labels"], "--overwrite"]
    assert "is the same file as the input" in failure(capsys, arguments)


def test_report_for_people(capsys, rasters):
    command = ["evaluate", rasters["map"], "--labels", rasters["labels"], "--exclude", rasters["exclude"]]
    assert run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 pixels scored (1 excluded, 1 without data in the map)"
    assert lines[1] == "OA 75.00  AA 75.00  kappa x 100 50.00"
    assert lines[2] == "area-adjusted OA 77.78 +- ? (95 %, if the labels are a random sample of the map)"
    table = [line.split() for line in lines[4:]]
    assert table == [
        ["class", "pixels", "found", "%", "1", "2"],
        ["1", "Grass", "2", "100.00", "2", "."],
        ["2", "Water", "2", "50.00", "1", "1"],
    ]


def test_column_of_what_is_unclassified(capsys, rasters):
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"], "--count-nodata"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split() == ["class", "pixels", "found", "%", "none", "1", "2"]
    assert lines[-2].split() == ["1", "Grass", "4", "75.00", "1", "3", "."]


def test_class_without_a_labelled_pixel_leaves_the_adjusted_accuracy_open(capsys, rasters, tmp_path):
    only_grass = np.where(LABELS == 1, 1, 0).astype(np.uint8)
    write_class_raster(tmp_path / "labels.tif", only_grass, CLASSES, **PLACE, overwrite=True)
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"]]) == 0
    out = capsys.readouterr().out
    assert "area-adjusted OA: not known, no labelled pixel lies where the map shows Water" in out
    assert "AA 100.00 (of the 1 of 2 classes that are labelled)  kappa" in out


@pytest.mark.parametrize(
    ("name", "count"),
    [("A land-cover class with a long name", 60), (" ".join(["With areas of natural vegetation,"] * 6), 3)],
)
def test_wide_matrix_is_neither_cut_nor_wrapped(capsys, tmp_path, name, count):
    classes = [LandCoverClass(v, f"{name} {v}", (v, v, v)) for v in range(1, count + 1)]
    values = np.repeat(np.arange(1, count + 1, dtype=np.uint8), 20).reshape(count, 20)
    write_class_raster(tmp_path / "m.tif", values, classes)
    assert run(["evaluate", str(tmp_path / "m.tif"), "--labels", str(tmp_path / "m.tif")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 1 + count
    assert lines[-1].split()[-1] == "20"
    assert f"{name} {count}" in lines[-1]
    assert "100.00" in lines[-1]


def test_names_come_from_the_map_where_labels_have_none(capsys, rasters, tmp_path):
    write_class_raster(tmp_path / "labels.tif", LABELS, (), **PLACE, overwrite=True)
    assert evaluated(capsys, rasters)["classes"] == ["Grass", "Water"]


def test_classes_are_matched_by_name(capsys, rasters, tmp_path):
    swapped = (LandCoverClass(1, "Water", (0, 0, 200)), LandCoverClass(2, "Grass", (0, 200, 0)))
    write_class_raster(tmp_path / "labels.tif", np.where(LABELS > 0, 3 - LABELS, 0), swapped, **PLACE, overwrite=True)
    found = evaluated(capsys, rasters)
    assert (found["classes"], found["confusion"]) == (["Grass", "Water"], [[0, 3, 0], [0, 1, 1]])


def test_names_without_anything_in_common_are_worth_a_warning(capsys, rasters, tmp_path):
    other = (LandCoverClass(1, "Gras", (0, 200, 0)), LandCoverClass(2, "Wasser", (0, 0, 200)))
    write_class_raster(tmp_path / "labels.tif", LABELS, other, **PLACE, overwrite=True)
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"], "--json"]) == 0
    assert "no class name in common: classes were matched by value" in capsys.readouterr().err


def failure(capsys, arguments) -> str:
    assert run(["evaluate", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sdiff: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        (LABELS[:, :3], PLACE, "2 rows x 3 columns"),
        (LABELS, {**PLACE, "crs": "EPSG:32615"}, "EPSG:32615"),
        (LABELS, {**PLACE, "transform": (20.0, 0.0, 500260.0, 0.0, -20.0, 4480260.0)}, "(500260, 4480260)"),
        (np.ones_like(LABELS), PLACE, "labelled pixels: wanted labels that the model has not trained on"),
    ],
)
def test_pixels_to_exclude_that_do_not_match(capsys, rasters, tmp_path, values, place, words):
    write_class_raster(tmp_path / "exclude.tif", values, CLASSES, **place, overwrite=True)
    options = [rasters["map"], "--labels", rasters["labels"], "--exclude", rasters["exclude"]]
    assert words in failure(capsys, options)


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        (LABELS[:, :3], {}, "2 rows x 3 columns"),
        (LABELS, {**PLACE, "crs": "EPSG:32615"}, "EPSG:32615"),
        (LABELS * 0, PLACE, "the labels are 0 at every pixel"),
    ],
)
def test_labels_that_do_not_match(capsys, rasters, tmp_path, values, place, words):
    write_class_raster(tmp_path / "labels.tif", values, CLASSES, **place, overwrite=True)
    assert words in failure(capsys, [rasters["map"], "--labels", rasters["labels"]])


def test_labels_of_another_grid_are_resampled_and_that_is_said(capsys, rasters, tmp_path):
    fine = LABELS.repeat(2, axis=0).repeat(2, axis=1)
    place = {"crs": PLACE["crs"], "transform": (10.0, 0.0, 500240.0, 0.0, -10.0, 4480260.0)}
    write_class_raster(tmp_path / "labels.tif", fine, CLASSES, **place, overwrite=True)
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"], "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["confusion"] == [[0, 3, 0], [0, 1, 1]]
    assert "lies on another grid" in printed.err


def test_confidence_that_is_none(capsys, rasters, tmp_path):
    write_raster(tmp_path / "c.tif", np.full(LABELS.shape, 7.5, np.float32), 0)
    error = failure(capsys, [rasters["map"], "--labels", rasters["labels"], "--confidence", str(tmp_path / "c.tif")])
    assert "has confidences from 7.5 to 7.5: wanted 0 to 1" in error


def test_a_class_map_is_no_confidence(capsys, rasters):
    error = failure(capsys, [rasters["map"], "--labels", rasters["labels"], "--confidence", rasters["map"]])
    assert f"'{rasters['map']}' is a class map (Grass, ...): wanted the map's confidences" in error


def test_rasters_without_georeference_match_by_size(capsys, rasters, tmp_path):
    write_class_raster(tmp_path / "labels.tif", LABELS, CLASSES, overwrite=True)
    assert evaluated(capsys, rasters)["pixels"] == 5


def test_raster_that_is_missing(capsys, rasters, tmp_path):
    assert "nowhere.tif' does not exist" in failure(capsys, [rasters["map"], "--labels", str(tmp_path / "nowhere.tif")])
