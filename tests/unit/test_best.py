"""Tests of tiers and intervals of ranks, by hand and by their properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.best import Compare, rank_intervals, tiers_by_best


def from_table(p_values: dict[tuple[int, int], float]) -> Compare:
    """Return a comparison that looks p-values up, 1 where there is none."""

    def compare(row: int, others: Sequence[int]) -> list[float]:
        return [p_values.get((row, other), 1.0) for other in others]

    return compare


def test_two_rows_are_compared_without_correction() -> None:
    assert tiers_by_best(2, from_table({(0, 1): 0.05})) == [1, 2]
    assert tiers_by_best(2, from_table({(0, 1): 0.0501})) == [1, 1]
    assert rank_intervals(2, from_table({(0, 1): 0.05})) == [(1, 1), (2, 2)]
    assert rank_intervals(2, from_table({(0, 1): 0.0501})) == [(1, 2), (1, 2)]


def test_the_leader_of_three_rows_may_be_any_of_them() -> None:
    """The smallest p-value is multiplied by the number of pairs, 3, the next one by 3/2."""
    assert tiers_by_best(3, from_table({(0, 2): 0.05 / 3, (0, 1): 0.05 / 1.5})) == [1, 2, 2]
    assert tiers_by_best(3, from_table({(0, 2): 0.05 / 3, (0, 1): 0.04})) == [1, 1, 2]
    assert tiers_by_best(3, from_table({(0, 2): 0.02, (0, 1): 0.02})) == [1, 1, 1]


def test_the_rule_is_repeated_with_the_remaining_rows() -> None:
    p_values = {(0, 1): 0.5, (0, 2): 1e-6, (0, 3): 1e-6, (2, 3): 1e-6}
    assert tiers_by_best(4, from_table(p_values)) == [1, 1, 2, 3]
    # a later leader gets no weaker correction than the first
    assert tiers_by_best(4, from_table({**p_values, (2, 3): 0.05 / 5})) == [1, 1, 2, 2]


def test_rank_intervals_by_hand() -> None:
    p_values = {(0, 2): 0.001, (0, 1): 0.9, (1, 2): 0.03}
    # row 1: Holm's first step of two is 0.06; row 2: 0.002, then 0.03
    assert rank_intervals(3, from_table(p_values)) == [(1, 2), (1, 3), (3, 3)]


def test_a_table_without_rows() -> None:
    assert tiers_by_best(0, from_table({})) == []
    assert rank_intervals(0, from_table({})) == []
    assert tiers_by_best(1, from_table({})) == [1]
    assert rank_intervals(1, from_table({})) == [(1, 1)]


@given(st.integers(2, 9), st.data())
def test_properties_of_tiers_and_ranks(count: int, data: st.DataObject) -> None:
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    values = data.draw(
        st.lists(st.floats(0, 1) | st.floats(0, 1e-3), min_size=len(pairs), max_size=len(pairs))
    )
    compare = from_table(dict(zip(pairs, values, strict=True)))
    tiers = tiers_by_best(count, compare)
    assert tiers[0] == 1
    assert set(tiers) == set(range(1, max(tiers) + 1))
    stricter = tiers_by_best(count, compare, alpha=0.001)
    assert sum(tier == 1 for tier in stricter) >= sum(tier == 1 for tier in tiers)
    for rank, (low, high) in enumerate(rank_intervals(count, compare), start=1):
        assert 1 <= low <= rank <= high <= count


@pytest.mark.parametrize("count", [2, 5, 12])
def test_rows_that_cannot_be_compared_stay_in_one_tier(count: int) -> None:
    assert tiers_by_best(count, from_table({})) == [1] * count
    assert rank_intervals(count, from_table({})) == [(1, count)] * count
