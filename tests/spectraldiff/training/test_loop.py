import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from spectraldiff.models.classifier import new_denoiser
from spectraldiff.models.padding import WholePixels, mirrored
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.models.settings import LoopSettings, Member, replaced
from spectraldiff.models.vit import Noise, SpectralViT, ViTConfig
from spectraldiff.training import tasks as module
from spectraldiff.training.compute import Compute, choose_compute
from spectraldiff.training.loop import Loop, learning_rate, plateau
from spectraldiff.training.tasks import ClassifierTask, DiffusionTask
from spectraldiff_runtime.errors import DeviceError, RunError

SETTINGS = LoopSettings(8, 1e-2, "cosine", 0.2, 0.01, 0.99, 0.9, 0)


def silent(step: int, total: int, loss: float) -> None:
    """Report to nobody."""


def classifier_loop(total: int = 12, dropout: float = 0.3, compute: Compute | None = None, noise: float = 0.0) -> Loop:
    torch.manual_seed(0)
    model = SpectralViT(ViTConfig(5, 3, (Member(3),), 8, 1, 2, 8, dropout))
    features = torch.randn(12, 12, 5, generator=torch.Generator().manual_seed(3))
    pixels = torch.cartesian_prod(torch.arange(5), torch.arange(4)) + 1
    labels = torch.arange(20) % 3
    task = ClassifierTask(model, features, pixels, labels, SETTINGS.batch, noise)
    return Loop(model, task, total, SETTINGS, compute or Compute(), 5)


