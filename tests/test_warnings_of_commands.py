"""Every warning of trainings, products, models and commands can be reached: the rest of what `test_warnings` walks.

The warnings about scenes, labels and places are made there, those of mapping in `runtime/mapping/test_map_warnings`.
"""

import dataclasses
import html
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import rasterio

from spectraldiff.accuracy.assessment import assess
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.presets import PRESETS
from spectraldiff.report.accuracy_report import AccuracyReport, write_accuracy_report
from spectraldiff.report.map_view import _notes
from spectraldiff.training.request import Request
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import seal
from spectraldiff_runtime.products.recognise import open_scene
from tests import test_warnings
from tests.runtime.mapping import test_map_warnings
from tests.runtime.model.test_oom import Small, on_gpu
from tests.runtime.products import builders
from tests.spectraldiff.cli.test_products import SMALL
from tests.tiny_model import CARD, onnx_bytes
from tests.warning_texts import ROOT, pattern_of, texts

RUNTIME = "runtime/spectraldiff_runtime"
PACKAGES = (
    "spectraldiff", "spectraldiff/api", "spectraldiff/cli", "spectraldiff/datasets", "spectraldiff/ensemble",
    "spectraldiff/models", "spectraldiff/processes", "spectraldiff/report", "spectraldiff/training",
    "export/spectraldiff_export", "export/spectraldiff_export/compact", "export/spectraldiff_export/precision", RUNTIME,
    *(f"{RUNTIME}/{name}" for name in ("cli", "formats", "geotiff", "model", "output", "products")),
    *(f"{RUNTIME}/{name}" for name in ("suggest", "tiling")),
)  # fmt: skip
OTHERS = {
    # texts of errors that other functions raise
    "_advice", "_changed", "_cuda_session", "_damage", "_describe_foreign", "_fault", "_flushed", "_gpu_failure",
    "_no_cuda", "_reason", "make_plan", "_too_deep", "_unwanted", "bad_luck.no_room",
    "bad_luck.what_happened", "damaged",
    "describe._unfinished", "difference_of", "journal.__exit__", "load_denoiser", "missing", "newest_run",
    "request.check_files", "what_failed", "why_cuda_unavailable", "__init__.run",
    # names of layers in a file
    "prisma._layout", "tanager._place",
    # results, as they are printed or shown
    "_adjusted_line", "_announce", "_ensemble", "_leak", "_map_many", "_measured", "_print", "_print_table", "_recipe",
    "_reliability", "_repr_html_", "_sieved", "_split_words", "_style", "_subtitle", "_suggestion", "_summarise",
    "class_caption", "folds.title", "settings.title", "window_trial.line", "feature_trial.line", "confidence",
    "datasets.write", "describe_product", "map_output.summarise", "outside.lines", "outside_map", "outside_spec",
    "print_profile", "prior.title", "reconstruct", "run_report._prior", "selection.lines", "selection.summary",
    "session.train", "train_output.scene_table", "train_output.summarise",
    "run_report._scene_table", "trained_on", "trainer._mapping", "transcoder.__enter__", "units_of",
    "view.view", "write_accuracy_report", "_round_labels",
    # what a compact model is compared by, as it is printed, refused, or put into its card
    "check.reasons", "compaction._card", "compaction._taught", "facts._by_class", "facts._shares", "facts.lines",
    # the type of a style's file; a part of another warning
    "_document", "unlike",
    # what stands in a graph, on the page of a model and in its STAC item; a stage of the export
    "deepness_bytes", "doc_string", "export_model", "model_page._accuracy", "model_page._compact", "model_page._data",
    "model_page._front_matter", "model_page._limits", "model_page._split", "model_page._summary", "model_page._use",
    "onnx_graph.build", "stac_item._input", "stac_item._output", "stac_item._properties",
}  # fmt: skip
TEXTS = list(texts(PACKAGES, OTHERS))
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def raw_training(tiny_files: tuple[Path, Path], tmp_path: Path, sdiff: Command, undrawn: None) -> str:
    """What `sdiff train` says where options have no effect, labels are few, and pixels are not used."""
    scene, labels = tmp_path / "scene.tif", tmp_path / "labels.tif"
    for path, made in zip(tiny_files, (scene, labels), strict=True):
        made.write_bytes(path.read_bytes())
    with rasterio.open(labels) as dataset:
        truth = dataset.read(1)
    marked = np.where((np.arange(truth.size) % 49 == 0).reshape(truth.shape), truth, 0)
    with rasterio.open(labels) as dataset, rasterio.open(tmp_path / "t.tif", "w", **dataset.profile) as marks:
        marks.write(marked.astype(np.uint8), 1)
    with rasterio.open(scene, "r+") as dataset:
        values = dataset.read()
        values[:, :3] = 0
        dataset.write(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "fast", SMALL)
        code, _, said = sdiff(
            "train", scene, "--labels", labels, "--nodata", 0, "--split", f"file:{tmp_path / 't.tif'}", "--features",
            "raw", "--compare-raw", "--components", 300, "--epochs", 1, "--threads", 1, "--device", "cpu", "--run",
            tmp_path / "run",
        )  # fmt: skip
    assert code == 0, said
    return said


