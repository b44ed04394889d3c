"""The script for a GPU runs on the CPU too: its scenes, its network, its rows."""

import pytest
import rasterio
import torch

from benchmarks import gpu
from spectraldiff_runtime import Model


@pytest.fixture
def few_bands(monkeypatch, card):
    monkeypatch.setattr(gpu, "BANDS", card.bands)
    monkeypatch.setattr(gpu, "SECONDS", 0.05)
    monkeypatch.setattr(gpu, "SIDE", 16)


@pytest.mark.usefixtures("few_bands")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_row_measures_inference_and_the_whole_map(model_path, tmp_path):
    path = tmp_path / "noise.tif"
    gpu.write_scene(path, 300, 70)
    with rasterio.open(path) as raster:
        assert (raster.count, raster.shape, raster.dtypes[0]) == (gpu.BANDS, (300, 70), "uint16")
        assert raster.read(1, window=((290, 300), (0, 70))).any()
    device, alone, whole, seconds, *_ = gpu.row(path, model_path, "cpu")
    assert device == "cpu"
    assert float(alone) > 0
    assert float(whole) == pytest.approx(1e6 * float(seconds) / (300 * 70), abs=1e6 * 0.06 / (300 * 70))
    with rasterio.open(tmp_path / "classes.tif") as raster:
        assert raster.read(1).any()


def test_what_would_begin_too_late_is_not_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "write_scene", lambda path, height, width: path.touch())
    monkeypatch.setattr(gpu, "row", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("sys.argv", ["gpu", "--folder", str(tmp_path), "--sizes", "9x9", "--minutes", "-1"])
    gpu.main()
    assert [line.count(gpu.NOT) for line in capsys.readouterr().out.splitlines()] == [0, 0, 1, 1, 1]


@torch.no_grad()
def test_the_network_is_of_full_size(monkeypatch):
    monkeypatch.setattr(gpu, "BANDS", 40)
    model = gpu.classifier(2)
    assert {one.iterations for one in model.linear.contexts} == {0, 2}
    assert len(model.vit.config.members) == 3
    side = 2 * model.halo + 2
    scores = model(torch.rand(1, 40, side, side) * gpu.HIGHEST)
    assert scores.shape == (1, gpu.CLASSES, 2, 2)
    assert scores.std() > 0


@pytest.mark.training
@pytest.mark.parametrize(("kind", "precision"), [("full fp16", "fp16"), ("compact", "fp32")])
def test_its_model_files_open(kind, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "BANDS", 12)
    gpu.write_model(tmp_path / "network.onnx", gpu.classifier(0), kind)
    found = Model.open(tmp_path / "network.onnx", "cpu")
    assert found.card.precision == precision
    assert found.outside
