"""The STAC item and the page of a model file: valid, made of the card alone, and nothing required is missing."""

import copy
import hashlib
import json
import re
from dataclasses import replace

import pytest

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.model.model_page import model_page
from spectraldiff_runtime.model.stac_item import band_names, stac_item
from tests.tiny_model import CARD

WHOLE = replace(
    CARD,
    bounds=(-87.1, 40.4, -86.9, 40.6),
    pixel_size=(20.0, 20.0),
    acquired="1992-06-12",
    created="2026-01-02T03:04:05+00:00",
    licence="CC-BY-4.0",
    attribution="Purdue <University>",
    band_names=("blue", "green", "red", "red", "", "nir", "swir"),
    fwhm=(10.0,) * 7,
    stored="uint16",
    scales=(0.0001,) * 7,
    offsets=(0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0),
    versions={"onnx": "1.17.0"},
    accuracy={**(CARD.accuracy or {}), "leakage": 0.98, "oa_interval": [0.88, 0.92], "notes": ["cut | here"]},
)


@pytest.fixture
def item(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"a model")
    return stac_item(WHOLE, tmp_path / "model.onnx")


def check(item):
    """Validate an item without a network: the core's schema, the MLM models, and what the extensions ask of a file."""
    validation = pytest.importorskip("pystac.validation", reason="pystac is not installed: pip install '.[dev]'")
    schema = pytest.importorskip("stac_model.schema", reason="stac-model is not installed: pip install '.[dev]'")
    validation.validate_dict(item, extensions=[])
    properties = item["properties"]
    schema.MLModelProperties(**properties)
    models = [asset for asset in item["assets"].values() if "mlm:model" in asset["roles"]]
    assert len(models) == 1
    (model,) = models
    assert model["mlm:artifact_type"] == "onnx"
    assert model["type"].startswith("application/octet-stream")
    assert model["file:size"] > 0
    assert re.fullmatch("1220[0-9a-f]{64}", model["file:checksum"])
    names = [band["name"] for band in model["bands"]]
    assert [band for one in properties["mlm:input"] for band in one["bands"]] == names
    assert all(band["eo:center_wavelength"] > 0 for band in model["bands"])
    assert all(band["eo:full_width_half_max"] > 0 for band in model["bands"])
    assert {band["data_type"] for band in model["bands"]} == {"uint16"}
    assert [band["raster:scale"] for band in model["bands"]] == [0.0001] * 7
    assert [band["raster:offset"] for band in model["bands"]] == [0, 0.5, 0, 0, 0, 0, 0]
    for extension in ("raster", "mlm", "file", "classification", "eo"):
        assert any(f"/{extension}/v" in uri for uri in item["stac_extensions"]), extension
    for key in ("created", "license", "providers", "gsd", "instruments"):
        assert properties[key], key
    for one in properties["mlm:output"]:
        assert all(c["value"] and c["name"] and c["color_hint"] for c in one["classification:classes"])


def test_the_item_is_valid(item, tmp_path):
    check(item)
    assert json.loads(json.dumps(item, allow_nan=False)) == item
    properties, (asset,) = item["properties"], item["assets"].values()
    assert (properties["datetime"], properties["created"]) == ("1992-06-12T00:00:00Z", "2026-01-02T03:04:05Z")
    assert item["bbox"] == [-87.1, 40.4, -86.9, 40.6]
    assert asset["file:size"] == 7
    assert asset["file:checksum"] == "1220" + hashlib.sha256(b"a model").hexdigest()
    assert asset["href"] == "./model.onnx"


REQUIRED = [
    "type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "properties", "links", "assets",
    *(f"properties {key}" for key in (
        "datetime", "created", "license", "providers", "gsd", "instruments", "mlm:name", "mlm:architecture",
        "mlm:tasks", "mlm:input", "mlm:output",
    )),
    *(f"properties mlm:input 0 {key}" for key in ("name", "bands", "input")),
    *(f"properties mlm:input 0 input {key}" for key in ("shape", "dim_order", "data_type")),
    *(f"properties mlm:output 0 {key}" for key in ("name", "tasks", "result", "classification:classes")),
    *(f"properties mlm:output 0 result {key}" for key in ("shape", "dim_order", "data_type")),
    *(f"properties mlm:output 0 classification:classes 0 {key}" for key in ("value", "name", "color_hint")),
    *(f"assets model {key}" for key in ("href", "type", "roles", "bands", "mlm:artifact_type", "file:size",
                                        "file:checksum")),
    *(f"assets model bands 0 {key}" for key in ("name", "eo:center_wavelength", "eo:full_width_half_max",
                                                "data_type")),
]  # fmt: skip