def _trainings(tiny_scene: LabelledScene, tiny_request: Request) -> Iterator[str]:
    from spectraldiff.cli.train_output import describe
    from spectraldiff.training.results import _left_out

    yield from dataclasses.replace(tiny_request, used_threads=2, used_device="cuda").gone_on(1, "cpu").resumed
    cube = tiny_scene.cube.copy()
    cube[tuple(np.argwhere(tiny_scene.labels > 0)[0])] = 0
    split = tiny_request.make_split(tiny_scene)
    scene = dataclasses.replace(tiny_scene, cube=cube, nodata=0)
    split = dataclasses.replace(split, test=split.test & False)
    yield from _left_out([scene], [split])
    describe([scene], [split])


def _products(folder: Path) -> Iterator[str]:
    for name, build in builders.ALL.items():
        made = build(folder / name)
        if name == "enmap":
            (mask,) = made.path.parent.glob("*QL_QUALITY_CLOUD.TIF")
            mask.write_bytes(b"")
        with open_scene(made.path) as scene:
            yield from (scene.note, *scene.warnings)
        if name == "desis":
            for file in made.path.parent.glob("*METADATA.xml"):
                file.unlink()
            with open_scene(next(made.path.parent.glob("*SPECTRAL_IMAGE.tif"))) as scene:
                yield from scene.warnings


def _models(model: Model) -> Iterator[str | None]:
    poor = on_gpu(model, 2, runs=1)
    poor.run(np.zeros((8, 7, 12, 10), np.float32))
    yield poor.splitter.take_warning()
    crowded = on_gpu(model, 1)
    both = Small(crowded.session.session, 1)
    tile = np.zeros((1, 7, 12, 10), np.float32)

    def beside(_: object) -> list[np.ndarray]:
        if not both.refused:  # as another run that has begun in the meantime
            both.refused.append(1)
            raise RuntimeError(both.message)
        return [tile]

    crowded.splitter.run(beside, tile)
    yield crowded.splitter.take_warning()


def _opened(model_path: Path, folder: Path) -> list[str]:
    """What opening a file says that another tool has saved, or that was verified on another processor."""
    saved, other, said = folder / "saved.onnx", folder / "int8.onnx", []
    onnx.save(onnx.load(model_path), saved)
    Model.open(saved, "cpu", unsealed=True, warn=said.append)
    card = dataclasses.replace(CARD, precision="int8", agreement={"processor": "abacus, beads"})
    other.write_bytes(seal(onnx_bytes(card)))
    Model.open(other, "cpu", warn=said.append)
    return said


