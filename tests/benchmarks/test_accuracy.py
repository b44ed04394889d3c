"""The comparison as a whole: what runs, what does not run again, what is printed and written."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy import __main__ as program
from benchmarks.accuracy import deep, methods
from benchmarks.accuracy.maps import panels, side_by_side
from benchmarks.accuracy.methods import ABLATION, TITLES, Method, grid_cells, method_named, wanted_names
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.problem import Report as Told
from benchmarks.accuracy.run import Watcher, compare, problem_of
from benchmarks.accuracy.store import Outcome, Result
from benchmarks.accuracy.tables import Report, ablation, as_json, comparison, gain, grid, spread
from spectraldiff.accuracy.metrics import score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff.models.presets import FAST, PAPER, Preset
from spectraldiff.report.figures import paint
from spectraldiff.training.request import Request
from spectraldiff_runtime.errors import RunError, UsageError


def request(split: str, seed: int) -> Request:
    return Request(FAST, split, seed, compare_raw=False)


def cells(table):
    """Return a rich table as {row title: [cells]}."""
    first, *rest = ([*column.cells] for column in table.columns)
    return {title: [column[i] for column in rest] for i, title in enumerate(first)}


class Guess:
    """A method that calls every pixel one class, and counts how often it is asked."""

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value, self.calls = name, value, 0

    def method(self, **settings: object) -> Method:
        return Method(self.name, TITLES[self.name], 1, {"value": self.value, **settings}, self.fit)

    def fit(self, problem: Problem, context: Context) -> Outcome:
        self.calls += 1
        everywhere = np.full(int(problem.scene.valid.sum()), self.value)
        return Outcome(problem.map_of(everywhere), 1.0, 2.0, {"value": 1.0})


class Log(Watcher):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int]] = []

    def begin(self, method: Method, problem: Problem) -> Told:
        self.lines.append(("begin", method.name, problem.seed))
        return super().begin(method, problem)

    def end(self, method: Method, result: Result, known: bool) -> None:
        self.lines.append(("known" if known else "end", method.name, result.seed))


def run_all(problems, chosen, folder):
    log = Log()
    return compare(problems, chosen, folder, Context(folder), log), log.lines


@pytest.fixture
def problems(tiny_scene: LabelledScene) -> list[Problem]:
    return [problem_of(tiny_scene, request("per-class:6", seed)) for seed in (0, 1)]


def test_all_methods_of_a_seed_have_the_same_split_and_seeds_have_others(tiny_scene, problems):
    again = problem_of(tiny_scene, request("per-class:6", 0))
    assert np.array_equal(again.split.train, problems[0].split.train)
    assert again.facts() == problems[0].facts()
    assert not np.array_equal(problems[0].split.train, problems[1].split.train)
    assert problems[0].facts()["pixels"] != problems[1].facts()["pixels"]
    assert not (again.split.train & again.split.test).any()


def test_pixels_without_data_are_in_no_split(tiny_scene):
    missing = np.zeros(tiny_scene.labels.shape, bool)
    missing[:6] = True
    split = problem_of(replace(tiny_scene, missing=missing), request("per-class:6", 0)).split
    assert split.train.sum() == 24
    assert not (split.train | split.test)[:6].any()


def test_results_are_those_of_the_map_on_the_test_pixels(problems, tmp_path):
    results, told = run_all(problems, [Guess("knn", 2).method()], tmp_path)
    assert told == [("begin", "knn", 0), ("end", "knn", 0), ("begin", "knn", 1), ("end", "knn", 1)]
    for problem, result in zip(problems, results, strict=True):
        labels = problem.scene.labels[problem.split.test]
        assert result.oa == pytest.approx((labels == 2).mean())
        assert result.aa == pytest.approx(0.25)
        assert result.per_class == (0, 1, 0, 0)
        saved = np.load(result.map_path)
        assert score(np.where(problem.split.test, problem.scene.labels, 0), saved, 4).oa == result.oa


def test_finished_results_are_read_and_never_run_again(problems, tmp_path):
    guess = Guess("knn", 2)
    first, _ = run_all(problems[:1], [guess.method()], tmp_path)
    more = Guess("rf", 3)
    both, told = run_all(problems, [guess.method(), more.method()], tmp_path)
    assert (guess.calls, more.calls) == (2, 2)
    assert told[:3] == [("known", "knn", 0), ("begin", "rf", 0), ("end", "rf", 0)]
    assert both[0] == first[0]
    again, _ = run_all(problems, [guess.method(), more.method()], tmp_path)
    assert (guess.calls, more.calls) == (2, 2)
    assert again == both


def test_a_map_without_its_json_does_not_count(problems, tmp_path):
    guess = Guess("knn", 2)
    run_all(problems[:1], [guess.method()], tmp_path)
    (tmp_path / "results" / "knn-seed0.json").unlink()
    run_all(problems[:1], [guess.method()], tmp_path)
    assert guess.calls == 2
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["knn-seed0.json", "knn-seed0.npy"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p, m: (p, m.method(trees=5)), "trees null, and now 5"),
        (
            lambda p, m: (problem_of(p.scene, request("per-class:7", 0)), m.method()),
            '"per-class:6", and now "per-class:7"',
        ),
    ],
)
def test_other_settings_are_refused_before_anything_runs(problems, tmp_path, change, named):
    guess, other = Guess("knn", 2), Guess("rf", 1)
    run_all(problems[:1], [guess.method()], tmp_path)
    problem, method = change(problems[0], guess)
    with pytest.raises(RunError, match="give another --out, or remove it") as error:
        run_all([problem], [other.method(), method], tmp_path)
    assert "pixels" in str(error.value) or named in str(error.value)
    assert "\n" not in str(error.value)
    assert other.calls == 0


def test_a_damaged_result_is_named(problems, tmp_path):
    run_all(problems[:1], [Guess("knn", 2).method()], tmp_path)
    (tmp_path / "results" / "knn-seed0.json").write_text("{}")
    with pytest.raises(RunError, match=r"knn-seed0\.json' is damaged"):
        run_all(problems[:1], [Guess("knn", 2).method()], tmp_path)


def test_leakage_is_the_share_of_windows_that_hold_a_training_pixel(problems):
    train, test = problems[0].split.train, problems[0].split.test
    for window in (1, 3, 7):
        r = window // 2
        held = [train[max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1].any() for i, j in np.argwhere(test)]
        assert problems[0].leakage(window) == pytest.approx(np.mean(held))
    assert problems[0].leakage(1) == 0


def test_comparison_has_the_papers_form(problems, tmp_path, tiny_scene):
    results, _ = run_all(problems, [Guess("raw", 2).method(), Guess("knn", 1).method()], tmp_path)
    table = comparison(Report(tiny_scene, "indian-pines", "paper", results))
    assert [column.header for column in table.columns] == ["Class", "KNN", "Transformer, raw"]
    rows = cells(table)
    assert list(rows) == [
        *("Water", "Meadow", "Forest", "Bare soil", "OA", "AA", "kappa x 100"),
        *("OA, paper", "AA, paper", "kappa x 100, paper", "leakage", "training, s", "whole map, s"),
    ]
    assert rows["Meadow"] == ["0.00 +- 0.00", "100.00 +- 0.00"]
    shares = [100 * r.oa for r in results if r.method == "raw"]
    assert rows["OA"][1] == f"{np.mean(shares):.2f} +- {np.std(shares, ddof=1):.2f}"
    assert rows["OA, paper"] == ["-", "95.37"]
    assert rows["AA, paper"] == ["-", "-"]
    assert rows["training, s"] == ["1", "1"]


def test_the_papers_figures_stand_beside_its_own_split_only(problems, tmp_path, tiny_scene):
    results, _ = run_all(problems, [Guess("spectraldiff", 2).method()], tmp_path)
    ours = cells(comparison(Report(tiny_scene, "indian-pines", "paper", results)))
    assert [ours[f"{m}, paper"] for m in ("OA", "AA", "kappa x 100")] == [["98.34"], ["93.33"], ["98.11"]]
    for dataset, split in (("indian-pines", "per-class:10"), ("pavia-university", "paper")):
        assert cells(comparison(Report(tiny_scene, dataset, split, results)))["OA, paper"] == ["-"]


def test_spread_and_gain():
    assert spread([]) == "-"
    assert spread([float("nan")]) == "-"
    assert spread([90.0]) == "90.00"
    assert spread([90.0, 92.0]) == "91.00 +- 1.41"
    assert gain([], []) == "-"
    assert gain([90.0], [89.5]) == "-0.50"
    assert gain([90.0, 92.0], [92.0, 93.0]) == "+1.50 +- 0.50"  # differences 2 and 1: deviation 0.707 / sqrt(2)


def test_ablation_has_the_form_of_table_5(problems, tmp_path, tiny_scene):
    results, _ = run_all(problems, [Guess("raw", 1).method(), Guess("spectraldiff", 2).method()], tmp_path)
    report = Report(tiny_scene, "indian-pines", "paper", results)
    rows = cells(ablation(report))
    assert list(rows) == ["raw", "diffusion", "gain, standard error"]
    assert rows["raw"][1] == "95.37"
    assert rows["diffusion"][1] == "98.34"
    assert rows["gain, standard error"][0] == gain(report.values("raw", "oa"), report.values("spectraldiff", "oa"))


def test_grid_has_the_form_of_table_6(problems, tmp_path, tiny_scene):
    guess = Guess("knn", 3)
    names = "layer0-t5", "layer2-t10"
    results, _ = run_all(problems[:1], [Method(name, name, 1, {}, guess.fit) for name in names], tmp_path)
    table = grid(Report(tiny_scene, "tiny", "per-class:6", results))
    assert [column.header for column in table.columns] == ["Layer index", "t = 5", "t = 10", "t = 100", "t = 200"]
    oa = f"{100 * results[0].oa:.2f}"  # a preset's denoiser may have no layer 1
    assert cells(table) == {"0": [oa, "-", "-", "-"], "2": ["-", oa, "-", "-"]}


def test_json_holds_every_seed(problems, tmp_path, tiny_scene):
    results, _ = run_all(problems, [Guess("knn", 2).method()], tmp_path)
    values = json.loads(json.dumps(as_json(Report(tiny_scene, "tiny", "per-class:6", results)), allow_nan=False))
    assert values["classes"] == ["Water", "Meadow", "Forest", "Bare soil"]
    assert values["methods"]["knn"]["seeds"] == [0, 1]
    assert values["methods"]["knn"]["oa"] == [r.oa for r in results]
    assert values["methods"]["knn"]["paper_percent"] == {"oa": None, "aa": None, "kappa": None}


def test_maps_are_side_by_side(problems, tmp_path, tiny_scene):
    results, _ = run_all(problems, [Guess("knn", 2).method(), Guess("rf", 1).method()], tmp_path)
    report = Report(tiny_scene, "tiny", "per-class:6", results)
    titles, images = zip(*panels(report), strict=True)
    assert titles == (
        "False colour",
        "Labels",
        f"KNN\nOA {100 * results[0].oa:.2f}",
        f"RF\nOA {100 * results[1].oa:.2f}",
    )
    assert np.array_equal(images[2], paint(np.full_like(tiny_scene.labels, 2), tiny_scene.classes))
    side_by_side(tmp_path / "maps.png", report)
    with Image.open(tmp_path / "maps.png") as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for value in (1, 2):  # a panel of one colour each
        share = (colours == tiny_scene.classes[value - 1].colour).all(axis=1).mean()
        assert share > 0.02


def test_names_that_the_options_ask_for():
    assert wanted_names(None, False, False, FAST) == list(TITLES)
    assert wanted_names(["svm"], False, False, FAST) == ["svm"]
    assert wanted_names(None, True, False, FAST) == list(ABLATION)
    assert wanted_names(["raw", "knn"], True, False, FAST) == ["raw", "knn", "spectraldiff"]
    assert wanted_names(None, False, True, PAPER) == list(grid_cells())
    assert wanted_names(None, False, True, FAST) == [name for name in grid_cells() if not name.startswith("layer2")]
    assert len(grid_cells()) == 12
    assert grid_cells()["layer1-t100"] == (1, 100)


def test_methods_say_what_decides_their_result(tiny_preset: Preset):
    assert list(TITLES) == [*methods.classical.ESTIMATORS, *deep.RECIPES, *ABLATION]
    for name in TITLES:
        method = method_named(name, tiny_preset, 12)
        assert method.window % 2 == 1
        json.dumps(dict(method.settings), allow_nan=False)
    cell = method_named("layer0-t200", tiny_preset, 12)
    features = cell.settings["preset"]["features"]
    assert (features["layer"], features["timestep"]) == (0, 200)
    with pytest.raises(UsageError, match="there is no method 'svn': choose from knn, rf"):
        method_named("svn", tiny_preset, 12)


def test_the_program_from_end_to_end(tiny_scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda name, folder: tiny_scene)
    line = ["--split", "per-class:6", "--seeds", "2", "--threads", "1", "--out", str(tmp_path / "out")]
    assert program.main(["--methods", "knn", *line]) == 0
    printed, told = capsys.readouterr()
    assert "KNN, seed 1: OA 100.00" in told
    assert "tiny, split per-class:6, 2 seeds" in printed
    assert "Bare soil" in printed
    out = tmp_path / "out" / "per-class-6"
    text = (out / "tables.txt").read_text()
    assert "KNN" in text
    assert "RF" not in text
    assert json.loads((out / "results.json").read_text())["methods"]["knn"]["seeds"] == [0, 1]
    with Image.open(out / "maps.png") as image:
        assert image.size[0] > 800
    before = (out / "results" / "knn-seed1.json").stat().st_mtime_ns
    assert program.main(["--methods", "knn", "rf", *line]) == 0
    assert "RF" in (out / "tables.txt").read_text()
    assert (out / "results" / "knn-seed1.json").stat().st_mtime_ns == before


def guessing(name: str, preset: Preset, bands: int) -> Method:
    """Stand in for `method_named`: the raw transformer is stopped, the others guess."""
    guess = Guess("knn", 1 + len(name) % 4)

    def stopped(problem: Problem, context: Context) -> Outcome:
        raise KeyboardInterrupt

    return Method(name, name, 1, {}, stopped if name == "raw" else guess.fit)


def test_ablation_and_grid_alone_print_their_tables_alone(tiny_scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda name, folder: tiny_scene)
    monkeypatch.setattr(program, "method_named", guessing)
    line = ["--split", "per-class:6", "--threads", "1", "--out", str(tmp_path / "out")]
    assert program.main(["--grid", *line]) == 0
    printed = capsys.readouterr().out
    assert "t = 200" in printed
    assert "Bare soil" not in printed
    out = tmp_path / "out" / "per-class-6"
    assert list(json.loads((out / "results.json").read_text())["methods"]) == wanted_names(None, False, True, FAST)
    assert len(list((out / "results").glob("layer?-t*-seed0.json"))) == 8
    assert not (out / "maps.png").exists()


def test_a_stop_keeps_what_has_finished(tiny_scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda name, folder: tiny_scene)
    monkeypatch.setattr(program, "method_named", guessing)
    line = ["--split", "per-class:6", "--threads", "1", "--out", str(tmp_path / "out")]
    assert program.main(["--methods", "svm", "--ablation", *line]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("stopped; the same command continues from here\n")
    results = tmp_path / "out" / "per-class-6" / "results"
    assert sorted(p.name for p in results.iterdir()) == ["svm-seed0.json", "svm-seed0.npy"]


def test_several_splits_have_tables_and_folders_of_their_own(tiny_scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda name, folder: tiny_scene)
    splits = ["per-class:6", "fraction:0.1", "per-class:6"]
    assert program.main(["--methods", "knn", "--threads", "1", "--out", str(tmp_path), "--split", *splits]) == 0
    printed, told = capsys.readouterr()
    assert [printed.count(f"split {split},") for split in splits[:2]] == [1, 1]
    assert told.count("KNN, seed 0: OA") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fraction-0.1", "per-class-6"]
    for split in splits:
        found = json.loads((tmp_path / split.replace(":", "-") / "results.json").read_text())
        assert found["split"] == split


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--dataset", "indian-pine"], 2, "did you mean indian-pines?"),
        (["--methods", "cnn4d"], 2, "there is no method 'cnn4d'"),
        (["--seeds", "0"], 2, "--seeds is 0"),
        (["--threads", "0"], 2, "--threads is 0"),
        (["--preset", "slow"], 2, "there is no preset 'slow'"),
        (["--split", "half"], 2, "the split 'half' is not known"),
    ],
)
def test_mistakes_are_one_line(arguments, code, text, capsys, tmp_path):
    assert program.main([*arguments, "--out", str(tmp_path / "out")]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
