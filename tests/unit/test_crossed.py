"""Tests of the crossed analysis of seeds and images: independent formulas, properties, and its level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats as reference

from harness.stats.binary import difference_interval, mcnemar
from harness.stats.crossed import LEAST_P, crossed, crossed_of_sums, nested

answers = arrays(
    np.int8, st.tuples(st.integers(2, 6), st.integers(2, 40)), elements=st.sampled_from([-1, 0, 0, 1])
)


def gallas(differences: NDArray[np.int8]) -> float:
    """Return the variance of the mean from Gallas' moments: unbiased means of products, by loops over pairs.

    Gallas (2006), "One-shot estimate of MRMC variance: AUC": the variance is a weighted sum of the moments of D with
    the same or different seed and the same or different image, less the square of the mean.
    """
    d = differences.astype(float)
    s, n = d.shape
    total = d.sum()
    both = (d**2).sum()
    same_seed = (d.sum(axis=1) ** 2).sum() - both
    same_image = (d.sum(axis=0) ** 2).sum() - both
    none = total**2 - both - same_seed - same_image
    m_both = both / (s * n)
    m_seed = same_seed / (s * n * (n - 1))
    m_image = same_image / (s * (s - 1) * n)
    m_none = none / (s * (s - 1) * n * (n - 1))
    mean_square = (m_both + (n - 1) * m_seed + (s - 1) * m_image + (s - 1) * (n - 1) * m_none) / (s * n)
    return mean_square - m_none


@given(answers)
def test_the_variance_is_that_of_gallas_moments(differences: NDArray[np.int8]) -> None:
    result = crossed(differences)
    s, n = differences.shape
    d = differences.astype(float)
    by_image = s * ((d.mean(axis=0) - d.mean()) ** 2).sum() / (n - 1)
    unclipped = result.by_seed[0] + (by_image - result.residual[0]) / (s * n)
    assert unclipped == pytest.approx(gallas(differences), abs=1e-12)
    assert result.by_image[0] == pytest.approx(max(0.0, by_image - result.residual[0]) / (s * n), abs=1e-12)


@given(answers, st.randoms())
def test_swapped_methods_and_reordered_images_and_seeds_give_the_same(differences, random) -> None:
    result = crossed(differences, step=1.0)
    swapped = crossed(-differences, step=1.0)
    assert swapped.difference[0] == pytest.approx(-result.difference[0])
    assert swapped.p[0] == pytest.approx(result.p[0])
    images, seeds = list(range(differences.shape[1])), list(range(differences.shape[0]))
    random.shuffle(images)
    random.shuffle(seeds)
    moved = crossed(differences[seeds][:, images], step=1.0)
    assert moved.p[0] == pytest.approx(result.p[0], rel=1e-6)
    assert moved.interval()[0][0] == pytest.approx(result.interval()[0][0])


@given(answers)
def test_the_interval_is_what_the_test_does_not_exclude(differences: NDArray[np.int8]) -> None:
    result = crossed(differences, step=1.0)
    (low,), (high,) = result.interval()
    assert low <= result.difference[0] <= high
    if abs(result.p[0] - 0.05) > 1e-3:
        assert (low > 0 or high < 0) == (result.p[0] < 0.05)


@settings(max_examples=40)
@given(answers)
def test_the_p_value_solves_its_equation(differences: NDArray[np.int8]) -> None:
    result = crossed(differences, step=1.0)
    p = result.p[0]
    if LEAST_P < p < 1:
        seeds, images = differences.shape
        bar = reference.t.isf(p / 2, seeds - 1) ** 2 * result.by_seed[0]
        bar += reference.t.isf(p / 2, images - 1) ** 2 * result.by_image[0]
        assert bar == pytest.approx(result.difference[0] ** 2, rel=2e-3)


def test_seeds_with_images_of_their_own_are_compared_by_a_t_test_of_their_means() -> None:
    means = np.random.default_rng(0).normal(0.4, 1, size=(10, 3))
    assert nested(means).p == pytest.approx(reference.ttest_1samp(means, 0, axis=1).pvalue, rel=3e-3)


def test_with_equal_seeds_it_is_a_t_test_over_images() -> None:
    image = np.random.default_rng(1).normal(0.2, 1, size=50)
    result = crossed(np.stack([image] * 4))
    assert result.by_seed[0] == 0
    assert result.p[0] == pytest.approx(reference.ttest_1samp(image, 0).pvalue, rel=1e-3)


def test_differences_that_do_not_vary() -> None:
    assert crossed(np.zeros((3, 50)), step=1.0).p[0] == 1
    assert crossed(np.zeros((3, 50))).p[0] == 1
    assert crossed(np.ones((3, 50))).p[0] == pytest.approx(LEAST_P)
    assert crossed(np.ones((2, 1)), step=1.0).p[0] == 1
    assert crossed(np.ones((2, 1)), step=1.0).interval() == (-math.inf, math.inf)


@pytest.mark.parametrize("shape", [(1, 5), (2, 0)])
def test_too_few_seeds_or_images_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="needs two seeds and an image"):
        crossed(np.zeros(shape))


def test_many_pairs_at_once_give_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    d = rng.integers(-1, 2, size=(20, 3, 60))
    at_once = crossed_of_sums(
        d.sum(axis=2), (d.sum(axis=1) ** 2).sum(axis=1), (d**2).sum(axis=(1, 2)), images=60, step=1.0
    )
    assert at_once.p == pytest.approx([crossed(each, step=1.0).p[0] for each in d])


# --- one seed -------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 400))
def test_the_interval_of_two_models_is_symmetric_and_within_one(b: int, c: int, rest: int) -> None:
    low, high = difference_interval(b, c, b + c + rest)
    assert -1 <= low <= high <= 1
    assert difference_interval(c, b, b + c + rest) == pytest.approx((-high, -low))


def test_the_interval_of_two_models_covers_the_difference() -> None:
    rng = np.random.default_rng(3)
    for first, second, n in ((0.06, 0.03, 360), (0.02, 0.02, 60), (0.3, 0.1, 100)):
        tables = rng.multinomial(n, [first, second, 1 - first - second], size=2000)
        intervals = [difference_interval(int(b), int(c), n) for b, c, _ in tables]
        assert np.mean([low <= first - second <= high for low, high in intervals]) > 0.94


def test_the_interval_of_two_models_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="no paired answers"):
        difference_interval(3, 3, 5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_two_sided_binomial_test(b: int, c: int) -> None:
    expected = reference.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)
