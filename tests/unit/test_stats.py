"""Tests of the statistics against scipy, against published minima, and by their defining properties."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as reference

from harness import stats
from harness.stats import multiple

probabilities = st.floats(1e-6, 1, allow_nan=False)


# scipy 1.15 loses digits within 1e-12 of 1; the closed form below covers them
@given(st.floats(0.05, 3000), st.floats(0.05, 3000), st.floats(0, 1).map(lambda x: round(x, 12)))
def test_incomplete_beta_is_scipys(a: float, b: float, x: float) -> None:
    assert stats.beta_regularized(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-12)


@given(st.floats(0, 1))
@example(0.9999999999999992)
def test_incomplete_beta_of_two_halves_is_an_arc_sine(x: float) -> None:
    arc = 2 / math.pi * math.atan2(math.sqrt(x), math.sqrt(1 - x))
    assert stats.beta_regularized(0.5, 0.5, x) == pytest.approx(arc, rel=1e-9, abs=1e-12)


@given(st.integers(0, 20_000), st.integers(1, 20_000), st.floats(0.001, 0.999))
def test_binomial_cdf_is_scipys(k: int, n: int, p: float) -> None:
    assert stats.binomial_cdf(k, n, p) == pytest.approx(reference.binom.cdf(k, n, p), rel=1e-7, abs=1e-12)


@given(st.floats(0.001, 0.999), st.integers(1, 300))
@example(0.5000000018626451, 1)
def test_t_quantile_is_scipys(p: float, df: int) -> None:
    assert stats.t_quantile(p, df) == pytest.approx(reference.t.ppf(p, df), rel=1e-8, abs=1e-9)


# --- percentiles --------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([50, 90, 95, 97, 99, 99.9]))
def test_percentile_is_a_sample_that_covers_its_share(values: list[float], q: float) -> None:
    found = stats.percentile(values, q)
    assert found in values
    assert sum(value <= found for value in values) > q / 100 * len(values) - 1e-9
    assert sum(value < found for value in values) <= q / 100 * len(values) + 1e-9


def test_percentile_takes_loadgens_rank_without_rounding_errors() -> None:
    assert stats.percentile(range(1000), 99.9) == 999
    assert stats.percentile(range(100), 90) == 90
    assert stats.percentile([5, 1, 3], 50) == 3


@pytest.mark.parametrize("q", [0, 100, -1])
def test_percentile_refuses_what_is_none(q: float) -> None:
    with pytest.raises(ValueError, match="not between"):
        stats.percentile([1.0], q)
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 50)


def test_early_stopping_minima_are_loadgens() -> None:
    for q, least in stats.EARLY_STOPPING_MIN.items():
        over = 1 - q / 100
        assert reference.binom.cdf(1, least, over) <= 0.01 < reference.binom.cdf(1, least - 1, over)
        assert stats.early_stopping_discard(least, q) == 1
        assert stats.early_stopping_discard(least - 1, q) == 0
    assert stats.EARLY_STOPPING_MIN == {50: 11, 90: 64, 95: 130, 97: 219, 99: 662, 99.9: 6636}


@given(st.integers(2, 8000), st.sampled_from([50, 90, 99]))
def test_early_stopping_discards_as_many_as_the_binomial_admits(n: int, q: float) -> None:
    t = stats.early_stopping_discard(n, q)
    over = 1 - q / 100
    if t:
        assert reference.binom.cdf(t, n, over) <= 0.01 + 1e-9
    assert reference.binom.cdf(t + 1, n, over) > 0.01 - 1e-9


def test_early_stopping_bound_is_the_highest_sample_at_the_minimum_and_none_below_it() -> None:
    assert stats.early_stopping_bound(range(64), 90) == 63
    assert stats.early_stopping_bound(range(63), 90) is None
    assert stats.early_stopping_bound(range(10_000), 90) < 9_200
    assert stats.early_stopping_bound(range(10_000), 90) > stats.percentile(range(10_000), 90)


# --- intervals ----------------------------------------------------------------------------------


def test_t_interval_is_scipys_and_needs_three_values() -> None:
    values = [96.1, 97.5, 96.9]
    low, high = reference.t.interval(0.95, 2, loc=sum(values) / 3, scale=reference.sem(values))
    assert stats.t_interval(values) == pytest.approx((low, high))
    assert stats.t_interval(values[:2]) is None


@given(st.integers(1, 5000), st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = reference.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert stats.wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_refuses_an_impossible_proportion() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        stats.wilson(5, 4)


# --- paired comparisons -------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert multiple.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert multiple.holm([]) == []


@given(st.lists(probabilities, min_size=1, max_size=12))
def test_holm_lies_between_the_raw_and_bonferronis_p_values(p_values: list[float]) -> None:
    adjusted = multiple.holm(p_values)
    for raw, value in zip(p_values, adjusted, strict=True):
        assert raw <= value <= min(1.0, raw * len(p_values))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_the_statistics_of_a_cell_load_no_numpy() -> None:
    code = "import sys, harness.stats; sys.exit('numpy' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
