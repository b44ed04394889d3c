"""The page of `sdiff view`: its numbers are the scene's, wherever the map lies on it."""

import base64
import html
import json
import re
import zlib

import numpy as np
import pytest

import spectraldiff as sd
from spectraldiff.report import map_view
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, OutputError, SceneError, UsageError
from spectraldiff_runtime.geotiff.class_raster import write_class_raster
from tests.runtime.products import builders
from tests.spectraldiff.report.test_run_report import CHROMIUM, NASTY, browse
from tests.tiny_model import UTM

CLASSES = [
    LandCoverClass(1, NASTY, (200, 0, 0)),
    LandCoverClass(2, "Water", (0, 0, 200)),
    LandCoverClass(3, "Rare", (9, 9, 9)),
]


def write_map(path, labels, transform=UTM):
    write_class_raster(path, labels.astype(np.uint8), CLASSES, crs="EPSG:32616", transform=tuple(transform)[:6])
    return path


@pytest.fixture
def drawn(cube):
    """A map of the cube (29, 37): two classes side by side, and a corner without a class."""
    labels = np.ones(cube.shape[:2], np.uint8)
    labels[:, 20:], labels[:4, :4] = 2, 0
    return labels


def data_of(path):
    text = path.read_text("utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def unpacked(text, kind, *shape):
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(kind).reshape(shape)


def spectra_of(data):
    own = data["spectra"]
    return unpacked(own["values"], f"<{own['type']}", own["height"], own["width"], own["bands"])


def test_spectra_labels_and_means_are_those_of_the_scene(cube, drawn, write_scene, tmp_path):
    scene, classes = write_scene(waves=[460, 550, 640, 700, 800, 900, 1000]), write_map(tmp_path / "c.tif", drawn)
    found = sd.view(classes, scene, tmp_path / "view.html")
    assert (found.picture_step, found.spectra_step, found.spectra) == (1, 1, cube.shape[0] * cube.shape[1])
    assert found.size == (tmp_path / "view.html").stat().st_size
    data = data_of(tmp_path / "view.html")
    np.testing.assert_array_equal(spectra_of(data), cube)
    own = data["spectra"]
    np.testing.assert_array_equal(unpacked(own["labels"], "<u2", *drawn.shape), drawn)
    for kind in (1, 2):
        np.testing.assert_allclose(own["means"][kind - 1], cube[drawn == kind].mean(axis=0), rtol=1e-5)
        assert own["pixels"][kind - 1] == np.count_nonzero(drawn == kind)
    assert own["means"][2] is None
    # With two classes, the runner-up of each is the other.
    np.testing.assert_array_equal(unpacked(own["second"], "<u2", *drawn.shape), np.where(drawn, 3 - drawn, 0))
    assert data["axis"] == {"title": "wavelength, nm", "values": [460, 550, 640, 700, 800, 900, 1000]}
    assert [c["share"] for c in data["classes"]] == pytest.approx([(drawn == k).mean() for k in (1, 2, 3)])


def test_the_runner_up_is_that_of_the_probabilities(cube, drawn, write_scene, tmp_path):
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], drawn.shape).astype(np.float32)
    shares[drawn == 0] = 0
    sd.view(
        write_map(tmp_path / "c.tif", drawn),
        write_scene(),
        tmp_path / "v.html",
        probabilities=write_scene("p.tif", shares),
    )
    own = data_of(tmp_path / "v.html")["spectra"]
    wanted = np.where(drawn > 0, np.argsort(shares, axis=2)[..., 1] + 1, 0)
    np.testing.assert_array_equal(unpacked(own["second"], "<u2", *drawn.shape), wanted)
    with pytest.raises(SceneError, match="7 bands and the map 3 classes"):
        sd.view(tmp_path / "c.tif", write_scene(), tmp_path / "w.html", probabilities=write_scene("q.tif"))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_scenes_of_few_bands_have_a_picture(cube, drawn, write_scene, tmp_path, count):
    scene = write_scene(values=cube[..., :count])
    sd.view(write_map(tmp_path / "c.tif", drawn), scene, tmp_path / "view.html")
    picture = data_of(tmp_path / "view.html")["picture"]
    assert (picture["rows"], picture["columns"]) == drawn.shape


