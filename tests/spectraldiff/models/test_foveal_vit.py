"""The foveal classifier: sliding is the same function as seeing each window by itself, and its cells are right."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from spectraldiff.models.foveal_vit import CELL, DIRECT, FovealViT, _noise_root, new_vit, position_index
from spectraldiff.models.presets import FAST, PAPER
from spectraldiff.models.settings import Member
from spectraldiff.models.vit import SpectralViT, ViTConfig

ONE, BANDS = Member(15), Member(9, "bands")
CONFIG = ViTConfig(components=7, classes=4, members=(ONE,), width=16, depth=1, heads=4, mlp=24, dropout=0.0, fovea=3)
SHAPES = [
    CONFIG,
    replace(CONFIG, members=(Member(3),)),
    replace(CONFIG, members=(Member(9),), fovea=9),
    replace(CONFIG, members=(Member(21),), heads=2),
    replace(CONFIG, members=(ONE,) * 3),
    replace(CONFIG, members=(ONE, Member(9), ONE)),
    replace(CONFIG, members=(Member(3), Member(21))),
    replace(CONFIG, members=(ONE, Member(9), ONE, BANDS), band_components=2),
    replace(CONFIG, members=(Member(15, "bands", 2), Member(9, components=3)), band_components=3),
]


def distinct(config: ViTConfig) -> FovealViT:
    """Return a network in float64 whose positions all differ."""
    torch.manual_seed(0)
    vit = FovealViT(config).double().eval()
    for value in (vit.bias, vit.position, vit.cls):
        value.data.normal_()
    return vit


@torch.no_grad()
@pytest.mark.parametrize("config", SHAPES)
def test_sliding_is_the_same_as_seeing_each_window(config: ViTConfig) -> None:
    vit, side = distinct(config), config.window
    features = torch.randn(2, side + 2, side + 3, config.components, dtype=torch.float64)  # (N, H, W, P)
    windows = torch.stack([features[:, i : i + side, j : j + side] for i in range(3) for j in range(4)], 1)
    wanted = vit(windows.flatten(0, 1)).view(2, 3, 4, -1).permute(0, 3, 1, 2)
    found = vit.slide(vit.embed(features).movedim(-1, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_large_scores_stay_finite() -> None:
    vit = distinct(CONFIG).float()
    vit.ask.weight.mul_(1e4)
    assert vit.slide(torch.randn(1, 16, 20, 20)).isfinite().all()


def test_every_pixel_of_the_centre_and_every_cell_outside_has_a_position() -> None:
    found = position_index(CONFIG)
    assert found.unique().numel() == 9 + (15 // CELL) ** 2 - 1
    assert found[6:9, 6:9].unique().numel() == 9
    cell = found[:3, 3:6]
    assert cell.unique().numel() == 1
    assert (found == cell[0, 0]).sum() == CELL**2


@torch.no_grad()
def test_a_cell_weighs_at_first_as_much_as_a_pixel_of_the_centre() -> None:
    vit = FovealViT(CONFIG)
    weight = vit.bias.exp()[vit.position_index].sum((0, 1))  # (heads,)
    torch.testing.assert_close(weight, torch.full((4,), float(len(vit.bias))))


@torch.no_grad()
def test_members_are_classifiers_of_their_own_and_their_mean_counts() -> None:
    vit = distinct(replace(CONFIG, members=(ONE, ONE)))
    windows = torch.randn(5, 15, 15, 7, dtype=torch.float64)
    both = vit.each(windows)  # (N, M, K)
    torch.testing.assert_close(vit(windows), both.mean(1))
    for second in (vit.cls[1:], vit.value.weight[1:], vit.embed.weight[16:]):
        second += torch.randn_like(second)
    changed = vit.each(windows)
    torch.testing.assert_close(changed[:, 0], both[:, 0])
    assert (changed[:, 1] - both[:, 1]).abs().min() > 1e-6


def test_each_member_learns_from_its_own_loss() -> None:
    vit, windows = distinct(replace(CONFIG, members=(ONE, ONE))), torch.randn(6, 15, 15, 7, dtype=torch.float64)
    labels = torch.arange(6) % 4
    members = vit.each(windows).unbind(1)
    alone = [torch.nn.functional.cross_entropy(scores, labels, reduction="none") for scores in members]
    torch.testing.assert_close(vit.losses(windows, labels).double(), torch.stack(alone).mean(0))


@torch.no_grad()
def test_each_member_reads_its_own_window() -> None:
    vit, windows = (
        distinct(replace(CONFIG, members=(ONE, Member(9), ONE))),
        torch.randn(5, 15, 15, 7, dtype=torch.float64),
    )
    before = vit.each(windows)  # (N, M, K)
    windows[:, 2, 7] += 1  # just outside the narrow window
    changed = (vit.each(windows) - before).abs().amax((0, 2))
    assert changed[1] == 0
    assert changed[[0, 2]].min() > 1e-9
    windows[:, 3, 7] += 1
    assert (vit.each(windows)[:, 1] - before[:, 1]).abs().max() > 1e-9


@torch.no_grad()
def test_members_read_the_components_that_are_theirs() -> None:
    vit = distinct(replace(CONFIG, members=(ONE, ONE, BANDS), band_components=2))
    windows = torch.randn(5, 15, 15, 7, dtype=torch.float64)
    before = vit.each(windows)  # (N, M, K)
    for first, last, readers in ((0, 5, [0, 1]), (5, 7, [2])):
        other = windows.clone()
        other[..., first:last] += torch.randn(5, 15, 15, last - first, dtype=torch.float64)
        changed = (vit.each(other) - before).abs().amax((0, 2))
        assert changed[readers].min() > 1e-9
        assert changed.count_nonzero() == len(readers)


@torch.no_grad()
def test_a_member_reads_no_more_components_than_it_says() -> None:
    members = (Member(15, components=3), Member(9, "bands", 2), Member(15, components=99))
    vit = distinct(replace(CONFIG, members=members, band_components=3))
    windows = torch.randn(5, 15, 15, 7, dtype=torch.float64)
    before = vit.each(windows)  # (N, M, K)
    for component, readers in ((0, [0, 2]), (2, [0, 2]), (3, [2]), (4, [1]), (5, [1]), (6, [])):
        other = windows.clone()
        other[..., component] += torch.randn(5, 15, 15, dtype=torch.float64)
        changed = (vit.each(other) - before).abs().amax((0, 2))
        assert changed.nonzero()[:, 0].tolist() == readers


def test_members_learn_nothing_of_the_components_that_are_not_theirs() -> None:
    """The one linear map of all members, which sliding uses, stays what the members do."""
    torch.manual_seed(0)
    vit = FovealViT(replace(CONFIG, members=(ONE, ONE, BANDS), band_components=2))
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


@pytest.mark.parametrize(("components", "readers"), [(2, 0), (0, 1), (2, 3)])
def test_both_kinds_of_components_want_members(components: int, readers: int) -> None:
    with pytest.raises(ValueError, match="members that read them"):
        new_vit(replace(CONFIG, members=(BANDS,) * readers + (ONE,) * (3 - readers), band_components=components))


def test_members_want_a_fovea() -> None:
    with pytest.raises(ValueError, match="only a foveal classifier"):
        new_vit(replace(CONFIG, fovea=None, members=(ONE, ONE)))


def test_the_presets_classifiers() -> None:
    assert isinstance(new_vit(FAST.vit(100, 16, FAST.members())), FovealViT)
    assert isinstance(new_vit(PAPER.vit(1200, 16, PAPER.members())), SpectralViT)


@pytest.mark.parametrize(
    "change", [{"members": (Member(13),)}, {"fovea": 5}, {"fovea": 21}, {"depth": 2}, {"members": (ONE, Member(5))}]
)
def test_shapes_that_have_no_cells(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="odd multiples of 3"):
        FovealViT(replace(CONFIG, **change))


@torch.no_grad()
@pytest.mark.parametrize("components", [7, DIRECT, DIRECT + 72])
def test_noise_in_the_tokens_is_that_of_the_components(components: int) -> None:
    """Means over many draws: the token's noise has the covariance that noise on each component would give it."""
    torch.manual_seed(0)
    weight = torch.randn(16, components)
    root = _noise_root(weight)
    assert root.shape == (16, components if components <= DIRECT else 16)
    torch.testing.assert_close(root @ root.T, weight @ weight.T, rtol=1e-4, atol=1e-3)
    vit = FovealViT(replace(CONFIG, components=components, members=(ONE, Member(9))))
    drawn: list[int] = []

    def noise(shape: Sequence[int]) -> torch.Tensor:
        drawn.append(math.prod(shape))
        return torch.randn(*shape)

    windows, labels = torch.zeros(3, 15, 15, components), torch.tensor([0, 1, 2])
    assert not torch.equal(vit.losses(windows, labels, noise), vit.losses(windows, labels))
    assert max(drawn) == 3 * 225 * root.shape[1] <= 3 * vit.noise_values


def test_noise_teaches_the_first_layer() -> None:
    """The weights of noisy components are learnt from it: the gradient is that of noise on each component."""
    torch.manual_seed(0)
    weight, values = torch.randn(4, DIRECT + 1, requires_grad=True), torch.randn(200_000, DIRECT + 1)

    def spread(tokens: torch.Tensor) -> torch.Tensor:
        return (tokens.tanh() ** 2).mean()  # any function of the tokens

    (wanted,) = torch.autograd.grad(spread(values @ (weight / 10).T), weight)
    (found,) = torch.autograd.grad(spread(values[:, :4] @ _noise_root(weight / 10).T), weight)
    assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.99
    assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.03)
