"""A student's file computes what it does; its fit sees what it may; its ground is what was asked for."""

from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.linear_members import Outside
from spectraldiff.models.normaliser import Normaliser
from spectraldiff.models.pca import fit_pca
from spectraldiff_export.compact.check import Comparison, compared, fit_temperature, reasons, refuse
from spectraldiff_export.compact.ground import (
    BLOCK,
    FIFTHS,
    SIDE,
    Choice,
    GroundScene,
    Patch,
    _shared,
    choose_windows,
    held_blocks,
    show,
)
from spectraldiff_export.compact.novelty import fit_novelty
from spectraldiff_export.compact.student import DeployedStudent, Student, StudentShape
from spectraldiff_export.compact.teaching import Lessons, teach
from spectraldiff_export.quiet import quiet
from spectraldiff_export.torchscript import torchscript_bytes
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import SceneError, VerificationError
from spectraldiff_runtime.window import Window

BANDS, CLASSES = 6, 3
SHAPE = StudentShape((1, 3, 7), 5)
CLASS_LIST = tuple(LandCoverClass(i, f"c{i}", colour) for i, colour in enumerate(palette(CLASSES), start=1))


def patch(seed: int = 0, side: int = 18, scene: int = 0) -> Patch:
    """Ground of two fields of one spectrum each, with noise, and a class that the full model gives nowhere."""
    rng = torch.Generator().manual_seed(seed)
    size = side + 2 * SHAPE.halo
    field = (torch.arange(size) > size // 2).long()[:, None].expand(size, size)
    spectra = torch.tensor([[1000.0, 2000, 500, 700, 100, 900], [1300.0, 1500, 900, 400, 100, 1200]])
    raw = spectra[field].permute(2, 0, 1) + 60 * torch.randn(BANDS, size, size, generator=rng)
    raw[4] = 100  # a band without range
    inner = field[SHAPE.halo : -SHAPE.halo, SHAPE.halo : -SHAPE.halo]
    taught = torch.full((CLASSES, side, side), 0.02).scatter_(0, inner[None], 0.96)
    valid = torch.ones(side, side, dtype=torch.bool)
    valid[2, 3] = False
    held = torch.from_numpy(held_blocks(Window(0, side, 0, side)))
    return Patch(
        scene,
        Window(0, side, 0, side),
        raw,
        taught,
        torch.zeros_like(inner),
        torch.where(inner == 0, 1, 2),
        valid,
        held,
    )


def new(patches: list[Patch], shape: StudentShape = SHAPE) -> Student:
    spectra = torch.cat([one.raw.flatten(1) for one in patches], 1)
    normaliser = Normaliser(spectra.amin(1), spectra.amax(1))
    pca = fit_pca(iter([normaliser(one.raw[None])[0].flatten(1).T for one in patches]), shape.components)
    return Student(shape, normaliser, spectra.mean(1), pca, CLASSES)


@pytest.fixture
def student() -> Student:
    """Random weights, a temperature, and a distance from the training."""
    made = new([patch()])
    generator = torch.Generator().manual_seed(1)
    made.weight.normal_(generator=generator)
    made.bias.normal_(generator=generator)
    made.temperature.fill_(1.3)
    made.outside = Outside(3, 4, CLASSES, BANDS)
    made.outside.weight.normal_(generator=generator)
    made.outside.bias.normal_(generator=generator)
    made.outside.slopes.normal_(generator=generator)
    return made


def test_what_is_deployed_computes_what_the_student_does(student):
    tile = torch.stack([patch(5).raw, patch(6).raw])
    classes, confidence, probabilities, percent = DeployedStudent(student)(tile)
    wanted = student.double()(tile.double()).softmax(1)
    torch.testing.assert_close(probabilities.double(), wanted, rtol=0, atol=1e-5)
    assert probabilities.shape == (2, CLASSES, 18, 18)
    torch.testing.assert_close(confidence.double(), wanted.amax(1), rtol=0, atol=1e-5)
    assert len(classes.unique()) == CLASSES
    assert percent.dtype == torch.uint8
    far = student.outside.percent(student.scores_and_distance(tile.double())[1])
    assert (percent.int() - far.int()).abs().max() <= 1
    assert len(percent.unique()) > 3


def test_without_a_distance_there_are_three_outputs(student):
    student.outside = None
    made = DeployedStudent(student)
    assert len(made(patch().raw[None])) == 3
    assert not made.knows_outside


def test_the_same_means_are_read_in_the_fit_and_in_the_graph(student):
    """Scores of the fit's rows are those of the convolutions."""
    one = patch()
    lessons = Lessons.of(student, [one])
    assert lessons.read.shape == (18 * 18 - 1, 3 * len(student.components))
    np.testing.assert_allclose(lessons.read.view(len(lessons.read), 3, -1).square().mean((0, 2)), 1, rtol=1e-4)
    weight = (student.weight * lessons.scales[:, None, None]).permute(0, 2, 1).flatten(0, 1)
    scores = (lessons.read @ weight + student.bias) / student.temperature
    torch.testing.assert_close(scores, student(one.raw[None])[0][:, one.valid].T, rtol=1e-3, atol=1e-3)


def test_a_student_learns_what_is_shown_and_nothing_of_what_is_held_out():
    one, told = patch(), []
    other = Patch(**{**vars(one), "taught": torch.where(one.held, one.taught.roll(1, 0), one.taught)})
    found = []
    for ground in (one, other):
        made = new([one])
        teach(made, Lessons.of(made, [ground]), hold_out=True, report=lambda *told_: told.append(told_))
        found.append(made)
    assert torch.equal(found[0].weight, found[1].weight)
    assert told[-1][2] < told[0][2]
    assert all(0 < done <= total for done, total, _ in told)
    teach(found[1], Lessons.of(found[1], [other]), hold_out=False)
    assert not torch.equal(found[0].weight, found[1].weight)
    (own, whole) = compared(found[0], [one], 1, held=True)
    assert own == whole
    assert own.pixels == int((one.held & one.valid).sum())
    assert own.confident_agreement == own.agreement > 0.99
    assert own.oa == own.oa_full - own.lost > 0.99
    assert own.classes[2] == (None, None, None)
    assert reasons([("s", own)], own) == []


def test_a_student_of_the_pixel_alone_is_fitted_too():
    one = patch()
    alone = replace(one, raw=one.raw[:, 3:-3, 3:-3])
    made = new([alone], StudentShape((1,), 5))
    teach(made, Lessons.of(made, [alone]), hold_out=False)
    assert compared(made, [alone], 1, held=False)[0].agreement > 0.9


def test_scenes_are_compared_each_and_together():
    ground = [patch(0), patch(1, scene=1)]
    made = new(ground)
    teach(made, Lessons.of(made, ground[:1]), hold_out=False)
    first, second, whole = compared(made, ground, 2, held=False)
    assert first.pixels == second.pixels == whole.pixels / 2
    assert whole.agreement == pytest.approx((first.agreement + second.agreement) / 2)


def test_the_temperature_brings_confidences_to_the_full_model():
    one = patch()
    made = new([one])
    teach(made, Lessons.of(made, [one]), hold_out=False)
    made.weight *= 4
    made.bias *= 4
    assert 2.5 < fit_temperature(made, [one], held=False) < 5


def test_a_comparison_that_falls_short_is_refused():
    good = Comparison(100, 0.99, 80, 0.98, 50, 0.95, 0.9, 0.9, 0.952, 0.01, ())
    poor = Comparison(100, 0.9, 80, 0.96, 50, 0.94, 0.9, 0.9, 0.952, 0.01, ())
    blank = Comparison(100, 0.9, 0, None, 0, None, None, None, None, None, ())
    assert reasons([("s", good), ("t", good)], good) == []
    refuse([])
    for judged, tested, words in (
        (poor, good, "class at 96.00 % of 80 held-out pixels of 't'"),
        (good, poor, "loses 1.20 points of overall accuracy on 50 test pixels"),
        (blank, blank, "class at no of 0 held-out pixels of 't'"),
    ):
        (reason,) = reasons([("s", good), ("t", judged)], tested)
        assert words in reason
        with pytest.raises(VerificationError, match="with --force"):
            refuse([reason])


def test_how_far_pixels_are_is_fitted_to_the_training_pixels():
    ground = patch()
    train = torch.where(torch.rand(18, 18, generator=torch.Generator().manual_seed(2)) < 0.4, ground.test, 0)
    ground = replace(ground, train=torch.where(ground.valid, train, 0))
    made = new([ground])
    assert fit_novelty(made, [patch()]) is None  # no pixel trains
    found = fit_novelty(made, [ground, patch(1)])
    made.outside = found.module
    strange = ground.raw * torch.tensor([2.0, 0.3, 2, 0.3, 1, 2])[:, None, None]
    deployed = DeployedStudent(made)
    usual, far = (deployed(raw[None])[3].float().mean() for raw in (ground.raw, strange))
    assert usual < 80 < far


def scene(height: int, width: int, labelled: bool = False) -> GroundScene:
    labels = np.zeros((height, width), np.uint8)
    labels[:5, -5:] = 1
    cube = np.zeros((height, width, BANDS), np.uint16)
    chosen = labels > 0 if labelled else None
    return GroundScene(LabelledScene("s", cube, labels, CLASS_LIST), chosen, chosen)


def test_a_scene_that_the_budget_holds_is_shown_whole_and_a_larger_one_in_part():
    small, large = scene(50, 100), scene(30 * SIDE, 30 * SIDE, labelled=True)
    whole, part = choose_windows([small, large], 4, pixels=40 * SIDE**2)
    assert whole.whole
    assert not part.whole
    seen = np.zeros((50, 100), int)
    for window in whole.windows:
        assert max(window.height, window.width) <= SIDE
        seen[window.row0 : window.row1, window.col0 : window.col1] += 1
    assert (seen == 1).all()
    assert len(set(part.windows)) == len(part.windows) == 40 - len(whole.windows)
    assert Window(0, SIDE, 29 * SIDE, 30 * SIDE) in part.windows  # where the labels are
    rows = [window.row0 for window in part.windows]
    assert np.histogram(rows, 3)[0].min() >= len(rows) // 6


class Teacher:
    """Gives the class of a pixel's first band."""

    card = SimpleNamespace(halo=3)

    def run(self, tile, *, probabilities):
        assert probabilities
        inner = tile[:, 0, 3:-3, 3:-3]
        return SimpleNamespace(probabilities=np.stack([inner == k for k in range(CLASSES)], 1).astype(np.float32))


def test_what_is_shown_is_the_scene_and_what_the_full_model_says_of_it():
    """Of a scene that is shown whole, blocks are held out; of another, whole windows; windows without data are left."""
    rng = np.random.default_rng(0)
    cube = rng.integers(0, CLASSES, (2 * SIDE, 4 * SIDE, BANDS)).astype(np.uint16)
    labels = cube[..., 0].astype(np.uint8)
    train = rng.random(labels.shape) < 0.1
    missing = np.zeros(labels.shape, bool)
    missing[:SIDE, :SIDE] = missing[SIDE + 1, 1] = True
    place = LabelledScene("s", cube, np.where(missing, 0, labels), CLASS_LIST, missing=missing)
    one = GroundScene(place, train, ~train)
    windows = tuple(Window(r, r + SIDE, c, c + SIDE) for r in (0, SIDE) for c in range(0, 4 * SIDE, SIDE))
    told = []
    for whole in (True, False):
        found = show([one], [Choice(windows, whole)], Teacher(), torch.zeros(BANDS), 4, lambda *args: told.append(args))
        assert [patch.window for patch in found] == list(windows[1:])
        for number, (patch, window) in enumerate(zip(found, windows[1:], strict=True), start=1):
            at = slice(window.row0, window.row1), slice(window.col0, window.col1)
            assert patch.raw.shape == (BANDS, SIDE + 8, SIDE + 8)
            inner = patch.raw[0, 4:-4, 4:-4].numpy()
            good = patch.valid.numpy()
            np.testing.assert_array_equal(good, ~missing[at])
            np.testing.assert_array_equal(inner, np.where(good, cube[at][..., 0], 0))
            np.testing.assert_array_equal(patch.taught.argmax(0), inner)
            np.testing.assert_array_equal(patch.train + patch.test, place.labels[at])
            assert not (patch.train[~torch.from_numpy(train[at])] > 0).any()
            held = held_blocks(window) if whole else np.full((SIDE, SIDE), number % FIFTHS == 0)
            np.testing.assert_array_equal(patch.held, held)
    assert told[:8] == [(done, 8) for done in range(1, 9)]
    with pytest.raises(SceneError, match="'s' has no data in 1 windows of it"):
        show([one], [Choice(windows[:1], False)], Teacher(), torch.zeros(BANDS), 4)


def test_torchscript_computes_the_same(student):
    deployed, tile = DeployedStudent(student), patch(5).raw[None]
    with quiet():
        loaded = torch.jit.load(BytesIO(torchscript_bytes(deployed, "{}")))
    for size in (18, 9):
        part = tile[..., : size + 6, : size + 6]
        for found, wanted in zip(loaded(part), deployed(part), strict=True):
            torch.testing.assert_close(found, wanted)


def test_the_budget_is_shared_and_never_more_than_needed():
    assert _shared(100, [10, 500, 20]) == [10, 70, 20]
    assert _shared(8, [10, 500]) == [FIFTHS, FIFTHS]
    assert _shared(100, [3]) == [3]


def test_a_fifth_of_the_blocks_is_held_out_and_none_side_by_side():
    held = held_blocks(Window(0, 10 * BLOCK, 0, 10 * BLOCK))[::BLOCK, ::BLOCK]
    assert held.mean() == 1 / FIFTHS
    assert not (held[1:] & held[:-1]).any()
    assert not (held[:, 1:] & held[:, :-1]).any()
    moved = held_blocks(Window(BLOCK, 2 * BLOCK, 5, 10 * BLOCK))
    assert moved[0, 0] == held[1, 0]
