"""Tests of intervals and tests of ratios: against SciPy, by their properties, and by small simulations."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.stats.ratios import (
    MIN_VALUES,
    LogSample,
    detectable_ratio,
    ratio_interval,
    ratio_p,
    typical_interval,
    values_needed,
)

latencies = st.lists(st.floats(0.01, 1000), min_size=3, max_size=30)


@given(latencies, latencies)
def test_the_test_is_scipys_welch_test_of_logarithms(first: list[float], second: list[float]) -> None:
    assume(len({*first}) > 1 and len({*second}) > 1)
    expected = scipy_stats.ttest_ind(np.log(first), np.log(second), equal_var=False)
    ours, theirs = LogSample.measured(first), LogSample.measured(second)
    assert ratio_p(ours, theirs) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    difference = ours.mean - theirs.mean
    error = math.hypot(scipy_stats.sem(np.log(first)), scipy_stats.sem(np.log(second)))
    half = error * scipy_stats.t.ppf(0.975, math.floor(10 * expected.df + 1e-6) / 10)
    ends = math.exp(difference - half), math.exp(difference + half)
    assert ratio_interval(ours, theirs) == pytest.approx(ends, rel=1e-6)


@given(latencies, latencies, st.floats(1e-3, 1e3))
def test_a_ratio_is_symmetric_and_has_no_unit(first: list[float], second: list[float], unit: float) -> None:
    ours, theirs = LogSample.measured(first), LogSample.measured(second)
    low, high = ratio_interval(ours, theirs)
    assert low <= high
    assert ratio_p(ours, theirs) == pytest.approx(ratio_p(theirs, ours), abs=1e-12)
    inverse = ratio_interval(theirs, ours)
    assert (1 / high, 1 / low) == pytest.approx(inverse, rel=1e-9)
    scaled = ratio_interval(
        LogSample.measured([value * unit for value in first]),
        LogSample.measured([value * unit for value in second]),
    )
    assert scaled == pytest.approx((low, high), rel=1e-6)


@given(latencies)
def test_the_interval_of_a_figure_contains_the_figure(values: list[float]) -> None:
    low, high = typical_interval(values)
    assert low <= median(values) <= high
    expected = typical_interval([2 * value for value in values])
    assert expected == pytest.approx((2 * low, 2 * high))


def test_the_interval_is_students_on_logarithms() -> None:
    values = [4.0, 4.1, 4.3, 3.9, 4.05]
    logs = np.log(values)
    low, high = scipy_stats.t.interval(0.95, 4, np.mean(logs), scipy_stats.sem(logs))
    assert typical_interval(values) == pytest.approx((math.exp(low), math.exp(high)))


def test_an_interval_is_extended_to_a_median_outside() -> None:
    values = [1.0] * 16 + [2.0] * 15
    low, high = typical_interval(values)
    assert low == 1.0  # the t-interval begins at 1.2
    assert 1.4 < high < 2


def test_too_few_values_and_values_without_a_logarithm_have_no_interval() -> None:
    with pytest.raises(ValueError, match="2 values; 3 are needed"):
        typical_interval([1.0, 1.1])
    with pytest.raises(ValueError, match=r"math domain error|positive"):
        typical_interval([1.0, 1.1, 0.0])


def test_values_of_any_size_have_a_finite_interval() -> None:
    values = [1e-300, 1.0, 1e300]
    assert all(map(math.isfinite, typical_interval(values)))
    ends = ratio_interval(LogSample.measured(values), LogSample.measured([1.0, 1.1, 1e-200]))
    assert all(map(math.isfinite, ends))


@pytest.mark.parametrize("value", [4.0, 0.1, 88.813568])
def test_without_variance_equal_values_are_equal_and_others_are_not(value: float) -> None:
    same, more = LogSample.measured([value] * 7), LogSample.measured([value + 0.01] * 3)
    assert ratio_p(same, LogSample.counted(value)) == 1
    assert ratio_interval(same, LogSample.measured([value] * 3)) == (1, 1)
    assert ratio_p(same, more) == 0


def test_a_variance_on_one_side_has_the_degrees_of_freedom_of_that_side() -> None:
    values = [4.0, 4.1, 4.3]
    expected = scipy_stats.ttest_1samp(np.log(values), math.log(4))
    assert ratio_p(LogSample.measured(values), LogSample.counted(4)) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_the_interval_covers_the_median_of_processes(n: int, outliers: float) -> None:
    """Processes spread by 2%. ``outliers``: the share of them that a disturbance slows by 20% on average."""
    random = np.random.default_rng(5)
    logs = random.normal(0, 0.02, (2000, n))
    logs += (random.random(logs.shape) < outliers) * random.exponential(0.2, logs.shape)
    everything = random.normal(0, 0.02, 100_000)
    everything += (random.random(100_000) < outliers) * random.exponential(0.2, 100_000)
    true = math.exp(np.median(everything))
    intervals = [typical_interval(row) for row in np.exp(logs).tolist()]
    assert np.mean([low <= true <= high for low, high in intervals]) > 0.935


@pytest.mark.parametrize(("n", "other", "times"), [(3, 3, 1), (5, 5, 1), (5, 5, 3), (3, 5, 1), (10, 10, 3)])
def test_the_interval_of_a_ratio_covers_it(n: int, other: int, times: float) -> None:
    """``times``: how much more the second row's processes spread."""
    random = np.random.default_rng(6)
    first = np.exp(random.normal(0, 0.02, (2000, n))).tolist()
    second = np.exp(random.normal(math.log(1.3), 0.02 * times, (2000, other))).tolist()
    samples = [
        (LogSample.measured(ours), LogSample.measured([value / 1.3 for value in theirs]))
        for ours, theirs in zip(first, second, strict=True)
    ]
    covered = np.mean([ratio_p(ours, theirs) >= 0.05 for ours, theirs in samples])
    assert 0.935 < covered < 0.98


# --- planning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 66])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_detectable_ratio_is_what_a_simulated_test_finds_in_four_of_five_cases(
    n: int, alpha: float
) -> None:
    random = np.random.default_rng(7)
    shift = math.log(detectable_ratio(n, 0.02, alpha=alpha))
    first, second = random.normal(0, 0.02, (4000, n)), random.normal(shift, 0.02, (4000, n))
    p = scipy_stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue
    assert 0.77 < np.mean(p <= alpha) < 0.83


@settings(max_examples=15)
@given(st.floats(1.02, 3), st.floats(0.001, 0.2))
def test_the_number_of_values_is_the_inverse_of_the_detectable_ratio(ratio: float, spread: float) -> None:
    n = values_needed(ratio, spread, most=200)
    if n is None:
        assert detectable_ratio(200, spread) > ratio
        return
    assert detectable_ratio(n, spread) <= ratio
    assert n == MIN_VALUES or detectable_ratio(n - 1, spread) > ratio


@settings(max_examples=10)
@given(st.integers(3, 100), st.floats(0.001, 0.5))
def test_more_processes_see_more(n: int, spread: float) -> None:
    assert 1 < detectable_ratio(n + 1, spread) < detectable_ratio(n, spread)
