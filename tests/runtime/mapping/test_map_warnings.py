"""Every warning of a mapping can be reached, see `tests.warning_texts`, and is in the result and its JSON."""

from dataclasses import replace

import numpy as np
import pytest

from spectraldiff_runtime import ArrayScene, map_scene
from spectraldiff_runtime.mapping.band_matching import fit_bands
from spectraldiff_runtime.mapping.job import FarPixels
from spectraldiff_runtime.scene.raster import RasterScene
from tests.runtime.mapping.test_overflow import Overflowing
from tests.warning_texts import pattern_of, texts

OTHERS = {  # texts of errors that other functions raise, and of a page
    "_counted", "_no_band_message", "_remedy", "_other_version", "of", "_repr_html_",
}  # fmt: skip
PACKAGES = ("runtime/spectraldiff_runtime/mapping",)
TEXTS = list(texts(PACKAGES, OTHERS))


@pytest.fixture
def said(model, card, cube, write_scene):
    """What mapping says of odd scenes: as warnings, in notes of scenes, and in results."""
    lines = []
    waves = np.array(card.wavelengths)

    def fitted(scene, of=card, **options):
        lines.append(fit_bands(of, scene, **{"explicit": False, "resample": False, **options}, warn=lines.append).note)

    def mapped(values, with_model=model, **options):
        told = []
        result = map_scene(with_model, values, warn=told.append, **options)
        assert list(result.notes) == result.as_dict()["notes"]
        assert set(told) <= set(result.notes)
        lines.extend(result.notes)

    mapped(cube * np.float32(1e-4))
    mapped(np.zeros((8, 8, 7), np.uint16), nodata=0)
    taught = {"scenes": [{"name": f"line {number}", "mark": "of another"} for number in range(4)]}
    mapped(cube, replace(model, card=replace(card, compact=taught)))
    mapped(cube, min_confidence=1.0)
    spoilt = cube.astype(np.float32)
    spoilt[4, 6, 2] = -3.4028235e38
    mapped(spoilt, replace(model, session=Overflowing(model.session, model.card.halo)), tile=16)
    fitted(ArrayScene(cube, None, waves + 300), explicit=True)
    fitted(ArrayScene(cube[..., ::-1], None, waves[::-1]))
    fitted(ArrayScene(cube, None, waves + 20), resample=True)
    fitted(ArrayScene(cube[..., ::3], None, waves[::3] + 20), resample=True)
    eight = write_scene(values=np.concatenate([cube[..., :1], cube], axis=-1))
    with RasterScene(eight) as scene:
        fitted(scene, replace(card, wavelengths=None, band_numbers=tuple(range(2, 9)), file_bands=8))
        scene.quantity = "radiance"
        fitted(scene.select(range(1, 8)), replace(card, units="surface reflectance", wavelengths=None))
    far = FarPixels()
    far.far, far.known = 9, 10
    lines.append(far.warning("scene"))
    return list(filter(None, lines))


def test_each_warning_can_be_reached(said):
    missing = [text for _, text in TEXTS if not any(map(pattern_of(text).search, said))]
    assert not missing
    assert len(TEXTS) > 8
    assert not [line for line in said if "\n" in line]