def test_a_page_never_replaces_what_it_shows(cube, drawn, write_scene, tmp_path):
    scene, classes = write_scene(), write_map(tmp_path / "c.tif", drawn)
    for number, shown in enumerate((scene, classes)):
        page, before = tmp_path / f"{number}.html", shown.read_bytes()
        page.symlink_to(shown)
        with pytest.raises(OutputError, match="is the same file as the input"):
            sd.view(classes, scene, page, overwrite=True)
        assert shown.read_bytes() == before


def test_a_map_of_a_part_lies_on_its_part(cube, drawn, write_scene, tmp_path):
    part = write_map(tmp_path / "c.tif", drawn[5:25, 7:30], UTM @ UTM.translation(7, 5))
    sd.view(part, write_scene(), tmp_path / "view.html")
    np.testing.assert_array_equal(spectra_of(data_of(tmp_path / "view.html")), cube[5:25, 7:30])


@pytest.mark.parametrize("moved", [(7.5, 5), (30, 5), (-1, 0)])
def test_a_map_that_lies_elsewhere_is_refused(cube, drawn, write_scene, tmp_path, moved):
    part = write_map(tmp_path / "c.tif", drawn[5:25, 7:30], UTM @ UTM.translation(*moved))
    with pytest.raises(LabelsError, match="the scene"):
        sd.view(part, write_scene(), tmp_path / "view.html")
    assert not (tmp_path / "view.html").exists()


def test_a_scene_in_sensor_geometry_is_shown_where_it_lies_on_the_map(tmp_path):
    made = builders.emit(tmp_path / "emit")
    glt_y, glt_x = made.extra
    labels = (glt_y > 0).astype(np.uint8)
    write_class_raster(tmp_path / "c.tif", labels, CLASSES[:1], crs=made.crs, transform=tuple(made.transform)[:6])
    found = sd.view(tmp_path / "c.tif", made.path, tmp_path / "view.html")
    good = [band - 1 for band in range(1, len(made.waves) + 1) if band not in made.bad]
    there = glt_y > 0
    known = np.zeros(there.shape, bool)
    known[there] = made.valid[glt_y[there] - 1, glt_x[there] - 1]
    values = spectra_of(data_of(tmp_path / "view.html"))
    wanted = made.physical[..., good][glt_y - 1, glt_x - 1]
    np.testing.assert_array_equal(values[known], wanted[known].astype(np.float32))
    assert found.spectra == known.sum()


def test_values_that_are_rounded_are_named(cube, drawn, write_scene, tmp_path, sdiff):
    classes = write_map(tmp_path / "c.tif", drawn)
    exact, wide = write_scene(), write_scene("wide.tif", values=cube / 3)
    code, said, _ = sdiff("view", classes, "--scene", wide, "--out", tmp_path / "wide.html")
    assert code == 0
    assert "The scene holds float64: the page shows its values as float32." in said
    assert "The scene holds float64: its values are shown as float32." in (tmp_path / "wide.html").read_text("utf-8")
    values = spectra_of(data_of(tmp_path / "wide.html"))
    np.testing.assert_array_equal(values, (cube / 3).astype(np.float32))
    assert "float32" not in sdiff("view", classes, "--scene", exact, "--out", tmp_path / "view.html")[1]


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_values_beyond_all_numbers_are_drawn_without_a_word(cube, drawn, write_scene, tmp_path, value, recwarn):
    """No warning of NumPy, and no figure that JSON does not know."""
    values = cube.astype(np.float64)
    values[6, 3], values[8, 30] = value, -value
    scene = write_scene("odd.tif", values=values)
    sd.view(write_map(tmp_path / "c.tif", drawn), scene, tmp_path / "view.html")
    assert [str(one.message) for one in recwarn if one.category is RuntimeWarning] == []
    assert not re.search(r"\bInfinity|\bNaN", json.dumps(data_of(tmp_path / "view.html")))


def test_what_is_too_large_is_thinned_out_and_said(cube, drawn, write_scene, tmp_path, monkeypatch, sdiff):
    monkeypatch.setattr(map_view, "LONGEST", 20)
    monkeypatch.setattr(map_view, "AT_ONCE", 20 * 15 * 7)
    classes, scene = write_map(tmp_path / "c.tif", drawn), write_scene()
    code, said, _ = sdiff("view", classes, "--scene", scene, "--out", tmp_path / "view.html")
    assert code == 0
    assert "the picture of every 2 pixels; spectra of every 2 pixels" in said
    np.testing.assert_array_equal(spectra_of(data_of(tmp_path / "view.html")), cube[::2, ::2])
    text = (tmp_path / "view.html").read_text("utf-8")
    assert "Spectra are held of every 2nd pixel" in text
    assert "Mean spectra are those of every 2nd pixel" in text
    # A page with less room holds fewer of the spectra that were read.
    monkeypatch.setattr(map_view, "LARGEST", 3_000)
    assert sd.view(classes, scene, tmp_path / "less.html").spectra_step % 2 == 0
    assert spectra_of(data_of(tmp_path / "less.html")).size < cube[::2, ::2].size


