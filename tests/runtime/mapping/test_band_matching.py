"""Which bands of a scene a model gets."""

import json
import warnings

import numpy as np
import pytest

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.mapping.band_matching import fit_bands, match_bands, tolerance, wavelength_difference
from spectraldiff_runtime.scene.array import ArrayScene
from spectraldiff_runtime.scene.raster import RasterScene
from spectraldiff_runtime.scene.resampled import BandInterpolation, ResampledScene

OWN = [400.0, 450.0, 500.0, 550.0, 600.0, 650.0, 700.0]  # the model's


def fitted(card, scene, explicit=False, resample=False):
    """Return the scene that the model gets and the warnings."""
    lines = []
    return fit_bands(card, scene, explicit=explicit, resample=resample, warn=lines.append), lines


def scene_of(waves, nodata=None, dtype=np.uint16):
    values = np.random.default_rng(0).integers(0, 1000, (6, 5, len(waves)))
    return ArrayScene(values.astype(dtype), nodata, np.array(waves, np.float64), name="my scene")


@pytest.mark.parametrize("shift", [0, 24.9, -24.9])
def test_the_same_centres_pass(card, shift):
    scene = scene_of(np.array(OWN) + shift)
    found, lines = fitted(card, scene)
    assert found is scene
    assert lines == []


def test_centres_that_do_not_rise_pass(changed_card):
    waves = [400.0, 650.0, 640.0, 700.0, 690.0, 800.0, 900.0]  # detectors overlap
    scene = scene_of(waves)
    assert fitted(changed_card(wavelengths=tuple(waves)), scene)[0] is scene


def test_a_superset_in_another_order_is_chosen(card):
    rng = np.random.default_rng(1)
    waves = rng.permutation(np.concatenate([np.array(OWN) + rng.uniform(-9, 9, 7), np.arange(1000.0, 1500, 50)]))
    scene = scene_of(waves, nodata=tuple(range(17)))
    found, lines = fitted(card, scene)
    at = [int(np.abs(waves - own).argmin()) for own in OWN]
    assert found.bands == tuple(i + 1 for i in at)
    assert (found.nodata, lines) == (tuple(at), [])
    np.testing.assert_array_equal(found.wavelengths, waves[at])
    np.testing.assert_array_equal(found.read(1, 4, 0, 5), scene.cube[1:4][..., at].transpose(2, 0, 1))
    assert "7 bands were chosen by wavelength" in found.note


def test_a_raster_in_another_order(card, write_scene, cube):
    with RasterScene(write_scene(waves=OWN[::-1])) as scene:
        found, _ = fitted(card, scene)
        np.testing.assert_array_equal(found.read(0, 29, 0, 37), cube[..., ::-1].transpose(2, 0, 1))
        assert found.note.endswith("(other order)")
        assert found.fingerprint()["bands"] == [7, 6, 5, 4, 3, 2, 1]


def test_a_band_is_used_once():
    found, wanted = np.array([400.0, 402.0, 430.0]), np.array([401.0, 401.5, 430.0])
    assert match_bands(found, wanted, 5.0).tolist() == [0, 1, 2]
    assert match_bands(found, np.array([401.0, 401.5, 401.2]), 5.0).tolist() == [0, 1, -1]


def twin(found, wanted, within):
    """Give the nearest pairs to each other, one pair at a time."""
    left = {(m, s) for m in range(len(wanted)) for s in range(len(found))}
    partner = [-1] * len(wanted)
    while left:
        m, s = min(left, key=lambda pair: (abs(wanted[pair[0]] - found[pair[1]]), pair))
        if abs(wanted[m] - found[s]) > within:
            break
        partner[m] = s
        left = {(a, b) for a, b in left if a != m and b != s}
    return partner


@pytest.mark.parametrize("seed", range(5))
def test_matching_against_its_twin(seed):
    rng = np.random.default_rng(seed)
    found, wanted = rng.integers(400, 450, 20).astype(float), rng.integers(400, 450, 15).astype(float)
    assert match_bands(found, wanted, 3.0).tolist() == twin(found.tolist(), wanted.tolist(), 3.0)


@pytest.mark.parametrize(
    ("waves", "words"),
    [
        (np.arange(380.0, 720, 100), r"model's band 2 at 450.0 nm \(scene 380-680 nm with 4 bands, model 400-700 nm"),
        (np.arange(380.0, 720, 100), "with --resample-bands"),
        (np.array(OWN) + 200, "does not cover"),
        (np.array(OWN)[:-1], "does not cover"),
        (np.array(OWN) / 1000, "scene 0-1 nm"),
    ],
)
def test_bands_that_the_scene_lacks(card, waves, words):
    with pytest.raises(SceneError, match=words) as caught:
        fitted(card, scene_of(waves))
    assert str(caught.value).startswith("'my scene' has no band within 25.0 nm of")
    assert "\n" not in str(caught.value)


