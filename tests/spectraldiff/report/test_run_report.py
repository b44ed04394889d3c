"""Reports: what they say, that nothing in them is markup by accident, and that a real browser shows them whole."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spectraldiff.accuracy.area_adjusted import Estimate, area_adjusted
from spectraldiff.accuracy.assessment import Assessment
from spectraldiff.accuracy.mapped_scene import MappedScene
from spectraldiff.accuracy.metrics import calibration, score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble.selection import Candidate, Selection
from spectraldiff.report import html_page
from spectraldiff.report.accuracy_report import AccuracyReport, write_accuracy_report
from spectraldiff.report.run_report import Report, write_report
from spectraldiff.splits.draw import make_split
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import OutputError

NASTY = "Oats <b>& \"barley\"</b> <script>document.title='broken'</script>"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
# What a page says of itself: how wide it is, what it loaded from elsewhere, and each picture's width.
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  root.dataset.probe = JSON.stringify({
    title: document.title, overflow: root.scrollWidth - root.clientWidth,
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    images: [...document.images].map(image => image.naturalWidth),
    tables: [...document.querySelectorAll("table")].map(table => table.rows.length),
    text: document.body.innerText,
  });
});</script></body>"""


SELECTION = Selection(
    (
        Candidate("LDA, bands, one pixel", 0.123, 0.75),
        Candidate("attention members", 0.2, 0.25),
        Candidate("odd", 0.9, 0),
    ),
    linear=None,
    share=0.25,
    iterations=2,
    temperature=1.0,
    held_out=np.zeros((0, 4)),
    units="blocks of 8 x 8 pixels",
    folds=5,
    pixels=40,
)


