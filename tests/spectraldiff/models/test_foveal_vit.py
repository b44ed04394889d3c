"""The foveal classifier: sliding is the same function as seeing each window by itself, and its cells are right."""

from dataclasses import replace

import pytest
import torch

from spectraldiff.models.foveal_vit import CELL, FovealViT, new_vit, places
from spectraldiff.models.presets import FAST, PAPER
from spectraldiff.models.vit import SpectralViT, ViTConfig

CONFIG = ViTConfig(components=7, classes=4, window=15, width=16, depth=1, heads=4, mlp=24, dropout=0.0, fovea=3)
SHAPES = [
    CONFIG,
    replace(CONFIG, window=3),
    replace(CONFIG, window=9, fovea=9),
    replace(CONFIG, window=21, heads=2),
    replace(CONFIG, members=3),
    replace(CONFIG, members=3, narrow=9),
    replace(CONFIG, window=21, members=2, narrow=3),
    replace(CONFIG, members=4, narrow=9, beside=2, band_members=1),
]


def telling(config: ViTConfig) -> FovealViT:
    """Return a network in float64 whose places all differ."""
    torch.manual_seed(0)
    vit = FovealViT(config).double().eval()
    for value in (vit.bias, vit.position, vit.cls):
        value.data.normal_()
    return vit


@torch.no_grad()
@pytest.mark.parametrize("config", SHAPES)
def test_sliding_is_the_same_as_seeing_each_window(config: ViTConfig) -> None:
    vit, side = telling(config), config.window
    features = torch.randn(2, side + 2, side + 3, config.components, dtype=torch.float64)  # (N, H, W, P)
    windows = torch.stack([features[:, i : i + side, j : j + side] for i in range(3) for j in range(4)], 1)
    wanted = vit(windows.flatten(0, 1)).view(2, 3, 4, -1).permute(0, 3, 1, 2)
    found = vit.slide(vit.embed(features).movedim(-1, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_large_scores_stay_finite() -> None:
    vit = telling(CONFIG).float()
    vit.ask.weight.mul_(1e4)
    assert vit.slide(torch.randn(1, 16, 20, 20)).isfinite().all()


def test_every_pixel_of_the_centre_and_every_cell_outside_has_a_place() -> None:
    found = places(replace(CONFIG, window=15, fovea=3))
    assert found.unique().numel() == 9 + (15 // CELL) ** 2 - 1
    assert found[6:9, 6:9].unique().numel() == 9
    cell = found[:3, 3:6]
    assert cell.unique().numel() == 1
    assert (found == cell[0, 0]).sum() == CELL**2


@torch.no_grad()
def test_a_cell_weighs_at_first_as_much_as_a_pixel_of_the_centre() -> None:
    vit = FovealViT(CONFIG)
    weight = vit.bias.exp()[vit.places].sum((0, 1))  # (heads,)
    torch.testing.assert_close(weight, torch.full((4,), float(len(vit.bias))))


@torch.no_grad()
def test_members_are_classifiers_of_their_own_and_their_mean_counts() -> None:
    vit = telling(replace(CONFIG, members=2))
    windows = torch.randn(5, 15, 15, 7, dtype=torch.float64)
    both = vit.each(windows)  # (N, M, K)
    torch.testing.assert_close(vit(windows), both.mean(1))
    for second in (vit.cls[1:], vit.value.weight[1:], vit.embed.weight[16:]):
        second += torch.randn_like(second)
    changed = vit.each(windows)
    torch.testing.assert_close(changed[:, 0], both[:, 0])
    assert (changed[:, 1] - both[:, 1]).abs().min() > 1e-6


def test_each_member_learns_from_its_own_loss() -> None:
    vit, windows = telling(replace(CONFIG, members=2)), torch.randn(6, 15, 15, 7, dtype=torch.float64)
    labels = torch.arange(6) % 4
    members = vit.each(windows).unbind(1)
    alone = [torch.nn.functional.cross_entropy(scores, labels, reduction="none") for scores in members]
    torch.testing.assert_close(vit.losses(windows, labels).double(), torch.stack(alone).mean(0))


@torch.no_grad()
def test_every_second_member_reads_the_narrow_window() -> None:
    vit, windows = telling(replace(CONFIG, members=3, narrow=9)), torch.randn(5, 15, 15, 7, dtype=torch.float64)
    before = vit.each(windows)  # (N, M, K)
    windows[:, 2, 7] += 1  # just outside the narrow window
    changed = (vit.each(windows) - before).abs().amax((0, 2))
    assert changed[1] == 0
    assert changed[[0, 2]].min() > 1e-9
    windows[:, 3, 7] += 1
    assert (vit.each(windows)[:, 1] - before[:, 1]).abs().max() > 1e-9


@torch.no_grad()
def test_members_read_the_components_that_are_theirs() -> None:
    vit = telling(replace(CONFIG, members=3, beside=2, band_members=1))
    windows = torch.randn(5, 15, 15, 7, dtype=torch.float64)
    before = vit.each(windows)  # (N, M, K)
    for first, last, readers in ((0, 5, [0, 1]), (5, 7, [2])):
        other = windows.clone()
        other[..., first:last] += torch.randn(5, 15, 15, last - first, dtype=torch.float64)
        changed = (vit.each(other) - before).abs().amax((0, 2))
        assert changed[readers].min() > 1e-9
        assert changed.count_nonzero() == len(readers)


def test_members_learn_nothing_of_the_components_that_are_not_theirs() -> None:
    """The one linear map of all members, which sliding uses, stays what the members do."""
    torch.manual_seed(0)
    vit = FovealViT(replace(CONFIG, members=3, beside=2, band_members=1))
    optimiser = torch.optim.AdamW(vit.parameters(), 1e-2, weight_decay=0.1)
    first = vit.embed.weight.detach().clone()
    for _ in range(3):
        optimiser.zero_grad()
        vit.losses(torch.randn(8, 15, 15, 7), torch.arange(8) % 4).mean().backward()
        optimiser.step()
    moved = (vit.embed.weight - first).abs() > 0
    assert moved[:32, :5].all()
    assert moved[32:, 5:].all()
    assert not vit.embed.weight[:32, 5:].any()
    assert not vit.embed.weight[32:, :5].any()


@pytest.mark.parametrize(("beside", "readers"), [(2, 0), (0, 1), (2, 3)])
def test_both_kinds_of_components_want_members(beside: int, readers: int) -> None:
    with pytest.raises(ValueError, match="members that read them"):
        new_vit(replace(CONFIG, members=3, beside=beside, band_members=readers))


def test_members_want_a_fovea() -> None:
    with pytest.raises(ValueError, match="only a foveal classifier"):
        new_vit(replace(CONFIG, fovea=None, members=2))


def test_the_presets_classifiers() -> None:
    assert isinstance(new_vit(FAST.vit(100, 16)), FovealViT)
    assert isinstance(new_vit(PAPER.vit(1200, 16)), SpectralViT)


@pytest.mark.parametrize(
    "change", [{"window": 13}, {"fovea": 5}, {"fovea": 21}, {"depth": 2}, {"narrow": 21}, {"narrow": 5}]
)
def test_shapes_that_have_no_cells(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="odd multiples of 3"):
        FovealViT(replace(CONFIG, **change))
