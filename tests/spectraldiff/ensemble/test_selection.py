"""The choice among fitted candidates: weights, what is merged into the model, and what is said of it."""

import numpy as np
import pytest
import torch

from spectraldiff.ensemble.context_inputs import (
    BAND_COMPONENTS,
    BANDS,
    COMPONENTS,
    ContextInputs,
    FeatureMap,
    kernel_map,
)
from spectraldiff.ensemble.held_out_loss import fit_temperature
from spectraldiff.ensemble.linear_fit import Labelled
from spectraldiff.ensemble.merge import context_of, map_name
from spectraldiff.ensemble.selection import (
    ATTENTION,
    MOST_ATTENTION,
    AttentionScores,
    Candidate,
    Selection,
    choose,
    fit_linear,
    read_all,
    weigh,
)
from spectraldiff.models.score_smoothing import ScorePart, Smoothing, reach
from spectraldiff.models.settings import LinearMember

SIDE, RIM, FEATURES, CLASSES = 24, 6, 9, 3
CANDIDATES = (
    LinearMember("lda", "bands"),
    LinearMember("lda", "bands", 3, noise=True),
    LinearMember("lda", "features", iterations=2),
    LinearMember("logistic", "features", 5),
)


@pytest.fixture
def fitted():
    """Candidates fitted to a scene of stripes, their inputs, labels, and the features (1, D, H, W)."""
    generator = torch.Generator().manual_seed(0)
    wide = SIDE + 2 * RIM
    labels = torch.arange(wide) // 4 % CLASSES
    means = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    features = means[labels].expand(wide, wide, FEATURES) + torch.randn(wide, wide, FEATURES, generator=generator)
    features = features.contiguous().double()
    maps = {}
    for name, size in ((COMPONENTS, 6), (BANDS, 4)):
        weight = torch.randn(size, FEATURES, generator=generator).double()
        maps[name] = FeatureMap((features @ weight.T + 0.5).float(), weight.numpy(), np.full(size, 0.5))
    pixels = torch.cartesian_prod(torch.arange(0, SIDE, 2), torch.arange(0, SIDE, 2)) + RIM
    guides = 0.1 * features[..., :3].float()
    inputs = ContextInputs(maps, pixels, guides, torch.ones(wide, wide, dtype=torch.bool))
    own = labels[pixels[:, 1]].numpy()
    labelled = Labelled(own, [np.arange(len(own)) % 4 == fold for fold in range(4)], CLASSES)
    read_all(CANDIDATES, inputs)
    fits = [(member, fit_linear(member, inputs, labelled)) for member in CANDIDATES]
    return fits, inputs, labelled, features.movedim(-1, 0)[None]


def test_the_merged_members_are_the_weighted_sum_of_all(fitted):
    fits, inputs, labelled, features = fitted
    found = choose(fits, inputs, labelled, None, len(labelled.labels), "pixels")
    assert len(found.kept) == len(found.linear.contexts) == 4  # as many contexts as members here
    assert sum(member.share for member in found.members) == pytest.approx(1)
    parts = [
        ScorePart(scores, context.radius, context.iterations)
        for scores, context in zip(found.linear.double()(features), found.linear.contexts, strict=True)
    ]
    guides = inputs.guides.double().movedim(-1, 0)[None]
    rim = reach(parts)
    merged = Smoothing(2).combined(parts, guides)
    at = inputs.pixels - rim
    merged = merged[0][:, at[:, 0], at[:, 1]].T.numpy()
    scores = [inputs.read(map_name(member), [context_of(member)])[0] @ fit.weight + fit.bias for member, fit in fits]
    best = np.linalg.lstsq(np.stack([one.ravel() for one in scores], 1), merged.ravel(), rcond=None)[0]
    np.testing.assert_allclose(sum(b * one for b, one in zip(best, scores, strict=True)), merged, atol=2e-3)
    assert (best > 0).all()
    spread = [
        b * (one.held_out - one.held_out.mean(1, keepdims=True)).std() for b, (_, one) in zip(best, fits, strict=True)
    ]
    shares = {member.title: member.share for member in found.members}
    np.testing.assert_allclose([shares[m.title] for m, _ in fits], np.array(spread) / sum(spread), atol=5e-3)


