"""Area-adjusted accuracy: the worked example of its paper, a slow twin, and samples that do not say enough."""

import json
import math

import numpy as np
import pytest

from spectraldiff.accuracy.area_adjusted import area_adjusted
from spectraldiff_runtime.errors import LabelsError

# Olofsson et al. 2014, section 5: deforestation, forest gain, stable forest, stable non-forest; pixels of 30 m.
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
MAPPED = [200_000, 150_000, 3_200_000, 6_450_000]
HECTARES = 0.09


def printed(estimates, digits):
    return [(f"{e.value:,.{digits}f}", f"{e.half_width:,.{digits}f}") for e in estimates]


def test_worked_example_to_the_last_printed_digit():
    found = area_adjusted(COUNTS, MAPPED, HECTARES)
    assert printed([found.oa], 3) == [("0.947", "0.018")]
    assert printed(found.users, 3) == [("0.880", "0.074"), ("0.733", "0.101"), ("0.927", "0.040"), ("0.963", "0.021")]
    assert printed(found.producers, 3) == [
        ("0.749", "0.213"), ("0.847", "0.254"), ("0.935", "0.034"), ("0.962", "0.018"),
    ]  # fmt: skip
    assert printed(found.areas, 0) == [
        ("21,158", "6,158"), ("11,686", "3,756"), ("285,770", "15,510"), ("581,386", "16,282"),
    ]  # fmt: skip
    assert found.unsampled == ()


def twin(counts, mapped):
    """The paper's equations, term by term, in pixels instead of shares; standard errors."""
    K, total = range(len(counts)), sum(mapped)
    n = [sum(row) for row in counts]
    W = [pixels / total for pixels in mapped]
    U = [counts[i][i] / n[i] for i in K]
    N = [sum(mapped[i] * counts[i][j] / n[i] for i in K) for j in K]
    P = [mapped[j] * U[j] / N[j] for j in K]
    oa = sum(W[i] * U[i] for i in K), math.sqrt(sum(W[i] ** 2 * U[i] * (1 - U[i]) / (n[i] - 1) for i in K))
    producers, areas = [], []
    for j in K:
        own = mapped[j] ** 2 * (1 - P[j]) ** 2 * U[j] * (1 - U[j]) / (n[j] - 1)
        rest = [mapped[i] ** 2 * counts[i][j] / n[i] * (1 - counts[i][j] / n[i]) / (n[i] - 1) for i in K if i != j]
        producers.append((P[j], math.sqrt(own + P[j] ** 2 * sum(rest)) / N[j]))
        spread = sum((W[i] * p - p**2) / (n[i] - 1) for i in K for p in [W[i] * counts[i][j] / n[i]])
        areas.append((N[j] / total, math.sqrt(spread)))
    return oa, [(u, math.sqrt(u * (1 - u) / (m - 1))) for u, m in zip(U, n, strict=True)], producers, areas


def test_random_samples_agree_with_the_equations_written_out():
    generator = np.random.default_rng(0)
    for classes in (2, 3, 7):
        counts = generator.integers(1, 40, (classes, classes))
        mapped = generator.integers(1, 10**6, classes)
        found = area_adjusted(counts, mapped)
        oa, *lists = twin(counts.tolist(), mapped.tolist())
        assert (found.oa.value, found.oa.half_width) == pytest.approx((oa[0], 1.96 * oa[1]))
        for estimates, wanted in zip((found.users, found.producers, found.shares), lists, strict=True):
            got = [(e.value, e.half_width) for e in estimates]
            np.testing.assert_allclose(got, [(value, 1.96 * error) for value, error in wanted], rtol=1e-9)
        assert found.areas is None


def test_shares_are_those_of_the_map_where_it_is_right():
    found = area_adjusted([[10, 0], [0, 20]], [300, 100], 0.5)
    assert [e.value for e in found.shares] == [0.75, 0.25]
    assert [e.value for e in found.areas] == [150, 50]
    assert (found.oa.value, found.oa.half_width) == (1.0, 0.0)


def test_class_without_a_sample_leaves_little_to_say():
    found = area_adjusted([[8, 2, 0], [1, 9, 0], [0, 0, 0]], [100, 100, 5])
    assert found.unsampled == (3,)
    assert [e.value for e in found.users[:2]] == [0.8, 0.9]
    assert math.isnan(found.users[2].value)
    assert all(math.isnan(e.value) for e in (found.oa, *found.producers, *found.shares))


def test_class_that_the_map_does_not_have_is_no_stratum():
    found = area_adjusted([[8, 2, 1], [1, 9, 0], [0, 0, 0]], [100, 100, 0])
    assert found.unsampled == ()
    assert found.oa.value == pytest.approx((8 / 11 + 9 / 10) / 2)
    assert math.isnan(found.users[2].value)
    assert found.producers[2].value == 0
    assert found.shares[2].value == pytest.approx(0.5 / 11)


def test_class_that_nobody_has_is_left_open():
    found = area_adjusted([[5, 0, 0], [1, 9, 0], [0, 0, 0]], [100, 100, 0])
    assert math.isnan(found.producers[2].value)
    assert (found.shares[2].value, found.shares[2].half_width) == (0, 0)


def test_sample_of_one_pixel_has_no_interval():
    found = area_adjusted([[1, 0], [1, 9]], [10, 10])
    assert found.oa.value == pytest.approx(0.95)
    assert math.isnan(found.oa.half_width)
    assert math.isnan(found.users[0].half_width)


def test_dictionary_is_strict_json():
    record = json.loads(json.dumps(area_adjusted([[1, 0], [0, 0]], [10, 10], 0.1).as_dict(), allow_nan=False))
    assert record["oa"] == {"value": None, "half_width": None}
    assert record["users"][0] == {"value": 1.0, "half_width": None}
    assert (record["mapped_pixels"], record["unsampled_classes"]) == ([10, 10], [2])
    assert len(record["areas_ha"]) == 2


@pytest.mark.parametrize(
    ("counts", "mapped", "words"),
    [
        ([[1, 0, 0], [0, 1, 0]], [1, 1], r"wanted \(K, K\) and \(K,\)"),
        ([[1, 0], [0, -1]], [1, 1], "negative"),
        ([[0, 0], [0, 0]], [0, 0], "no pixel with a class"),
        ([[1, 0], [0, 1]], [5, 0], "class 2 was sampled"),
    ],
)
def test_counts_that_make_no_sense(counts, mapped, words):
    with pytest.raises(LabelsError, match=words):
        area_adjusted(counts, mapped)
