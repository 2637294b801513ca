"""Tests of tiers and intervals of ranks, by hand and by their properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.best import Compare, first_step, rank_intervals, tiers_by_best


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
    # the first of a row's p-values is multiplied by 3, also if the row has no other below it
    p_values = {(0, 2): 0.001, (0, 1): 0.9, (1, 2): 0.017}
    assert rank_intervals(3, from_table(p_values)) == [(1, 2), (1, 3), (2, 3)]
    assert rank_intervals(3, from_table({**p_values, (1, 2): 0.016})) == [(1, 2), (1, 2), (3, 3)]


def test_a_leader_is_compared_with_rows_of_earlier_tiers_too() -> None:
    """Row 1 is in tier 1. Its separation from the second leader makes that leader's next step weaker by Holm."""
    p_values = {(0, 1): 1e-9, (0, 2): 0.5, (0, 3): 1e-9, (0, 4): 1e-9, (1, 2): 1e-9, (1, 3): 0.05 / 7.5}
    assert tiers_by_best(5, from_table(p_values)) == [1, 2, 1, 3, 2]
    assert tiers_by_best(5, from_table({**p_values, (1, 2): 1.0})) == [1, 2, 1, 2, 2]


def test_rows_between_two_rows_of_one_tier_do_not_part_their_ranks() -> None:
    """Rows 1 and 2 are worse than row 0 and better than row 3, but no test separates row 0 from row 3."""
    p_values = {(0, 1): 1e-9, (0, 2): 1e-9, (1, 3): 1e-9, (2, 3): 1e-9, (0, 3): 0.9}
    assert tiers_by_best(4, from_table(p_values)) == [1, 2, 2, 1]
    assert rank_intervals(4, from_table(p_values)) == [(1, 3), (2, 3), (2, 3), (3, 4)]


def test_a_table_without_rows() -> None:
    assert tiers_by_best(0, from_table({})) == []
    assert rank_intervals(0, from_table({})) == []
    assert tiers_by_best(1, from_table({})) == [1]
    assert rank_intervals(1, from_table({})) == [(1, 1)]


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], float]]:
    """Draw a number of rows and any p-values of their pairs."""
    count = draw(st.integers(2, 9))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    p_value = st.floats(0, 1) | st.floats(0, 1e-2) | st.sampled_from([0.0, 1.0])
    values = draw(st.lists(p_value, min_size=len(pairs), max_size=len(pairs)))
    return count, dict(zip(pairs, values, strict=True))


@given(tables())
def test_properties_of_tiers_and_ranks(table: tuple[int, dict[tuple[int, int], float]]) -> None:
    count, compare = table[0], from_table(table[1])
    tiers = tiers_by_best(count, compare)
    assert tiers[0] == 1
    assert set(tiers) == set(range(1, max(tiers) + 1))
    stricter = tiers_by_best(count, compare, alpha=0.001)
    assert sum(tier == 1 for tier in stricter) >= sum(tier == 1 for tier in tiers)
    for rank, (low, high) in enumerate(rank_intervals(count, compare), start=1):
        assert 1 <= low <= rank <= high <= count


@settings(max_examples=500)
@given(tables())
def test_ranks_never_contradict_tiers(table: tuple[int, dict[tuple[int, int], float]]) -> None:
    """The ranks of a tier's leader and of another row of the tier overlap. A leader leaves room for those below."""
    count, compare = table[0], from_table(table[1])
    tiers, ranks = tiers_by_best(count, compare), rank_intervals(count, compare)
    leaders = {tier: tiers.index(tier) for tier in set(tiers)}
    for row, tier in enumerate(tiers):
        assert ranks[leaders[tier]][1] >= ranks[row][0]
        better = sum(leader < row for above, leader in leaders.items() if above < tier)
        assert ranks[row][0] >= 1 + better  # each leader of a higher tier is separated from the row


@given(tables())
def test_rows_whose_ranks_do_not_overlap_are_separated(
    table: tuple[int, dict[tuple[int, int], float]],
) -> None:
    count, p_values = table
    ranks = rank_intervals(count, from_table(p_values))
    for (row, other), p in p_values.items():
        if ranks[row][1] < ranks[other][0]:
            assert p * count / 2 <= 0.05


@pytest.mark.parametrize("count", [2, 5, 12])
def test_rows_that_cannot_be_compared_stay_in_one_tier(count: int) -> None:
    assert tiers_by_best(count, from_table({})) == [1] * count
    assert rank_intervals(count, from_table({})) == [(1, count)] * count


@pytest.mark.parametrize("count", [2, 3, 12])
def test_the_first_step_is_where_one_row_begins_to_be_separated(count: int) -> None:
    for factor, tier in ((0.999, 2), (1.001, 1)):
        p = [factor * first_step(count), *[1.0] * count]
        tiers = tiers_by_best(count, lambda row, others, p=p: [p[place] for place in range(len(others))])
        assert tiers[1] == tier