def test_merged_members_that_read_kernels_are_the_weighted_sum_of_all(fitted):
    _, inputs, labelled, features = fitted
    weight = np.zeros((4, FEATURES))
    weight[:, -4:] = np.random.default_rng(0).standard_normal((4, 4))  # the bands are the last features
    values = (features[0].movedim(0, -1) @ torch.from_numpy(weight.T) + 0.5).float()
    bands = FeatureMap(values, weight, np.full(4, 0.5))
    inputs.maps |= {BANDS: bands, "kernel 0.3": kernel_map(bands, 0.3, 0), "kernel 3": kernel_map(bands, 3.0, 0)}
    candidates = (
        LinearMember("lda", "bands", 5),
        LinearMember("kernel", "bands", gamma=0.3),
        LinearMember("kernel", "bands", 3, gamma=0.3),
        LinearMember("kernel", "bands", gamma=3.0),
    )
    fits = [(member, fit_linear(member, inputs, labelled)) for member in candidates]
    found = choose(fits, inputs, labelled, None, len(labelled.labels), "pixels")
    kept = {member.title for member in found.kept}
    assert {context.window for context in found.kernel.contexts} == {1, 3}
    assert [context.window for context in found.linear.contexts] == [5]
    parts = [*zip(found.linear.double()(features), found.linear.contexts, strict=True)]
    parts += zip(found.kernel.double()(features), found.kernel.contexts, strict=True)
    merged = 0.0
    for scores, context in parts:
        at = inputs.pixels - context.radius
        merged = merged + scores[0][:, at[:, 0], at[:, 1]].T.numpy()
    scores = [
        inputs.read(map_name(member), [context_of(member)])[0] @ fit.weight + fit.bias
        for member, fit in fits
        if member.title in kept
    ]
    best = np.linalg.lstsq(np.stack([one.ravel() for one in scores], 1), merged.ravel(), rcond=None)[0]
    np.testing.assert_allclose(sum(b * one for b, one in zip(best, scores, strict=True)), merged, atol=5e-3)
    assert (best > 0).all()


def test_where_all_members_read_kernels_one_map_of_zeros_is_left(fitted):
    _, inputs, labelled, features = fitted
    inputs.maps["kernel 1"] = kernel_map(inputs.maps[BANDS], 1.0, 0)
    fits = [(member := LinearMember("kernel", "bands", gamma=1.0), fit_linear(member, inputs, labelled))]
    found = choose(fits, inputs, labelled, None, len(labelled.labels), "pixels")
    assert len(found.kept) == 1
    assert not found.linear(features.float())[0].any()
    assert found.kernel is not None


def test_a_kernel_tells_classes_that_no_linear_map_of_the_bands_does(fitted):
    """One class lies around the other."""
    _, inputs, _, _ = fitted
    generator = np.random.default_rng(0)
    size = inputs.guides.shape[:2]
    classes, angle = generator.integers(0, 2, size), generator.uniform(0, 2 * np.pi, size)
    radius = 0.5 + 1.2 * classes + generator.normal(0, 0.15, size)
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    bands = FeatureMap(torch.from_numpy(values).float(), np.eye(2), np.zeros(2))
    maps = {BANDS: bands, BAND_COMPONENTS: bands, "kernel 1.5": kernel_map(bands, 1.5, 0)}
    rings = ContextInputs(maps, inputs.pixels, inputs.guides, inputs.valid)
    own = classes[inputs.pixels[:, 0], inputs.pixels[:, 1]]
    labelled = Labelled(own, [np.arange(len(own)) % 4 == fold for fold in range(4)], 2)
    right = {
        method: ((fit_linear(member, rings, labelled).held_out).argmax(1) == own).mean()
        for method, member in (
            ("logistic", LinearMember("logistic", "bands")),
            ("kernel", LinearMember("kernel", "bands", gamma=1.5)),
        )
    }
    assert right["logistic"] < 0.65
    assert right["kernel"] > 0.9