@pytest.mark.parametrize("path", REQUIRED)
def test_nothing_that_is_required_may_be_missing(item, path):
    *outer, last = path.split()
    poorer = copy.deepcopy(item)
    place = poorer
    for key in outer:
        place = place[int(key) if isinstance(place, list) else key]
    del place[last]
    with pytest.raises(Exception):  # noqa: B017, PT011 (each validator has errors of its own)
        check(poorer)


def test_a_card_that_knows_little_gives_a_valid_item(tmp_path):
    validation = pytest.importorskip("pystac.validation", reason="pystac is not installed: pip install '.[dev]'")
    (tmp_path / "model.onnx").write_bytes(b"x")
    poor = replace(CARD, wavelengths=None, accuracy=None, created="2026-01-02", versions={}, sensor="")
    item = stac_item(poor, tmp_path / "model.onnx")
    validation.validate_dict(item, extensions=[])
    assert (item["geometry"], item["properties"]["license"]) == (None, "other")
    assert "Not measured." in model_page(poor, "model.onnx")


def test_names_of_bands_are_there_and_differ():
    assert band_names(WHOLE) == ["blue", "green", "red (3)", "red (4)", "600 nm", "nir", "swir"]
    assert (
        band_names(replace(CARD, wavelengths=None, band_names=None, band_numbers=(4, 6, 7, 8, 9, 10, 11)))[0]
        == "band 4"
    )


FRONT = ("license", "library_name", "pipeline_tag", "tags", "model-index")
SECTIONS = ("Data", "Split and leakage", "Accuracy", "Intended use", "Limits", "Classes", "Versions")
FACTS = ("1992-06-12", "CC-BY-4.0", "20 x 20", "400 to 700", "uint16", "90.00", "88.00 to 92.00", "98.0 %", "Wälder")


def check_page(page):
    _, front, text = page.split("---\n", 2)
    given = dict(line.split(": ", 1) for line in front.splitlines())
    for key in FRONT:
        assert json.loads(given[key]), key
    found = json.loads(given["model-index"])[0]["results"][0]["metrics"]
    assert [one["type"] for one in found] == ["accuracy", "average_accuracy", "kappa"]
    for title in SECTIONS:
        assert f"\n## {title}\n" in text, title
    for fact in FACTS:
        assert fact in text, fact


def test_the_page_says_it_all_and_nothing_in_it_is_markup():
    page = model_page(WHOLE, "model.onnx")
    check_page(page)
    assert "Stone \\<steel\\>" in page
    assert "cut \\| here" in page
    assert "Purdue \\<University\\>" in page
    hostile = replace(WHOLE, classes=(LandCoverClass(1, "a\n## Limits\n<script>", (0, 0, 0)),))
    assert model_page(hostile, "model.onnx").count("\n## Limits\n") == 1
    assert "<script>" not in model_page(hostile, "model.onnx")


@pytest.mark.parametrize("ends", [["a", "b"], [None, None], {"a": 1, "b": 2}, "ab"])
def test_a_page_of_a_card_with_other_facts_than_ours(ends):
    """What a card says beside its accuracies may be anything."""
    odd = {**(WHOLE.accuracy or {}), "oa_interval": ends, "notes": 5, "leakage": "much", "split": [ends]}
    page = model_page(replace(WHOLE, accuracy=odd), "model.onnx")
    assert "| Overall accuracy (%) | 90.00 | not computed |" in page


@pytest.mark.parametrize("missing", [*FRONT, *SECTIONS, *FACTS])
def test_a_page_without_it_is_not_whole(missing):
    page = model_page(WHOLE, "model.onnx")
    poorer = page.replace(missing, "gone")
    with pytest.raises((AssertionError, KeyError)):
        check_page(poorer)


def test_info_makes_both_again(sdiff, model_path):
    code, out, err = sdiff("info", model_path, "--stac")
    assert (code, err) == (0, "")
    assert json.loads(out) == stac_item(CARD, model_path)
    code, out, err = sdiff("info", model_path, "--markdown")
    assert (code, err, out) == (0, "", model_page(CARD, model_path.name))
    code, out, err = sdiff("info", model_path, "--markdown", "--stac")
    assert (code, out) == (2, "")
    assert "give one of them" in err