class Tags(HTMLParser):
    """Checks that elements are closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in {"img", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def parts(tiny_scene: LabelledScene):
    """The tiny scene with a nasty class name, and a map of it with mistakes."""
    classes = (LandCoverClass(1, NASTY, tiny_scene.classes[0].colour), *tiny_scene.classes[1:])
    scene = replace(tiny_scene, classes=classes, name="Field & <stream>")
    split = make_split(scene.labels, "per-class:10", 0)
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: scene.labels.shape[0], : scene.labels.shape[1]]
    predicted = (1 + (rows >= 13) * 2 + (columns >= 15)).astype(np.uint8)
    wrong = generator.random(predicted.shape) < 0.1
    predicted[wrong] = generator.integers(0, 5, int(wrong.sum()))
    confidence = np.where(predicted > 0, generator.uniform(0.4, 1, predicted.shape), 0).astype(np.float32)
    return scene, split, predicted, confidence


@pytest.fixture(scope="module")
def report(parts) -> Report:
    scene, split, predicted, confidence = parts
    sure = split.test & (predicted > 0)
    return Report(
        [MappedScene(scene, split, predicted, confidence)],
        score(np.where(split.test, scene.labels, 0), predicted, 4),
        command="sdiff train --dataset 'tiny & small'",
        window=5,
        calibration=calibration(confidence[sure], (predicted == scene.labels)[sure]),
        leakage=0.375,
        selection=SELECTION,
        histories={"Denoiser, L1 on the noise": [1 / (i + 1) for i in range(50)]},
        seconds={"diffusion": 312.4, "map": 2.0},
        facts={"Preset": "fast"},
        versions={"torch": "2.6.0"},
        notes=["class Oats is small"],
    )


@pytest.fixture(scope="module")
def assessment(parts) -> Assessment:
    scene, _, predicted, confidence = parts
    accuracy = score(scene.labels, predicted, 4)
    scored = (scene.labels > 0) & (predicted > 0)
    return Assessment(
        classes=scene.classes,
        predicted=predicted,
        accuracy=accuracy,
        adjusted=area_adjusted(accuracy.confusion[:, 1:].T, np.bincount(predicted.ravel(), minlength=5)[1:], 0.04),
        calibration=calibration(confidence[scored], (scene.labels == predicted)[scored]),
        confidence=confidence,
        left_out={"excluded": 3, "nodata": 12},
        hectares=0.04,
        notes=("a warning",),
        values=(1, 2, 3, 4),
    )


@pytest.fixture(scope="module")
def run_page(report: Report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, report)
    return path


@pytest.fixture(scope="module")
def accuracy_page(assessment: Assessment, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("accuracy") / "accuracy.html"
    write_accuracy_report(path, AccuracyReport("map.tif", "reference.gpkg", assessment, "sdiff evaluate map.tif"))
    return path


@pytest.mark.parametrize("name", ["run_page", "accuracy_page"])
def test_page_is_whole_escaped_and_needs_nothing_else(request, name):
    text = request.getfixturevalue(name).read_text("utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "b" not in tags.seen
    assert "link" not in tags.seen
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text
    assert [p.name for p in request.getfixturevalue(name).parent.iterdir()] == [request.getfixturevalue(name).name]


def test_run_says_what_it_reached(run_page, report):
    text = run_page.read_text("utf-8")
    for words in (
        "<title>Field &amp; &lt;stream&gt;: land-cover map</title>",
        f"<dd>{100 * report.accuracy.oa:.2f}<small> %</small></dd>",
        f"{100 * report.calibration.ece:.2f}",
        "37.5 % of the test pixels have a training pixel in the window of 5 \N{MULTIPLICATION SIGN} 5 pixels",
        "sdiff train --dataset &#39;tiny &amp; small&#39;",
        "5 min 12 s",
        "5 min 14 s",
        ">Class Oats is small.</p>",
        "2 of 3 candidates are members of the model; the largest share of its scores, 75 %, is that of LDA, bands, one",
        'LDA, bands, one pixel</th><td class="number">0.123</td><td class="number">75.00</td>',
        f'odd</th><td class="number">0.900</td><td class="number">{html_page.ABSENT}</td>',
    ):
        assert words in text
    assert "raw bands" not in text


def test_table_of_classes_counts_training_and_test_pixels(run_page, report, parts):
    scene, split, *_ = parts
    test = int((scene.labels[split.test] == 4).sum())
    found = f"{100 * report.accuracy.per_class[3]:.2f}"
    row = rf'Bare soil</th><td class="number">10</td><td class="number">{test}</td><td class="number">{found}</td>'
    assert row in run_page.read_text("utf-8")


def test_run_with_little_to_say(tmp_path, report):
    bare = replace(report.scenes[0], confidence=None)
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, Report([bare, bare], report.accuracy, "sdiff train", 5, raw_accuracy=report.accuracy, leakage=0))
    text = path.read_text("utf-8")
    assert text.count("<img") == 5  # two scenes, two maps, one confusion matrix
    assert "No test pixel has a training pixel in its window" in text
    assert "Found on raw bands, %" in text
    assert "Calibration" not in text
    assert "<h2>Ensemble</h2>" not in text


def test_accuracy_says_what_was_left_out_and_how_sure_it_is(accuracy_page, assessment):
    text = accuracy_page.read_text("utf-8")
    oa = assessment.adjusted.oa
    kept = assessment.accuracy.pixels / (assessment.accuracy.pixels + 12)
    for words in (
        f"{100 * oa.value:.1f} \N{PLUS-MINUS SIGN} {100 * oa.half_width:.1f}",
        "no data at 12 labelled pixels",
        f"hold for the {100 * kept:.1f} % of the labelled pixels",
        "3 labelled pixels were excluded",
        "Estimated, ha",
        "Olofsson et al. 2014",
        ">A warning.</p>",
        "3 labelled pixels were excluded on request.<",
    ):
        assert words in text


def test_map_without_areas_gives_shares_and_names_what_is_not_sampled(tmp_path, assessment):
    accuracy = score(np.array([1, 2]), np.array([1, 2]), 4)
    adjusted = area_adjusted(accuracy.confusion[:, 1:].T, [5, 5, 5, 0])
    found = replace(assessment, accuracy=accuracy, adjusted=adjusted, hectares=None)
    write_accuracy_report(tmp_path / "a.html", AccuracyReport("m.tif", "r.tif", found, "sdiff evaluate"))
    text = (tmp_path / "a.html").read_text("utf-8")
    assert "Areas in hectares need a map in a CRS with one area for all pixels" in text
    assert f"No labelled pixel lies where the map shows {found.classes[2].name}." in text


def test_means_say_which_classes_they_leave_out(tmp_path, report, assessment):
    three, two = (
        "is that of 3 of 4 classes, for no scored pixel is",
        "is that of 2 of 4 classes, for no scored pixel is",
    )
    found, right = f"The mean of Found {three} labelled as the others", f"he mean of Right {two} mapped as the others."
    whole, parted = score(np.arange(1, 5), np.arange(1, 5), 4), score(np.array([1, 2, 3]), np.array([1, 2, 1]), 4)
    for accuracy, said in ((whole, False), (parted, True)):
        write_report(tmp_path / "r.html", replace(report, accuracy=accuracy))
        one = AccuracyReport("m.tif", "r.tif", replace(assessment, accuracy=accuracy), "sdiff evaluate")
        write_accuracy_report(tmp_path / "a.html", one, overwrite=True)
        for name in ("r.html", "a.html"):
            text = (tmp_path / name).read_text("utf-8")
            assert (found in text, right in text, "(AA) of 3 of 4 classes<" in text) == (said,) * 3
            assert ("of 4 classes" in text) == said


def test_accuracy_report_replaces_a_file_only_if_asked(accuracy_page, assessment):
    report = AccuracyReport("map.tif", "r.tif", assessment, "sdiff evaluate")
    before = accuracy_page.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_accuracy_report(accuracy_page, report)
    assert accuracy_page.read_bytes() == before


@pytest.mark.parametrize(
    ("estimate", "written"),
    [
        (Estimate(0.947, 0.0186), "94.7 \N{PLUS-MINUS SIGN} 1.9"),
        (Estimate(0.5, float("nan")), "50.0 \N{PLUS-MINUS SIGN} ?"),
        (Estimate(float("nan"), float("nan")), "\N{EN DASH}"),
    ],
)
def test_intervals(estimate, written):
    assert html_page.interval(estimate, 100, 1) == written


@pytest.mark.parametrize(("seconds", "written"), [(3.21, "3.2 s"), (119.6, "2 min 0 s"), (7300, "2 h 1 min")])
def test_durations(seconds, written):
    assert html_page.duration(seconds) == written


def test_large_rasters_are_thinned_out():
    image = np.zeros((10, 4000, 3), np.uint8)
    with Image.open(BytesIO(html_page.raster(image))) as small:
        assert small.size == (1334, 4)


def browse(tmp_path: Path, path: Path, width: int, *options: str) -> str:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1400", *options, path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium and no google-chrome")
@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize(
    ("name", "title", "images", "tables"),
    [
        ("run_page", "Field & <stream>: land-cover map", 6, [5, 6, 2, 4, 1, 3, 1]),
        ("accuracy_page", "Accuracy of map.tif", 4, [6, 6]),
    ],
)
def test_browser_shows_everything(request, tmp_path, name, title, images, tables, width):
    text = request.getfixturevalue(name).read_text("utf-8")
    (tmp_path / "probed.html").write_text(text.replace("</body>", PROBE), "utf-8")
    dom = browse(tmp_path, tmp_path / "probed.html", width, "--dump-dom")
    found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))
    assert found["title"] == title
    assert len(found["images"]) == images
    assert min(found["images"]) > 0
    assert found["tables"] == tables
    assert NASTY in found["text"]
    assert (found["overflow"], found["loaded"]) == (0, [])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium and no google-chrome")
def test_browser_paints_map_and_legend(run_page, tmp_path, parts):
    browse(tmp_path, run_page, 1200, f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (1400, 1200, 3)
    for c in parts[0].classes:
        assert (pixels == c.colour).all(axis=-1).mean() > 0.01
