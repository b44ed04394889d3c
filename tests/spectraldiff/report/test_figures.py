"""Pictures: they are drawn, whole, with the right colours, limits and bands, and leave nothing behind."""

import errno
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from spectraldiff.accuracy.mapped_scene import Picture
from spectraldiff.accuracy.metrics import calibration, score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.models import reconstruction
from spectraldiff.report import figures
from spectraldiff.report.false_colour import false_colour, rgb_bands, stretch_limits
from spectraldiff.report.plotting import short_names
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import OutputError

CLASSES = tuple(
    LandCoverClass(value, name, colour)
    for value, name, colour in ((1, "Cost $1 of $2", (10, 200, 30)), (2, "水", (0, 60, 240)), (3, "Rock", (200, 0, 9)))
)
WAVELENGTHS = np.array([450.0, 470, 540, 560, 630, 650, 690, 2200])


def tiny_scene(height: int = 12, width: int = 10) -> LabelledScene:
    generator = np.random.default_rng(0)
    cube = generator.normal(size=(height, width, 8)).astype(np.float32)
    labels = generator.integers(0, 4, (height, width)).astype(np.uint8)
    return LabelledScene("tiny", cube, labels, CLASSES, WAVELENGTHS)


def pixels_of(path: Path) -> np.ndarray:
    """Return the picture, after checking that it is a whole PNG and the only file in its folder."""
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((picture == colour).all(axis=-1).mean())


def margins_are_white(picture: np.ndarray) -> bool:
    """Whether nothing touches the border of the picture: a clipped label would."""
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    return all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize("history", [[(i, 1 / (i + 1)) for i in range(300)], [(5, 0.3)], [], [(1, 0.0), (2, np.nan)]])
def test_loss_curve(tmp_path, history):
    path = tmp_path / "sub" / "loss.png"
    figures.loss_curve(path, history, "Pretraining", "L1")
    picture = pixels_of(path)
    assert margins_are_white(picture)
    assert share_of(picture, (0, 114, 178)) > 0


def drawn(scene: LabelledScene, predicted: np.ndarray) -> Picture:
    return Picture(scene.cube, scene.wavelengths, scene.valid, scene.labels, predicted)


@pytest.mark.parametrize("size", [(12, 10), (10, 60)])
def test_class_maps_paint_labels_and_map(tmp_path, size):
    scene = tiny_scene(*size)
    predicted = np.full(size, 2, dtype=np.uint8)
    figures.class_maps(tmp_path / "maps.png", scene, drawn(scene, predicted), "Maps")
    picture = pixels_of(tmp_path / "maps.png")
    assert margins_are_white(picture)
    shares = [share_of(picture, c.colour) for c in CLASSES]
    assert shares[1] > 3 * shares[0] > 0
    assert shares[2] > 0


def test_paint_leaves_what_has_no_class_white():
    painted = figures.paint(np.array([[0, 1], [3, 9]]), CLASSES)
    assert painted.tolist() == [[[255] * 3, [10, 200, 30]], [[200, 0, 9], [255] * 3]]


@pytest.mark.parametrize("unclassified", [0, 4])
def test_confusion_matrix(tmp_path, unclassified):
    reference = np.tile(np.arange(1, 4), 50)
    predicted = np.where(np.arange(150) < 140, reference, 1)
    predicted[:unclassified] = 0
    figures.confusion_matrix(tmp_path / "c.png", score(reference, predicted, 3), CLASSES)
    assert margins_are_white(pixels_of(tmp_path / "c.png"))


def test_confusion_matrix_with_many_classes_and_one_that_does_not_occur(tmp_path):
    classes = [LandCoverClass(v, f"A land-cover class with a long name {v}", (v, v, v)) for v in range(1, 41)]
    reference = np.arange(1, 40)
    figures.confusion_matrix(tmp_path / "c.png", score(reference, reference, 40), classes)
    assert margins_are_white(pixels_of(tmp_path / "c.png"))


