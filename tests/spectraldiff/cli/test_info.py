"""`sdiff info` on models, rasters and run folders."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from safetensors.numpy import save

from spectraldiff_runtime import map_scene


def test_a_model(sdiff, model_path, card):
    code, out, _ = sdiff("info", model_path, "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["format"]) == (0, "model", "ONNX")
    assert (facts["bands"], facts["halo"], facts["wavelengths_nm"]) == (7, 2, [400, 700])
    assert [c["name"] for c in facts["classes"]] == [c.name for c in card.classes]
    assert facts["accuracy"]["oa"] == 0.9
    code, out, _ = sdiff("info", model_path)
    assert code == 0
    assert "Stone <steel>" in out
    assert "400 to 700" in out


def torchscript(path, card):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"x" * 5000)
        archive.writestr("model/extra/card.json", card.to_json())
    return path


def test_a_torchscript_file(sdiff, tmp_path, card):
    path = torchscript(tmp_path / "model.pt", card)
    code, out, _ = sdiff("info", path, "--json")
    facts = json.loads(out)
    assert (code, facts["format"], facts["preset"]) == (0, "TorchScript", "fast")


def test_pairs_of_figures_are_read_as_what_they_are(sdiff, tmp_path, card):
    accuracy = {**card.accuracy, "oa_interval": [0.99296463, 0.99795702]}
    path = torchscript(tmp_path / "model.pt", replace(card, pixel_size=(20.0, 20.5), accuracy=accuracy))
    code, out, _ = sdiff("info", path)
    assert code == 0
    assert re.search(r"pixel size m +20 x 20\.5\n", out)
    assert re.search(r"OA interval +99\.30 % to 99\.80 %\n", out)


def test_a_raster(sdiff, laid_out_scene):
    code, out, _ = sdiff("info", laid_out_scene, "--json")
    facts = json.loads(out)
    assert (code, facts["kind"]) == (0, "raster")
    assert (facts["height"], facts["width"], facts["bands"], facts["type"]) == (29, 37, 7, "uint16")
    assert facts["crs"] == "EPSG:32616"
    assert facts["interleave"]


def test_wavelengths_and_nodata(sdiff, write_scene):
    path = write_scene(waves=[0.5 + b for b in range(400, 407)], nodata=3)
    facts = json.loads(sdiff("info", path, "--json")[1])
    assert (facts["wavelengths_nm"], facts["nodata"]) == ([400.5, 406.5], 3)
    assert "400.5 to 406.5" in sdiff("info", path)[1]


def test_what_a_header_says_of_the_bands(sdiff, write_scene):
    path = write_scene("scene.img", driver="ENVI", nodata=3)
    lines = "wavelength units = um\nwavelength = {.4, .41, .42, .43, .44, .45, .46}"
    header = path.with_suffix(".hdr")
    more = "fwhm = {.01, .01, .01, .01, .01, .01, .02}\nbbl = {1, 0, 1, 1, 1, 1, 0}\nreflectance scale factor = 5000"
    header.write_text(f"{header.read_text()}\n{lines}\n{more}\n")
    facts = json.loads(sdiff("info", path, "--json")[1])
    assert (facts["nodata"], facts["bad_bands"], facts["scale"], facts["offset"]) == (3, [2, 7], 0.0002, None)
    assert facts["wavelengths_nm"] == pytest.approx([400, 460])
    assert facts["fwhm_nm"] == pytest.approx([10, 20])
    assert (facts["mask"], facts["alpha_bands"], facts["bad_bands_error"]) == (None, [], None)
    header.write_text(header.read_text().replace("bbl = {1,", "bbl = {"))
    assert "7 bands and a list of bad bands (bbl) of 6 values" in sdiff("info", path)[1]


def test_masks_scales_and_nodata_of_each_band(sdiff, write_scene, tmp_path):
    path = write_scene()
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = [0.5] * 7, [1.0, 2, 3, 4, 5, 6, 7]
        dataset.write_mask(True)
    facts = json.loads(sdiff("info", path, "--json")[1])
    assert (facts["scale"], facts["offset"], facts["mask"]) == (0.5, [1, 2, 3, 4, 5, 6, 7], "mask band")
    alpha = "<ColorInterp>Alpha</ColorInterp>"
    inner = [f"<NoDataValue>{band}</NoDataValue>" for band in (1, 2)]
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}">{x}</VRTRasterBand>' for b, x in enumerate([*inner, alpha], 1)
    )
    vrt = tmp_path / "bands.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="2">{bands}</VRTDataset>')
    facts = json.loads(sdiff("info", vrt, "--json")[1])
    assert (facts["nodata"], facts["mask"], facts["alpha_bands"]) == ([1, 2, None], "alpha band", [3])


def test_a_raster_with_ground_control_points_only(sdiff, write_scene):
    points = [rasterio.control.GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r, c in ((0, 0), (0, 30), (20, 0))]
    path = write_scene(transform=None, gcps=points, crs="EPSG:4326")
    facts = json.loads(sdiff("info", path, "--json")[1])
    assert (facts["transform"], facts["ground_control_points"], facts["rpcs"]) == (None, 3, None)
    assert facts["ground_control_points_crs"] == "EPSG:4326"
    assert "ground control points" in sdiff("info", path)[1]
    assert "ground control" not in sdiff("info", write_scene("other.tif"))[1]


def test_a_class_map(sdiff, model, write_scene, tmp_path):
    out = tmp_path / "classes.tif"
    map_scene(model, write_scene(), out)
    facts = json.loads(sdiff("info", out, "--json")[1])
    assert [c["name"] for c in facts["classes"]] == [c.name for c in model.card.classes]
    assert "Wälder" in sdiff("info", out)[1]


def test_classes_on_an_output_that_cannot_show_them(model, write_scene, tmp_path):
    out = tmp_path / "classes.tif"
    map_scene(model, write_scene(), out)
    command = [sys.executable, "-m", "spectraldiff_runtime", "info", str(out)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"W?lder" in done.stdout


@pytest.mark.parametrize(
    "classes",
    [
        [{"value": "x", "name": 1, "colour": ["a"]}],
        [{"value": 1, "name": "[/]", "colour": [999, -1, "x"]}],
        [{"value": 1, "name": "a", "colour": [1, 2]}],
        [3],
    ],
)
def test_a_run_whose_classes_are_damaged(sdiff, tmp_path, classes):
    (tmp_path / "model.json").write_text(json.dumps({"classes": classes}))
    assert sdiff("info", tmp_path)[0] == 0


def test_a_run_folder(sdiff, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"preset": "fast", "data": {"name": "x"}, "range": [0.0] * 20}))
    (tmp_path / "metrics.json").write_text(json.dumps({"oa": 0.98, "kappa": float("nan")}))
    code, out, _ = sdiff("info", tmp_path, "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["model"]["preset"], facts["metrics"]["oa"]) == (0, "run", "fast", 0.98)
    assert facts["metrics"]["kappa"] is None
    out = sdiff("info", tmp_path)[1]
    assert "preset" in out
    assert "20 values" in out


def test_figures_of_a_run_are_for_people(sdiff, tmp_path):
    classes = [{"value": 1, "name": "Grass", "colour": [1, 2, 3]}, {"value": 2, "name": "Water", "colour": [4, 5, 6]}]
    figures = {"oa": 0.98765, "aa": 0.5, "kappa": 0.91234, "ece": 0.0123, "leakage": 1.0}
    (tmp_path / "model.json").write_text(json.dumps({"shape": [26, 31, 12], "classes": classes, "accuracy": figures}))
    labels = [{"name": "Grass", "training": 8, "polygons": None}, {"name": "Water", "training": 7, "polygons": 3}]
    accuracy = {"per_class": [0.98765, 0.5], "confusion": [[0, 1, 0], [0, 2, 2]]}
    (tmp_path / "metrics.json").write_text(json.dumps({"labels": labels, "accuracy": accuracy, "scenes": [figures]}))
    code, out, _ = sdiff("info", tmp_path)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert "{" not in out
    assert "0.98" not in out
    for line in (
        "OA 98.77 %", "AA 50.00 %", "kappa x 100 91.23", "ECE 1.23 %", "leakage 100.00 %", "shape 26 x 31 x 12",
        "Grass training 8", "Water training 7; polygons 3", "per class 98.77 %, 50.00 %",
        "confusion 2 rows of 3 values", "1 \u25a0 Grass", "2 \u25a0 Water",
        "1 OA 98.77 %; AA 50.00 %; kappa x 100 91.23; ECE 1.23 %; leakage 100.00 %",
    ):  # fmt: skip
        assert line in lines
    facts = json.loads(sdiff("info", tmp_path, "--json")[1])
    assert (facts["model"]["classes"], facts["metrics"]["labels"]) == (classes, labels)
    assert facts["model"]["accuracy"]["oa"] == 0.98765


def test_a_run_whose_model_is_damaged_says_so(sdiff, tmp_path):
    tensors, whole = tmp_path / "model.safetensors", save({"a": np.zeros(3)})
    (tmp_path / "model.json").write_text(json.dumps({"sha256": hashlib.sha256(whole).hexdigest()}))
    assert "damaged model.safetensors is missing: train again" in " ".join(sdiff("info", tmp_path)[1].split())
    tensors.write_bytes(whole)
    assert json.loads(sdiff("info", tmp_path, "--json")[1])["damaged"] is None
    assert "damaged" not in sdiff("info", tmp_path)[1]
    tensors.write_bytes(save({"a": np.ones(3)}))
    code, out, _ = sdiff("info", tmp_path)
    found = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("damaged")]
    assert (code, found) == (
        0, ["model.safetensors is not what the training wrote (its SHA-256): train again, or restore it"],
    )  # fmt: skip


def test_an_unfinished_run_says_how_to_go_on(sdiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("my run", *["deep"] * 20)  # longer than a line of a terminal: never cut
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"split": "disjoint", "preset": {"name": "fast"}, "labels": None}))
    code, out, _ = sdiff("info", folder, "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["state_saved"]) == (0, "unfinished run", False)
    assert facts["go_on_with"] == f"sdiff train --resume '{folder}'"
    assert facts["asked_for"] == {"split": "disjoint", "preset": "fast", "labels": None}
    (folder / "state.safetensors").write_bytes(b"")
    code, out, _ = sdiff("info", folder)
    assert code == 0
    assert f"sdiff train --resume '{folder}'" in out
    assert re.search("state saved +True", out)


def bad_files(tmp_path, model_path, card):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "run.json").write_text("[")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.onnx").write_bytes(model_path.read_bytes()[:500])
    archive = torchscript(tmp_path / "whole.pt", card)
    (tmp_path / "cut.pt").write_bytes(archive.read_bytes()[:-30])
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        other.writestr("x", b"")
    (tmp_path / "text.pt").write_text("x")
    return {
        begun: "is damaged",
        damaged: "is damaged",
        tmp_path / "empty": "no run folder",
        tmp_path / "cut.onnx": "is cut short",
        tmp_path / "cut.pt": "damaged or cut short",
        tmp_path / "other.pt": "without a model card",
        tmp_path / "text.pt": "no TorchScript",
        tmp_path / "missing.onnx": "there is no model file",
        tmp_path / "missing.tif": "does not exist",
        tmp_path / "missing": "does not exist",
    }


def test_what_cannot_be_described(sdiff, tmp_path, model_path, card, listing):
    cases = bad_files(tmp_path, model_path, card)
    before = listing()
    for path, words in cases.items():
        code, out, err = sdiff("info", path)
        assert (code, out, err.count("\n")) == (1, "", 1), (path, err)
        assert err.startswith("sdiff: error: ")
        assert words in err, (path, err)
    assert listing() == before


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--yaml"]])
def test_usage(sdiff, arguments):
    code, out, err = sdiff("info", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_zarr_store_is_a_raster(tmp_path, sdiff):
    with rasterio.open(
        tmp_path / "x.zarr", "w", driver="Zarr", height=4, width=6, count=1, dtype="uint16", crs="EPSG:32616",
        transform=rasterio.Affine(20, 0, 480000, 0, -20, 4470000),
    ) as dataset:  # fmt: skip
        assert dataset.count == 1
    code, out, _ = sdiff("info", tmp_path / "x.zarr", "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["format"], facts["height"], facts["width"]) == (0, "raster", "Zarr", 4, 6)