def test_a_band_that_is_called_bad(card, write_scene):
    path = write_scene("scene.img", driver="ENVI")
    header = path.with_suffix(".hdr")
    waves = ", ".join(map(str, OWN))
    header.write_text(
        f"{header.read_text()}\nwavelength units = nm\nwavelength = {{{waves}}}\nbbl = {{1,1,1,0,1,1,1}}\n"
    )
    with RasterScene(path) as scene, pytest.raises(SceneError, match="is called bad; take it with --bands all"):
        fitted(card, scene)
    with RasterScene(path, bands=range(1, 8)) as scene:
        assert fitted(card, scene, explicit=True) == (scene, [])
    with RasterScene(path) as scene:
        found, _ = fitted(card, scene, resample=True)
        assert "1 of 7 bands were left out" in found.note


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    ("bands", "words"),
    [(9, "name the 7 bands that it was trained"), (5, "5 bands in use and the model wants 7")],
)
def test_without_wavelengths_the_number_counts(card, changed_card, bands, words, explicit):
    for used, waves in ((card, None), (changed_card(wavelengths=None), np.arange(bands) + 400.0)):
        scene = ArrayScene(np.zeros((3, 3, bands)), wavelengths=waves)
        with pytest.raises(SceneError, match=words):
            fitted(used, scene, explicit)
    scene = ArrayScene(np.zeros((3, 3, 7)))
    assert fitted(card, scene, explicit) == (scene, [])


def test_without_wavelengths_the_bands_of_the_training_are_chosen_by_number(changed_card, write_scene, cube):
    """A model of bands 3 to 9 of nine maps a file of nine bands by its own list, and names no others elsewhere."""
    used = changed_card(wavelengths=None, band_numbers=(3, 4, 5, 6, 7, 8, 9), file_bands=9)
    nine = np.concatenate([cube[..., :2] * 0, cube], axis=2)
    with RasterScene(write_scene("nine.tif", nine)) as scene:
        found, _ = fitted(used, scene)
        np.testing.assert_array_equal(found.read(0, 29, 0, 37), cube.transpose(2, 0, 1))
        assert "bands 3-9 were chosen, as the model was trained" in found.note
    with (
        RasterScene(write_scene("ten.tif", np.concatenate([nine, cube[..., :1]], axis=2))) as scene,
        pytest.raises(SceneError, match="trained on bands 3-9 of a file of 9; name the same ones with --bands"),
    ):
        fitted(used, scene)


def test_the_order_of_the_training_without_wavelengths(changed_card, write_scene, cube):
    used = changed_card(wavelengths=None, band_numbers=(7, 6, 5, 4, 3, 2, 1), file_bands=7)
    with RasterScene(write_scene()) as scene:
        found, _ = fitted(used, scene)
        np.testing.assert_array_equal(found.read(0, 9, 0, 9), cube[:9, :9, ::-1].transpose(2, 0, 1))
        assert fitted(used, scene, explicit=True)[0] is scene


def test_named_bands_are_taken_as_they_are(card):
    scene = scene_of(np.array(OWN) + 200)
    found, lines = fitted(card, scene, explicit=True)
    assert found is scene
    assert len(lines) == 1
    assert "band 1 in use is at 600.0 nm and the model's at 400.0 nm" in lines[0]
    with pytest.raises(SceneError, match="6 bands in use"):
        fitted(card, scene_of(OWN[:6]), explicit=True)