def named(count: int, name: str) -> tuple[LandCoverClass, ...]:
    return tuple(LandCoverClass(v, f"{name} {v}", (10 * v, 250 - 10 * v, 99)) for v in range(1, count + 1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [3, 16])
@pytest.mark.parametrize(
    "words", ["land principally occupied by agriculture, with natural vegetation, ", "MAMMOWWOOD "]
)
def test_names_of_any_length_leave_room_for_the_picture(tmp_path, count, words):
    classes = named(count, (words * 20)[:490])
    reference = np.arange(1, count + 1)
    (tmp_path / "m").mkdir()
    figures.confusion_matrix(tmp_path / "m" / "c.png", score(reference, reference, count), classes)
    matrix = pixels_of(tmp_path / "m" / "c.png")
    assert margins_are_white(matrix)
    assert share_of(matrix, (8, 48, 107)) > 0.2 / count  # the full blue of the diagonal
    scene = replace(tiny_scene(), classes=classes)
    spectra = [reconstruction.Spectra(c.name, *np.eye(3)) for c in classes]
    figures.spectral_curves(tmp_path / "m" / "c.png", spectra, None)
    assert margins_are_white(pixels_of(tmp_path / "m" / "c.png"))
    figures.class_maps(tmp_path / "maps.png", scene, drawn(scene, scene.labels), "Maps")
    with Image.open(tmp_path / "maps.png") as image:
        assert margins_are_white(np.asarray(image.convert("RGB")))


def test_short_names_are_told_apart():
    first, last = "a" * 16, "b" * 15
    alike = [f"{first} one {last}", f"{first} two {last}"]
    found = short_names(["corn", *alike, "c" * 32, f"{first} one {last}c"])
    assert found == ["corn", f"2: {first}…{last}", f"3: {first}…{last}", "c" * 32, f"{first}…{last[1:]}c"]


@pytest.mark.parametrize("size", [(40, 30), (12, 300), (300, 12)])
def test_confidence_map_is_dark_where_the_map_is_unsure_and_white_without_a_class(tmp_path, size):
    confidence = np.full(size, 0.95)
    confidence[: size[0] // 2] = 0.05
    confidence[:, : size[1] // 3] = np.nan
    confidence[:, : size[1] // 6] = 0
    figures.confidence_map(tmp_path / "c.png", confidence, "Confidence")
    picture = pixels_of(tmp_path / "c.png")
    assert margins_are_white(picture)
    dark, bright = (share_of(picture, tuple(colormaps["cividis"](v, bytes=True)[:3])) for v in (0.05, 0.95))
    assert 0 < dark < 2 * bright
    assert 0 < bright < 2 * dark


def test_reliability_diagram(tmp_path):
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 500)
    figures.reliability_diagram(tmp_path / "r.png", calibration(confidence, generator.random(500) < 0.5), "Reliability")
    picture = pixels_of(tmp_path / "r.png")
    assert margins_are_white(picture)
    assert share_of(picture, (0, 114, 178)) > 0


def test_bytes_of_a_picture_are_those_of_its_file(tmp_path):
    figures.loss_curve(tmp_path / "loss.png", [(1, 1.0), (2, 0.5)], "Loss")
    with Image.open(BytesIO(figures.loss_curve.png([(1, 1.0), (2, 0.5)], "Loss"))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels_of(tmp_path / "loss.png"))


def test_reconstruction_strip_shares_the_stretch_of_the_original(tmp_path):
    original = tiny_scene().cube
    images = [(step, original + step) for step in (100, 50, 20, 10, 5, 3, 2, 1, 0)]
    figures.reconstruction_strip(tmp_path / "strip.png", images, original, WAVELENGTHS, "Strip")
    picture = pixels_of(tmp_path / "strip.png")
    assert margins_are_white(picture)
    # Ten panels in two rows of five; the first, shifted far up, is white inside.
    height, width = picture.shape[:2]
    assert (picture[height // 4 : height // 3, width // 20 : width // 8] == 255).all()
    assert not (picture[-height // 3 : -height // 4, -width // 8 : -width // 20] == 255).all()


@pytest.mark.parametrize(("count", "wavelengths"), [(1, WAVELENGTHS), (4, None), (6, WAVELENGTHS)])
def test_spectral_curves(tmp_path, count, wavelengths):
    cube = tiny_scene().cube
    spectra = [reconstruction.Spectra(f"pixel {i}", cube[i, 0], cube[i, 1], cube[i, 2]) for i in range(count)]
    figures.spectral_curves(tmp_path / "s.png", spectra, wavelengths, "Spectra")
    picture = pixels_of(tmp_path / "s.png")
    assert margins_are_white(picture)
    assert share_of(picture, (213, 94, 0)) > 0


def test_lines_are_sorted_and_break_where_bands_are_missing():
    x, y = figures.broken_line(np.array([1, 3, 2, 4]), np.array([400.0, 420, 410, 900]))
    np.testing.assert_array_equal(x, [400, 410, 420, np.nan, 900])
    np.testing.assert_array_equal(y, [1, 2, 3, np.nan, 4])
    x, y = figures.broken_line(np.array([5, 6]), None)
    assert (x.tolist(), y.tolist()) == ([1, 2], [5, 6])


def test_moving_average_keeps_a_constant_and_does_not_lag():
    np.testing.assert_allclose(figures.moving_average(np.full(700, 0.25)), 0.25)
    falling = np.exp(-np.arange(1000) / 300)
    inner = slice(100, 900)
    np.testing.assert_allclose(figures.moving_average(falling)[inner], falling[inner], rtol=0.01)


def test_bands_nearest_to_red_green_and_blue():
    assert rgb_bands(8, WAVELENGTHS) == (4, 2, 0)
    assert rgb_bands(8, WAVELENGTHS[::-1]) == (2, 4, 6)


@pytest.mark.parametrize("wavelengths", [None, np.linspace(1000, 2500, 9)])
def test_bands_are_spread_where_the_visible_is_not_there(wavelengths):
    assert rgb_bands(9, wavelengths) == (6, 4, 2)
    assert rgb_bands(1, None) == (0, 0, 0)


def test_false_colour_stretches_between_percentiles_of_valid_pixels():
    cube = np.repeat(np.arange(101, dtype=np.uint16).reshape(1, 101, 1), 3, axis=2)
    cube[0, 0] = 60000
    valid = cube[..., 0] < 60000
    np.testing.assert_allclose(stretch_limits(cube, None, valid), [[2.98, 98.02]] * 3)
    picture = false_colour(cube, None, valid=valid)
    assert picture.shape == (1, 101, 3)
    assert picture.dtype == np.uint8
    assert picture[0, [0, 1, 2, 99, 100], 0].tolist() == [255, 0, 0, 255, 255]
    assert picture[0, 50, 1] == round((50 - 2.98) / (98.02 - 2.98) * 255)


def test_false_colour_takes_limits_and_survives_nothing_to_see():
    cube = np.array([[[0.0, 5.0, 10.0], [np.nan, 5.0, 5.0]]])
    limits = np.array([[0.0, 10.0]] * 3)
    # Without wavelengths, red is the last quarter of the spectrum: bands 1.5 -> 2, 1, 0.5 -> 0.
    assert false_colour(cube, None, limits=limits).tolist() == [[[255, 128, 0], [255, 255, 255]]]
    assert (false_colour(np.full((2, 2, 3), np.nan), None) == 255).all()
    assert (false_colour(np.full((2, 2, 3), 7), None) == 0).all()


def test_full_disk_leaves_the_old_picture_and_no_debris(tmp_path, monkeypatch):
    (tmp_path / "loss.png").write_text("old")

    def full(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OutputError, match=r"loss\.png' cannot be written: the disk is full"):
        figures.loss_curve(tmp_path / "loss.png", [(1, 1.0)], "Loss")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    assert (tmp_path / "loss.png").read_text() == "old"


def test_state_of_matplotlib_is_left_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.loss_curve(tmp_path / "loss.png", [(1, 1.0)], "Loss")
    assert dict(mpl.rcParams) == before
