"""What goes to another process comes out as it was."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectraldiff.data.cube import SceneCube
from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble.mosaic import TILE, Layout, TileMosaic
from spectraldiff.models.normaliser import NormalisedScene, normaliser_of
from spectraldiff.processes.packing import pack, unpack
from spectraldiff.training.tasks import BlockPool
from spectraldiff_runtime.window import Window


def sent(value: Any) -> Any:
    skeleton, parts = pack(value)
    rest = list(parts)

    def read(size: int) -> Tensor:
        part = rest.pop(0).clone()
        assert part.numel() == size
        return part

    found = unpack(bytes(skeleton), read, torch.device("cpu"))
    assert not rest
    return found


def test_tensors_keep_values_types_and_their_order_in_memory() -> None:
    volume = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    tensors = [
        volume,
        torch.randn(3, 4).T,
        torch.randn(3, 1).expand(3, 4),
        torch.arange(5),
        torch.tensor(2.5),
        torch.empty(0),
        torch.rand(4) > 0.5,
        torch.randn(4).bfloat16(),
    ]
    found = sent(tensors)
    for before, after in zip(tensors, found, strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
    assert found[0].stride() == volume.stride()
    assert found[1].stride() == tensors[1].stride()


def test_what_is_one_object_stays_one() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    found = sent({"model": layer, "weight": layer.weight, "other": layer.weight.detach()})
    assert found["model"].weight is found["weight"]
    assert isinstance(found["weight"], nn.Parameter)
    assert found["model"].bias.requires_grad is False
    assert found["other"] is not found["weight"]
    assert torch.equal(found["other"], layer.weight)


def test_large_arrays_go_beside_the_others() -> None:
    array = np.arange(40_000, dtype=np.uint16).reshape(200, 200)
    array.flags.writeable = False
    skeleton, parts = pack([array, array, array.T, np.arange(3)])
    assert len(skeleton) < 1000
    assert [part.nbytes for part in parts] == [array.nbytes] * 2
    first, again, turned, small = sent([array, array, array.T, np.arange(3)])
    assert first is again
    assert np.array_equal(first, array)
    assert np.array_equal(turned, array.T)
    assert small.tolist() == [0, 1, 2]


def test_features_on_disk_are_read_from_the_same_file(tmp_path: Any) -> None:
    layout = Layout(((TILE, TILE),), TILE, TILE)
    tiles = torch.tensor([[1, 1]])
    for folder in (None, tmp_path):
        mosaic = TileMosaic(layout, tiles, 3, folder, 0)
        mosaic.write(0, torch.randn(TILE, TILE, 3))
        at = torch.tensor([TILE + 2]), torch.tensor([TILE + 5])
        _, parts = pack(mosaic)
        assert sum(part.nbytes for part in parts) < 10_000 or folder is None
        found = sent(mosaic)
        assert found.file == mosaic.file
        assert torch.equal(found[at], mosaic[at])


def test_scenes_on_disk_are_opened_anew(tiny_files: Any, tiny_scene: LabelledScene, monkeypatch: Any) -> None:
    monkeypatch.setattr("spectraldiff.data.cube.HELD", 0)
    scene = LabelledScene.from_files(*tiny_files)
    assert isinstance(scene.cube, SceneCube)
    pool = BlockPool(NormalisedScene(scene, *normaliser_of(scene)), 1, 3, ThreadPoolExecutor(1))
    found = sent(pool)
    assert found.pixels.scene.cube._scene is not scene.cube._scene
    window = Window(3, 9, 4, 11)
    assert np.array_equal(found.pixels.scene.read(window)[0], tiny_scene.cube[3:9, 4:11])
    for before, after in zip(pool.at(0), found.at(0), strict=True):
        assert np.array_equal(before.scene.cube, after.scene.cube)
    pool.close()
    found.close()