def test_without_evidence_weights_are_as_the_inverse_of_held_out_losses(fitted):
    fits, _, labelled, _ = fitted
    scores, members = np.stack([fit.held_out for _, fit in fits]), [member for member, _ in fits]
    stack, _ = weigh(scores, None, labelled.priors(), labelled.labels, 1e-6, members, labelled.seen())
    losses = np.maximum([fits[index][1].loss for index in stack.kept], 0.01)
    assert losses.max() > 1.2 * losses.min()
    np.testing.assert_allclose(stack.weights, 1 / losses / (1 / losses).sum(), rtol=0.02)


def test_held_out_scores_are_no_worse_than_those_of_the_best(fitted):
    fits, inputs, labelled, _ = fitted
    found = choose(fits, inputs, labelled, None, len(labelled.labels), "blocks of 2 x 2 pixels")
    assert ((found.held_out + labelled.priors()).argmax(1) == labelled.labels).mean() > 0.95
    assert (found.units, found.folds, found.pixels) == ("blocks of 2 x 2 pixels", 4, len(labelled.labels))
    assert (found.share, found.iterations, found.temperature) == (0, 0, 1)


@pytest.mark.parametrize("good", [True, False])
def test_attention_members_count_by_what_they_say_of_held_out_pixels(fitted, good: bool):
    fits, inputs, labelled, _ = fitted
    pixels = np.flatnonzero(labelled.folds[0] | labelled.folds[1])
    scores = np.random.default_rng(0).standard_normal((len(pixels), CLASSES))
    if good:
        scores = scores + 20 * np.eye(CLASSES)[labelled.labels[pixels]]
    found = choose(fits, inputs, labelled, AttentionScores(pixels, scores, 3), 1000.0, "pixels")
    shares = {member.title: member.share for member in found.members}
    assert sum(shares.values()) == pytest.approx(1)
    if good:
        assert shares[ATTENTION] > 0.05
        assert found.share > 0
        assert found.iterations == 3
        assert np.isnan(found.held_out[labelled.folds[2]]).all()
        assert np.isfinite(found.held_out[pixels]).all()
        assert found.pixels == len(pixels)
    else:
        assert found.share == shares[ATTENTION] == 0
        assert found.linear is not None
        assert np.isfinite(found.held_out).all()


def test_attention_members_have_a_quarter_of_the_weight_at_most(fitted):
    """However likely they make the held-out pixels, whose neighbours they have seen; the temperature follows."""
    fits, _, labelled, _ = fitted
    members = [member for member, _ in fits]
    pixels = np.flatnonzero(labelled.folds[0] | labelled.folds[1])
    right = np.eye(CLASSES)[labelled.labels[pixels]]
    attention = AttentionScores(pixels, 2 * right, 0)
    scores = np.random.default_rng(0).standard_normal((len(fits), len(labelled.labels), CLASSES))  # they guess
    priors, seen = labelled.priors(), labelled.seen()
    stack, mix = weigh(scores, attention, priors, labelled.labels, 1000.0, members, seen)
    assert (mix.linear, mix.attention) == (0.75, MOST_ATTENTION)
    assert 0.25 < mix.attention_share < 1
    linear = stack.apply(scores)[pixels]
    np.testing.assert_allclose(mix.apply(linear, attention.scores), mix.held_out[pixels], rtol=1e-12)
    temperature, _ = fit_temperature(mix.held_out[pixels], priors[pixels], labelled.labels[pixels])
    assert temperature == pytest.approx(1, abs=0.01)


def test_what_is_said_is_short():
    members = [Candidate(f"member {i}", 0.1 * i + 0.05, share) for i, share in enumerate((0.5, 0.3, 0.15, 0.05, 0.0))]
    found = Selection(tuple(members), None, 0.0, 0, 1.0, np.zeros((0, 2)), "polygons or patches", 5, 1234)
    assert found.summary() == "Ensemble: 4 of 5 candidates; member 0 50 %; member 1 30 %; member 2 15 %; ..."
    text = " ".join(found.lines())
    for said in (
        "4 of 5 candidates",
        "50 %, is that of member 0.",
        "1,234 training pixels",
        "polygons or patches in 5 folds",
        "0.050",
    ):
        assert said in text
    assert found.as_dict()["members"][-1] == {"title": "member 4", "loss": 0.45, "share": 0.0}