def _evaluations(folder: Path) -> Iterator[str]:
    """Pages on maps with pixels that are left out, unclassified, or of a class that no label reaches."""
    labels = np.repeat(np.array([[1, 2, 0, 1]], np.uint8), 6, 0)
    found = np.where(labels == 0, 3, labels).astype(np.uint8)
    found[0, 0], found[1, 0] = 0, 0
    excluded = (np.arange(24) == 23).astype(np.uint8).reshape(6, 4)
    sure = np.where(found > 0, 0.9, 0).astype(np.float32)
    sure[0, 0] = 0.5  # it has data there, and no class
    place = test_warnings.PLACE
    paths = [
        test_warnings.raster(folder / f"e{number}.tif", values, place=of, nodata=0)
        for of in (place, dataclasses.replace(place, crs=rasterio.CRS.from_epsg(4326)))
        for number, values in enumerate((labels, found, excluded, sure), start=10 * (of is not place))
    ]
    for of in (paths[:4], paths[4:]):
        truth, ours, without, confidence = of
        page = folder / f"{ours.stem}.html"
        assessment = assess(ours, truth, fields=LabelFields(), exclude=without, confidence=confidence)
        write_accuracy_report(page, AccuracyReport(ours.name, truth.name, assessment, ""))
        yield html.unescape(page.read_text(encoding="utf-8")).replace("\n", " ")


def _views() -> list[str]:
    """What a page says that shows not all pixels of a map."""
    return _notes(SimpleNamespace(step=3, rounded="float64"), SimpleNamespace(picture=2, spectra=4))  # type: ignore[arg-type]


def _suggested(folder: Path, model_path: Path, scene: Path, sdiff: Command) -> str:
    return sdiff("suggest", scene, "-m", model_path, "--count", 1000, "--out", folder / "p.gpkg", "--device", "cpu")[2]


@pytest.fixture
def said(
    raw_training: str, tiny_scene: LabelledScene, tiny_request: Request, model: Model, model_path: Path,
    write_scene: Callable[..., Path], cube: np.ndarray, tmp_path: Path, sdiff: Command,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:  # fmt: skip
    lines = raw_training.splitlines()
    lines += _trainings(tiny_scene, tiny_request)
    lines += capsys.readouterr().err.splitlines()
    lines += _products(tmp_path)
    lines += filter(None, _models(model))
    lines += _opened(model_path, tmp_path)
    lines += _evaluations(tmp_path)
    lines += _views()
    lines += _suggested(tmp_path, model_path, write_scene("s.tif", cube[:9, :9]), sdiff).splitlines()
    return lines


@pytest.mark.training
def test_each_warning_can_be_reached(said: list[str]) -> None:
    missing = [pair for pair in TEXTS if not any(map(pattern_of(pair[1]).search, said))]
    assert not missing
    assert len(TEXTS) > 15


def test_all_packages_are_walked() -> None:
    """A folder with modules is walked by one of the three tests, and no function is excepted that is no more."""
    folders = {
        str(path.parent.relative_to(ROOT))
        for package in ("spectraldiff", "export/spectraldiff_export", RUNTIME)
        for path in (ROOT / package).rglob("*.py")
    }
    assert folders == {*PACKAGES, *test_warnings.PACKAGES, *test_map_warnings.PACKAGES}
    walks = (
        (PACKAGES, OTHERS),
        (test_warnings.PACKAGES, test_warnings.OTHERS),
        (test_map_warnings.PACKAGES, test_map_warnings.OTHERS),
    )
    for packages, others in walks:
        found = {where.rpartition("/")[2] for where, _ in texts(packages, ())}  # module.py:line function
        names = {name for where in found for name in (where.split()[1], f"{where.split('.')[0]}.{where.split()[1]}")}
        assert not others - names


@pytest.mark.parametrize(
    "line",
    [
        "warn(f'odd: {x}')", "self._warn('odd one')", "scene.warnings += ('odd one',)", "note = f'odd: {x}'",
        "return Found(note='odd one')", "return f'a text that is longer than others: {x}'",
    ],
)  # fmt: skip
def test_a_new_warning_is_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.warning_texts.ROOT", tmp_path)
    (tmp_path / "module.py").write_text(
        f'def find(x):\n    """Of no weight at all, as it is documentation."""\n    {line}\n'
    )
    assert len(list(texts(["."], ()))) == 1
    assert not list(texts(["."], {"find"}))
    assert not list(texts(["."], {"module.find"}))