@pytest.mark.parametrize("missing", ["scene", "model"])
def test_resampling_wants_wavelengths_on_both_sides(card, changed_card, missing):
    scene = ArrayScene(np.zeros((3, 3, 7))) if missing == "scene" else scene_of(OWN)
    used = card if missing == "scene" else changed_card(wavelengths=None)
    with pytest.raises(UsageError, match="--resample-bands"):
        fitted(used, scene, resample=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_interpolation_is_numpys(card, dtype):
    waves = np.random.default_rng(2).permutation(np.arange(395.0, 720, 18))
    scene = scene_of(waves, dtype=dtype)
    found, lines = fitted(card, scene, resample=True)
    order = np.argsort(waves)
    wanted = [[np.interp(OWN, waves[order], pixel[order]) for pixel in row] for row in scene.cube]
    part = found.read(1, 5, 2, 4)
    assert (part.dtype, found.dtype, found.nodata, len(found.bands)) == (np.float32, np.float32, None, 7)
    np.testing.assert_allclose(part, np.array(wanted)[1:5, 2:4].transpose(2, 0, 1), rtol=1e-5)
    out = np.zeros((4, 2, 7), np.float32).transpose(2, 0, 1)
    assert found.read(1, 5, 2, 4, out=out) is out
    np.testing.assert_array_equal(out, part)
    np.testing.assert_array_equal(found.select([6, 1]).read(1, 5, 2, 4), part[[5, 0]])
    assert lines == [
        "bands of 'my scene' were interpolated to the model's wavelengths (scene 395-719 nm with 19 bands, "
        "model 400-700 nm with 7): 0 of 7 model bands have no scene band within 25.0 nm"
    ]


def test_bands_far_from_all_of_the_scene_are_counted(card):
    _, lines = fitted(card, scene_of([390, 460, 690, 710]), resample=True)
    assert "4 of 7 model bands have no scene band within 25.0 nm" in lines[0]


def test_missing_values_spoil_what_they_contribute_to(changed_card):
    card = changed_card(bands=3, wavelengths=(400.0, 410.0, 430.0), fill=(1.0, 1.0, 1.0))
    cube = np.array([[[10, 20, 40], [7, 20, 40], [10, 7, 40], [10, 20, 7]]], np.int16)
    scene = ArrayScene(cube, 7, np.array([400.0, 420.0, 440.0]))
    found, _ = fitted(card, scene, resample=True)
    wanted = [[10, np.nan, 10, 10], [15, np.nan, np.nan, 15], [30, 30, np.nan, np.nan]]
    np.testing.assert_array_equal(found.read(0, 1, 0, 4)[:, 0], wanted)


def test_resampling_to_centres_that_are_there_changes_nothing(card):
    scene = scene_of([350, *OWN[::-1], 750])
    found, lines = fitted(card, scene, resample=True)
    assert (found.dtype, lines) == (np.uint16, [])
    np.testing.assert_array_equal(found.read(0, 6, 0, 5), scene.cube[..., 7:0:-1].transpose(2, 0, 1))


@pytest.mark.parametrize(("waves", "band"), [([430.0, 800], "band 1 at 400.0"), ([300, 500.0, 670], "band 7 at 700.0")])
def test_resampling_does_not_reach_beyond_the_scene(card, waves, band):
    with pytest.raises(SceneError, match=f"does not reach the model's {band} nm"):
        fitted(card, scene_of(waves), resample=True)


def test_within_the_tolerance_the_last_band_stands(card):
    found, _ = fitted(card, scene_of([420.0, 690]), resample=True)
    part = found.read(0, 6, 0, 5)
    np.testing.assert_array_equal(part[0], found.source.read(0, 6, 0, 5)[0])
    np.testing.assert_array_equal(part[6], found.source.read(0, 6, 0, 5)[1])


def test_a_resampled_raster_keeps_what_the_file_says(card, write_scene, tmp_path):
    path = write_scene(waves=[380, 440, 490, 560, 610, 680, 720], nodata=3)
    opened = RasterScene(path)
    with fitted(card, opened, resample=True)[0] as found:
        assert isinstance(found, ResampledScene)
        assert (found.files, found.georeference, found.blocks) == ((path,), opened.georeference, opened.blocks)
        assert (found.height, found.width, found.name) == (29, 37, str(path))
        facts = json.loads(json.dumps(found.fingerprint()))
        assert facts["resampled"] != opened.fingerprint()["resampled"]
        assert facts["files"] == opened.fingerprint()["files"]
    with pytest.raises(SceneError):
        opened.read(0, 1, 0, 1)  # closed with it


def test_a_recipe_of_one_band():
    interpolation = BandInterpolation.between(np.array([500.0]), np.array([498.0, 500.0, 503.0]))
    assert interpolation.trivial
    assert interpolation.lower.tolist() == [0, 0, 0]


def test_recipes_with_equal_centres():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interpolation = BandInterpolation.between(np.array([500.0, 500.0, 600.0]), np.array([500.0, 550.0]))
    assert interpolation.weight.tolist() == [0.0, 0.5]


def test_tolerance():
    assert tolerance(np.array([400.0, 401, 402])) == 2
    assert tolerance(np.array([400.0, 410, 405, 415])) == 5
    assert tolerance(np.array([400.0])) == 2


@pytest.mark.parametrize(("shift", "differs"), [(0, False), (24, False), (-24, False), (26, True), (1000, True)])
def test_wavelengths_within_half_a_band(card, shift, differs):
    assert (wavelength_difference(card, np.array(OWN) + shift) is not None) == differs
    assert wavelength_difference(card, None) is None
