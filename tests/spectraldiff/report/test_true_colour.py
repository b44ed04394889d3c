"""True-colour pictures: the right bands, white where there is no data, and on the map where a scene is not."""

import json

import numpy as np
import pytest
from PIL import Image

from spectraldiff.report import true_colour as module
from spectraldiff.report.false_colour import false_colour
from spectraldiff.report.true_colour import true_colour
from spectraldiff_runtime.errors import SceneError
from tests.runtime.products import builders


@pytest.fixture(params=builders.ALL)
def made(request, tmp_path):
    return builders.ALL[request.param](tmp_path / "product")


def expected(made):
    """The picture of the arrays behind; columns and rows of the map."""
    good = [b for b in range(len(made.waves)) if b + 1 not in made.bad]
    bands = [min(good, key=lambda b: abs(made.waves[b] - nm)) for nm in (640, 550, 460)]
    values = (made.physical if made.sensor == "PRISMA" else made.cube)[..., bands].astype("float32")
    valid = made.valid
    if made.extra is not None:
        glt_y, glt_x = made.extra
        values, valid = values[glt_y - 1, glt_x - 1], (glt_y > 0) & valid[glt_y - 1, glt_x - 1]
    return [b + 1 for b in bands], false_colour(values, np.array([640.0, 550.0, 460.0]), valid=valid)


def test_bands_and_pixels(made):
    drawn = true_colour(made.path)
    bands, wanted = expected(made)
    assert list(drawn.bands) == bands
    assert drawn.centres == pytest.approx([made.waves[b - 1] for b in bands], rel=1e-6)
    factor = module.SMALLEST // max(wanted.shape[:2])
    found = np.array(drawn.image)
    assert found.shape == (wanted.shape[0] * factor, wanted.shape[1] * factor, 3)
    assert np.abs(found[::factor, ::factor].astype(int) - wanted).max() <= 1
    assert (found.reshape(-1, 3) == 255).all(axis=1).any()


def test_large_scenes_are_thinned_out(tmp_path, monkeypatch):
    made = builders.neon(tmp_path)
    monkeypatch.setattr(module, "LARGEST", 15)
    monkeypatch.setattr(module, "SMALLEST", 1)
    monkeypatch.setattr(module, "AT_ONCE", 37 * 3 * 12)
    found = np.array(true_colour(made.path).image)
    assert found.shape == (10, 13, 3)
    white = (found == 255).all(axis=-1)
    np.testing.assert_array_equal(white[:3, :3], ~made.valid[::3, ::3][:3, :3])


@pytest.mark.parametrize(("waves", "wanted"), [(None, "has no wavelengths"), ((1000.0, 2000.0), "needs the visible")])
def test_without_the_visible(tmp_path, waves, wanted):
    path = builders.write_tif(tmp_path / "scene.tif", builders.values(4))
    if waves is not None:
        import rasterio

        with rasterio.open(path, "r+") as dataset:
            for band, nm in enumerate(np.linspace(*waves, 4), start=1):
                dataset.update_tags(band, wavelength=f"{nm:.0f}", wavelength_units="nm")
    with pytest.raises(SceneError, match=wanted):
        true_colour(path)


def test_the_command_writes_it_whole(tmp_path, sdiff):
    made, out = builders.tanager(tmp_path / "product"), tmp_path / "out.png"
    code, shown, said = sdiff("info", made.path, "--preview", out, "--json")
    assert code == 0, said
    facts = json.loads(shown)
    assert facts["preview"] == str(out)
    assert facts["preview_bands"] == "red 7 (650.0 nm), green 5 (550.0 nm), blue 2 (450.0 nm)"
    with Image.open(out) as image:
        assert image.size == (37 * 12, 29 * 12)
    assert sdiff("info", made.path, "--preview", out)[0] == 1
    assert sdiff("info", made.path, "--preview", out, "--overwrite")[0] == 0
    code, _, said = sdiff("info", made.path, "--preview", tmp_path / "out.gif")
    assert (code, "wanted .png or .jpg" in said) == (1, True)
    assert {file.name for file in tmp_path.iterdir()} == {"product", "out.png"}


def test_a_model_has_no_picture(model_path, tmp_path, sdiff):
    code, _, said = sdiff("info", model_path, "--preview", tmp_path / "out.png")
    assert (code, "--preview draws scenes and" in said) == (2, True)