def diffusion_loop(preset: Preset, total: int, compute: Compute | None = None) -> Loop:
    """Learn a scene whose spectra lie on a line: much easier than the best linear denoiser by band makes of it."""
    torch.manual_seed(0)
    place = torch.rand(10, 11, generator=torch.Generator().manual_seed(3)) * 2 - 1
    scene = place * torch.linspace(-0.8, 0.8, 7)[:, None, None]
    denoiser = new_denoiser(preset, 7, scene.mean((1, 2)), scene.std((1, 2)))
    settings = preset.diffusion
    task = DiffusionTask(denoiser, [scene], settings.instance, settings.loop.batch)
    return Loop(denoiser, task, total, settings.loop, compute or Compute(), 5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_stopped_and_resumed_equals_undisturbed() -> None:
    """Dropout, order, flips and moments all go on as if nothing had happened."""
    whole = classifier_loop()
    whole.run(silent)
    first = classifier_loop()

    class StoppedError(Exception):
        pass

    def stop_at_seven(step: int, total: int, loss: float) -> None:
        if step == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        first.run(stop_at_seven)
    state = {k: v.clone() for k, v in first.state().items()}
    torch.randn(5)  # somebody else draws
    second = classifier_loop()
    second.restore(state)
    second.run(silent)
    assert second.history == whole.history
    assert same(weights(second.average), weights(whole.average))


def test_same_seed_same_denoiser(tiny_preset: Preset) -> None:
    first, second = (diffusion_loop(tiny_preset, 4) for _ in range(2))
    assert same(weights(first.run(silent)), weights(second.run(silent)))


def test_denoiser_learns(tiny_preset: Preset) -> None:
    """On the same noise, the trained denoiser errs less than the best linear one that it begins as."""
    loop = diffusion_loop(replaced(tiny_preset, diffusion={"loop": {"lr": 1e-2}}), 100)
    scenes = cast("DiffusionTask", loop.task).scenes

    def error(model: Any) -> float:
        with torch.no_grad():
            return float(DiffusionTask(model.eval(), scenes, 8, 100).loss(0, 0, 100, seeded()))

    before = error(loop.average)
    assert error(loop.run(silent)) < 0.95 * before


def test_a_loss_that_is_no_number_ends_the_training_in_one_line() -> None:
    loop = classifier_loop()

    def spoil() -> None:
        if loop.step == 3:
            next(iter(loop.model.parameters())).data.fill_(float("inf"))

    with pytest.raises(RunError, match=r"^the loss is nan at step 4 of 12: .*--seed$"):
        loop.run(silent, spoil)
    assert loop.step == 3
    with pytest.raises(RunError, match=r"^the loss is nan at step 4 of 12: mend the scene$"):
        loop.run(silent, advice="mend the scene")


def test_micro_batches_add_up_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout and flips, the gradient summed over the shares is that of the batch."""
    monkeypatch.setattr(module, "_turns", lambda count, generator: torch.zeros(3, count, dtype=torch.bool))
    gradients = []
    for compute in (Compute(), Compute(micro_batch=3)):
        loop = classifier_loop(1, 0.0, compute)
        loop.run(silent)
        gradients.append([p.grad for p in loop.model.parameters()])
    torch.testing.assert_close(*gradients)


def test_shares_split_the_batch() -> None:
    assert Compute(micro_batch=16).shares(40) == [16, 16, 8]
    assert Compute().shares(40) == [40]
    assert Compute(micro_batch=16).shares(3) == [3]


def test_average_follows_the_weights_slowly() -> None:
    loop = classifier_loop(30)
    start = weights(loop.model)["embed.weight"]
    average = loop.run(silent).state_dict()["embed.weight"]
    end = weights(loop.model)["embed.weight"]
    assert 0 < float((average - start).norm()) < float((end - start).norm())


def test_cosine_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(SETTINGS, step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (19, 20)
    assert max(rates) == pytest.approx(SETTINGS.lr)
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-2 * SETTINGS.lr


def test_constant_rate_is_constant() -> None:
    settings = replace(SETTINGS, schedule="constant")
    assert {learning_rate(settings, step, 10) for step in range(10)} == {SETTINGS.lr}


@pytest.mark.parametrize(
    ("history", "patience", "stopped"),
    [
        ([1.0] * 20, 10, True),
        ([1.0] * 10 + [0.9] * 10, 10, False),
        ([1.0] * 10 + [0.9999] * 10, 10, True),
        ([1.0] * 19, 10, False),
        ([1.0] * 20, 0, False),
        ([1.0] * 10 + [0.5] * 10 + [0.6] * 10, 10, True),
    ],
)
def test_plateau(history: list[float], patience: int, stopped: bool) -> None:
    assert plateau(history, patience) is stopped


def test_loop_stops_at_a_plateau() -> None:
    loop = classifier_loop(500)
    loop.settings = replace(SETTINGS, patience=5, lr=0.0)
    loop.run(silent)
    assert loop.step < 500


def test_every_training_pixel_is_seen_once_an_epoch() -> None:
    loop = classifier_loop()
    task: Any = loop.task
    seen: list[int] = []
    original = task.windows

    def watched(pixels: Tensor, turns: Tensor) -> Tensor:
        seen.extend(((pixels[:, 0] - 1) * 4 + pixels[:, 1] - 1).tolist())
        return original(pixels, turns)  # type: ignore[no-any-return]

    task.windows = watched
    assert task.steps == 3
    for step in range(3):
        task.loss(step, 0, task.size(step), torch.Generator().manual_seed(step))
    assert sorted(seen) == list(range(20))


def test_each_window_is_turned_by_itself() -> None:
    """Every one of the eight symmetries occurs, and nothing else."""
    task: Any = classifier_loop().task
    task.features = torch.arange(144.0).view(12, 12, 1)
    turns = module._turns(200, seeded())
    centre = torch.tensor([[4, 7]]).repeat(200, 1)
    turned = task.windows(centre, turns)[..., 0]
    found = {tuple(w.flatten().tolist()) for w in turned}
    corners = {(w[0], w[2], w[6], w[8]) for w in found}
    assert len(found) == len(corners) == 8
    assert all(w[4] == 4 * 12 + 7 for w in found)
    plain = task.windows(centre)[0, ..., 0]
    for window, (rows, columns, exchanged) in zip(turned, turns.T.tolist(), strict=True):
        wanted = plain.flip(0) if rows else plain
        wanted = wanted.flip(1) if columns else wanted
        assert torch.equal(window, wanted.T if exchanged else wanted)


def test_noise_is_drawn_from_seed_and_step() -> None:
    """Normal, of the deviation asked for, another one at every step, and the same again from the same seed."""
    task: Any = classifier_loop(dropout=0.0, noise=0.5).task
    seen: list[Tensor] = []

    def losses(windows: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        seen.append(noise((len(windows), 9, 5)))
        return windows.sum((1, 2, 3))

    task.model.losses = losses
    for seed in (1, 2, 1):
        task.loss(0, 0, 8, torch.Generator().manual_seed(seed))
    assert float(seen[0].std()) == pytest.approx(0.5, rel=0.2)
    assert abs(float(seen[0].mean())) < 0.1
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("balance", "of_small"), [(0.0, 1 / 10), (0.5, 1 / 4), (1.0, 1 / 2)])
def test_small_classes_count_as_much_as_asked_for(balance: float, of_small: float) -> None:
    """Two pixels of one class and eighteen of another, all with a loss of 1."""
    labels = torch.tensor([0] * 2 + [1] * 18)
    model: Any = SpectralViT(ViTConfig(5, 2, (Member(3),), 8, 1, 2, 8, 0.0))
    pixels = torch.cartesian_prod(torch.arange(5), torch.arange(4)) + 1
    task = ClassifierTask(model, torch.randn(12, 12, 5), pixels, labels, 20, balance=balance)
    shares = []
    for value in (0, 1):
        model.losses = lambda windows, known, noise, value=value: (known == value).float()
        shares.append(float(task.loss(0, 0, 20, seeded())))
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(of_small)


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    imports = "import platform; from spectraldiff.training.compute import keep_freed_memory as k; "
    line = imports + "print(k(), platform.libc_ver()[0])"
    told = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == str(told[1:] == ["glibc"])


def test_windows_lie_around_their_pixels() -> None:
    task: Any = classifier_loop().task
    windows = task.windows(torch.tensor([[3, 4], [1, 1]]))
    torch.testing.assert_close(windows[0], task.features[2:5, 3:6])
    torch.testing.assert_close(windows[1], task.features[:3, :3])


def test_scene_smaller_than_an_instance_is_mirrored() -> None:
    scene = torch.rand(7, 3, 5)
    denoiser = new_denoiser(FAST, 7, scene.mean((1, 2)), scene.std((1, 2)))
    task = DiffusionTask(denoiser, [scene], 8, 2)
    assert torch.isfinite(task.loss(0, 0, 2, torch.Generator().manual_seed(0)))
    (cut,) = module._cuts([WholePixels(scene)], 8, torch.Generator().manual_seed(1))
    crop = cut()
    whole = mirrored(scene, 3)  # 9 x 11
    generator = torch.Generator().manual_seed(1)
    rows, columns = (int(torch.randint(size - 7, (1,), generator=generator)) for size in (9, 11))
    assert torch.equal(crop, whole[:, rows : rows + 8, columns : columns + 8])


def test_instances_come_from_scenes_in_proportion_to_their_pixels() -> None:
    """Scenes of one value each: what an instance holds says where it came from."""
    seen: list[Tensor] = []

    class Watcher(nn.Module):
        def loss(self, x0: Tensor, generator: torch.Generator) -> Tensor:
            seen.append(x0)
            return x0.mean()

    scenes = [torch.full((2, 9, 10), 0.0), torch.full((2, 30, 9), 1.0)]
    task = DiffusionTask(cast("Any", Watcher()), scenes, 8, 4000)
    task.loss(0, 0, 4000, seeded())
    assert seen[0].shape == (4000, 2, 8, 8)
    assert float(seen[0][:, 0, 0, 0].mean()) == pytest.approx(270 / 360, abs=0.03)


def test_draws_of_one_scene_are_those_of_always() -> None:
    """Rows, then columns, then the turn: nothing is drawn before them, so that old runs can be trained again."""
    scene, drawn = torch.rand(3, 12, 15), []

    class Watcher(nn.Module):
        def loss(self, x0: Tensor, generator: torch.Generator) -> Tensor:
            drawn.append(x0)
            return x0.mean()

    DiffusionTask(cast("Any", Watcher()), [scene], 5, 6).loss(0, 0, 6, seeded())
    generator = seeded()
    rows = torch.randint(8, (6,), generator=generator)
    columns = torch.randint(11, (6,), generator=generator)
    crops = torch.stack([scene[:, r : r + 5, c : c + 5] for r, c in zip(rows, columns, strict=True)])
    assert torch.equal(drawn[0], module._turn(crops, (2, 3), generator))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_is_not_replaced_by_the_cpu() -> None:
    with pytest.raises(DeviceError, match="--device cuda"):
        choose_compute("cuda")
    assert choose_compute("auto").device.type == "cpu"


def test_a_gpu_computes_features_as_the_exported_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_compute("auto") == Compute(torch.device("cuda"), True, None)
    assert not torch.backends.cudnn.allow_tf32
