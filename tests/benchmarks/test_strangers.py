"""The benchmark of other scenes: what it makes, trains and prints."""

import numpy as np
import pytest

from benchmarks import strangers
from benchmarks.strangers import Made, Subset
from spectraldiff.datasets import registry


def test_made_scenes_have_what_they_are_asked_for():
    scene = Made(40, 50, 9, 7, "int16", "fraction:0.1", nodata=-1, constant=True, field=8).scene()
    assert scene.cube.shape == (40, 50, 9)
    assert scene.cube.dtype == np.int16
    assert sorted(np.unique(scene.labels)) == list(range(1, 8))
    assert not scene.valid[:3].any()
    assert 0.7 < scene.valid.mean() < 1
    known = scene.cube[scene.valid]
    assert (np.ptp(known, axis=0) == 0).tolist() == [band in (1, 8) for band in range(9)]
    assert 1000 < known.mean() < 6000
    reflectance = Made(40, 50, 9, 7, "float32", "fraction:0.1", field=8).scene().cube
    assert reflectance.dtype == np.float32
    assert 0.1 < reflectance.mean() < 0.6


def test_a_class_is_more_like_itself_than_like_others():
    scene = Made(60, 60, 20, 4, "float32", "fraction:0.1", field=8).scene()
    spectra = scene.cube / scene.cube.mean(-1, keepdims=True)  # whatever the light
    means = np.stack([spectra[scene.labels == value].mean(0) for value in range(1, 5)])
    distances = ((spectra[:, :, None] - means) ** 2).sum(-1)
    assert (distances.argmin(-1) + 1 == scene.labels).mean() > 0.6


@pytest.mark.parametrize(("bands", "dtype"), [(5, "uint16"), (144, "float32")])
def test_subsets_are_bands_of_indian_pines(bands, dtype):
    whole, part = registry.load("indian-pines"), Subset(bands, dtype).scene()
    assert part.cube.shape == (145, 145, bands)
    assert part.cube.dtype == dtype
    factor = 1 if dtype == "uint16" else 10_000
    np.testing.assert_allclose(part.cube[..., [0, -1]] * factor, whole.cube[..., [0, -1]], rtol=1e-6)
    assert part.wavelengths is None or len(part.wavelengths) == bands


def test_the_program_from_end_to_end(tiny_preset, tmp_path, monkeypatch, capsys):
    scenes = {"a small one": Made(24, 26, 6, 3, "float32", "per-class:8", field=6), "another": Subset(5, "uint16")}
    monkeypatch.setattr(strangers, "SCENES", scenes)
    monkeypatch.setattr(strangers, "FAST", tiny_preset)
    line = ["--out", str(tmp_path), "--only", "a small", "--diffusion-steps", "4", "--threads", "1"]
    assert strangers.main(line) == 0
    printed, told = capsys.readouterr()
    assert [word in told for word in ("SVM", "Raw bands", "The default", "another")] == [True, True, True, False]
    assert "per-class:8" in printed
    assert strangers.main(line) == 0
    again, told = capsys.readouterr()
    assert told.count("done before") == 3
    assert again == printed
    assert strangers.main([*line[:-4], "--diffusion-steps", "5"]) != 0
    assert "was made with" in capsys.readouterr().err
