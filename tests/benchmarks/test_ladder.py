"""The ladder of cheaper presets: its rungs, its table and its picture, and one small case from files to both."""

import numpy as np
import pytest

from benchmarks import ladder
from benchmarks.accuracy.simple import SIMPLE
from benchmarks.accuracy.store import Result
from benchmarks.scenes import CASES, Case
from spectraldiff.models.presets import FAST
from spectraldiff.models.settings import LinearMember, replaced
from tests.spectraldiff.cli.test_products import SMALL


def result(tmp_path, method, seed, oa, equal=None):
    return Result(method, seed, oa, 0.5, 0.4, (0.5,), 0.3, 0.02, 0.9, 1.0, 1.0, tmp_path / "map.npy", equal)


def options(*words):
    return ladder._parser().parse_args(["--out", "ladder", "--folder", "scenes", *words])


@pytest.fixture
def found(tmp_path):
    oas = dict.fromkeys(SIMPLE, (0.5, 0.6)) | {"svm-5x5": (0.7, 0.72), "product": (0.8, 0.9), "short": (0.79, 0.9)}
    return {
        "Here": [result(tmp_path, name, seed, oa, 0.6) for name, pair in oas.items() for seed, oa in enumerate(pair)]
    }


MICRO = {"product": 100.0, "short": 30.0, "SVM": 140.0}


def test_a_rung_is_compared_with_the_default_seed_by_seed(found):
    text = ladder.table(options("--rungs", "product", "short"), found, MICRO)
    lines = text.splitlines()
    assert lines[2].split(" | ")[1:] == ["100.0", "85.0 +- 5.0 / 60.0 +- 0.0 |"]
    assert lines[3].split(" | ")[1:] == ["30.0", "84.5 +- 5.5 / 60.0 +- 0.0 (-0.5 +- 0.5) |"]
    assert lines[4] == "| best simple method | - | 71.0 +- 1.0 (SVM, 5 x 5 mean) |"
    assert lines[5] == "| SVM | 140.0 | - |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_picture(found, tmp_path):
    ladder.draw(options("--rungs", "product", "short"), found, MICRO, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_rungs_are_presets_that_differ_and_share_denoisers_where_they_can():
    presets = [rung.preset for rung in ladder.RUNGS.values()]
    assert len({str(preset.to_json()) for preset in presets}) == len(presets)
    assert ladder.RUNGS["product"].preset == FAST
    assert [ladder._trunk(name) for name in ("product", "tap0", "two", "int8", "short")] == ["", "", "", "", "-short"]


def test_cases_are_those_of_the_benchmark_of_scenes():
    assert [case.title for case in ladder.cases_of(ladder.COMPARED)] == [
        "Indian Pines", "Indian Pines", "EnMAP Potsdam", "Salinas-A",
    ]  # fmt: skip
    assert all(case in CASES for case in ladder.cases_of(ladder.COMPARED))


@pytest.mark.training
def test_a_small_ladder(tiny_files, tmp_path, monkeypatch, capsys):
    scene, labels = tiny_files
    case = Case("own", "per-class:20", scene.name, labels.name)
    preset = replaced(
        SMALL, diffusion={"steps": 4}, classifier={"epochs": 1, "linear": (LinearMember("lda", "features"),)}
    )
    monkeypatch.setattr(ladder, "RUNGS", {"product": ladder.Rung("small", preset)})
    monkeypatch.setattr(ladder, "CASES", (case,))
    monkeypatch.setattr(ladder, "TILE", 16)
    out, rungs = tmp_path / "out", ["product", "linear", "fp16", "int8"]
    line = ["--out", out, "--folder", scene.parent, "--cases", "own", "--seeds", "1", "--rungs", *rungs]
    assert ladder.main([str(word) for word in line]) == 0
    table, said = capsys.readouterr()
    micro = [float(row.split(" | ")[1]) for row in table.splitlines()[2:] if not row.startswith("| best")]
    assert len(micro) == 6, "the rung, three files of it, the forest and the SVM"
    assert np.all(np.array(micro) > 0)
    assert said.count("OA") == 10
    folder = out / case.name / "work"
    found = {name: float(said.split(f"{ladder.method_of(name).title} OA ")[1].split(",")[0]) for name in rungs}
    sizes = {name: (folder / f"{name}-seed0.onnx").stat().st_size for name in rungs}
    assert found["fp16"] == pytest.approx(found["product"], abs=2)
    assert max(sizes["int8"], sizes["fp16"]) < sizes["product"]

    line += ["--against", folder / "product-seed0.onnx"]
    assert ladder.main([str(word) for word in line]) == 0
    table, said = capsys.readouterr()
    assert said.count("done before") == 10, "nothing runs twice"
    assert "\n| the earlier version's file | " in table