def test_a_page_without_room_still_holds_one_spectrum(cube, drawn, write_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(map_view, "LARGEST", 0)
    found = sd.view(write_map(tmp_path / "c.tif", drawn), write_scene(), tmp_path / "view.html")
    assert found.spectra == 1
    np.testing.assert_array_equal(spectra_of(data_of(tmp_path / "view.html")), cube[:1, :1])


def test_outputs_are_checked_first(drawn, write_scene, tmp_path):
    classes, scene = write_map(tmp_path / "c.tif", drawn), write_scene()
    with pytest.raises(UsageError, match="wanted a page"):
        sd.view(classes, scene, tmp_path / "view.pdf")
    (tmp_path / "view.html").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        sd.view(classes, scene, tmp_path / "view.html")
    assert (tmp_path / "view.html").read_text() == "mine"
    sd.view(classes, scene, tmp_path / "view.html", overwrite=True)


# Waits until the page is drawn, clicks on two pixels, switches a class off, and writes down what it found.
CLICKS = """<script>const wait = setInterval(() => {
  if (!document.body.dataset.ready) return;
  clearInterval(wait);
  const stack = document.getElementById("stack"), found = [];
  for (const [row, column] of ROWS) {
    const box = stack.getBoundingClientRect();
    const clientX = box.left + (column + 0.5) / COLUMNS * box.width;
    const clientY = box.top + (row + 0.5) / HEIGHT * box.height;
    stack.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX, clientY }));
    found.push({ ...window.chosen, facts: document.getElementById("facts").innerText });
  }
  const canvas = document.getElementById("over"), pen = canvas.getContext("2d");
  const read = () => [...pen.getImageData(0, 0, canvas.width, canvas.height).data];
  const before = read();
  document.querySelector("#legend input").click();
  const after = read();
  document.documentElement.dataset.probe = JSON.stringify({ ready: document.body.dataset.ready, found, before, after,
    legend: document.getElementById("legend").innerText, paths: document.querySelectorAll("#chart path").length,
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(n => !/^(data|blob):/.test(n)) });
}, 20);</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium and no google-chrome")
def test_a_click_shows_the_scenes_spectrum_and_a_box_hides_a_class(cube, drawn, write_scene, tmp_path):
    sure = np.where(drawn > 0, 0.25 + drawn / 4, 0).astype(np.float32)
    conf = write_scene("conf.tif", sure[..., None])
    sd.view(write_map(tmp_path / "c.tif", drawn), write_scene(), tmp_path / "view.html", confidence=conf)
    places = [(10, 3), (28, 36)]
    script = CLICKS.replace("ROWS", json.dumps(places)).replace("COLUMNS", "37").replace("HEIGHT", "29")
    (tmp_path / "probed.html").write_text(
        (tmp_path / "view.html").read_text("utf-8").replace("</body>", script), "utf-8"
    )
    dom = browse(tmp_path, tmp_path / "probed.html", 1200, "--virtual-time-budget=20000", "--dump-dom")
    found = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))
    assert found["ready"] == "yes"
    assert found["loaded"] == []
    for (row, column), chosen in zip(places, found["found"], strict=True):
        assert (chosen["row"], chosen["column"], chosen["label"]) == (row, column, drawn[row, column])
        assert chosen["spectrum"] == cube[row, column].tolist()
        assert f"{25 + 25 * drawn[row, column]} %" in chosen["facts"]
        assert f"{480_010 + 20 * column}, {4_469_990 - 20 * row} (EPSG:32616)" in chosen["facts"]
    assert found["paths"] == 3  # the pixel, the mean of its class, that of the runner-up
    assert NASTY in found["legend"]
    before, after = (np.array(found[key], np.uint8).reshape(*drawn.shape, 4) for key in ("before", "after"))
    for kind in (1, 2):
        assert (before[drawn == kind] == (*CLASSES[kind - 1].colour, 255)).all()
    assert (before[drawn == 0] == 0).all()
    assert (after[drawn == 1] == 0).all()
    assert (after[drawn == 2] == before[drawn == 2]).all()
