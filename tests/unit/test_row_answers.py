"""Tests of the comparison of rows: pairing of seeds and images, packed answers, and the ranking of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.results.answers import SeedAnswers
from harness.results.leaderboard.answers import Answers, compare
from harness.results.leaderboard.tiers import rank
from harness.stats.binary import mcnemar
from harness.stats.crossed import Prior, crossed
from harness.stats.power import MOST_PRIOR, Spread


def row(
    right: NDArray[np.bool_], seeds: list[int] | None = None, images: list[bytes] | None = None
) -> Answers:
    """Return the answers of a row from ``right``, bool [S, I]."""
    names = list(range(len(right))) if seeds is None else seeds
    of_images = [b"i"] * len(names) if images is None else images
    return Answers(
        {
            seed: SeedAnswers(which, len(own), np.packbits(own).tobytes())
            for seed, which, own in zip(names, of_images, right, strict=True)
        }
    )


def drawn(seeds: int, images: int, share: float = 0.8, number: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(number).random((seeds, images)) < share


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(2, 70), st.integers(0, 1000))
def test_packed_rows_give_the_analysis_of_their_differences(seeds: int, images: int, number: int) -> None:
    first, second = drawn(seeds, images, number=number), drawn(seeds, images, 0.7, number + 1)
    (paired,) = compare(row(first), [row(second)])
    expected = crossed(first.astype(int) - second, step=1.0)
    assert paired is not None
    assert paired.difference == pytest.approx(expected.difference[0])
    assert paired.p == pytest.approx(expected.p[0])
    assert (paired.seeds, paired.images) == (seeds, images)


def test_only_common_seeds_with_the_same_images_are_compared() -> None:
    first, second = drawn(4, 50), drawn(4, 50, 0.7, 1)
    same = compare(row(first[:3]), [row(second[:3])])
    assert compare(row(first, [0, 1, 2, 9]), [row(second, [0, 1, 2, 8])]) == same
    others = [b"i", b"i", b"i", b"j"]
    assert compare(row(first), [row(second, images=others)]) == same
    assert compare(row(first), [row(second, [5, 6, 7, 8])]) == [None]


def test_one_common_seed_is_compared_by_mcnemar() -> None:
    first, second = drawn(3, 90), drawn(3, 90, 0.6, 1)
    (paired,) = compare(row(first, [0, 1, 2]), [row(second, [2, 3, 4])])
    assert paired is not None
    assert paired.seeds == 1
    assert paired.p == mcnemar(int((first[2] & ~second[0]).sum()), int((second[0] & ~first[2]).sum()))
    assert paired.low < paired.difference < paired.high


def test_seeds_with_images_of_their_own_are_compared_by_their_means() -> None:
    first, second = drawn(3, 40), drawn(3, 40, 0.5, 1)
    images = [b"a", b"b", b"c"]
    (paired,) = compare(row(first, images=images), [row(second, images=images)])
    assert paired is not None
    assert paired.spread is None
    assert paired.difference == pytest.approx((first.mean(axis=1) - second.mean(axis=1)).mean())


def test_rows_are_compared_in_parts_that_fit_into_memory() -> None:
    first = drawn(3, 1000)
    others = [row(drawn(3, 1000, 0.7, number)) for number in range(1, 40)]
    at_once = compare(row(first), others)
    assert at_once == [compare(row(first), [other])[0] for other in others]
    assert at_once == compare(row(first), others, chunk_bytes=20_000)


def test_other_rows_add_at_most_a_few_degrees_of_freedom() -> None:
    spread = Spread(seed=1e-4, image=0.02, residual=0.04)
    assert Prior.of([], 3, 100).freedom == 0
    assert Prior.of([spread], 10, 100).freedom == 0
    assert Prior.of([spread] * 4, 3, 100) == Prior(ratio=1 + 100 * 1e-4 / 0.04, freedom=2)
    assert Prior.of([spread] * 400, 3, 100).freedom == MOST_PRIOR
    assert Prior.of([Spread(seed=0, image=0.1, residual=0)] * 9, 3, 100).freedom == 0


def test_a_seed_effect_alone_separates_no_rows() -> None:
    """One training of a row was lucky: 30 points more in one seed of three."""
    first, second = drawn(3, 200, 0.6), drawn(3, 200, 0.6, 1)
    first[0] |= drawn(1, 200, 0.75, 2)[0]
    assert first.mean() - second.mean() > 0.06
    assert rank([row(first), row(second)]).tiers == (1, 1)


def test_a_ranking_of_nothing_and_of_one_row() -> None:
    assert rank([]).tiers == ()
    alone = rank([row(drawn(3, 20))])
    assert (alone.tiers, alone.intervals, alone.detectable) == ((1,), ((1, 1),), None)


def test_two_thousand_rows_are_compared_with_the_best_of_each_tier_only() -> None:
    rng = np.random.default_rng(0)
    shares = np.sort(rng.uniform(0.5, 1, 2000))[::-1]
    rows = [row(rng.random((3, 64)) < share) for share in shares]
    ranking = rank(rows)
    assert len(ranking.tiers) == 2000
    assert ranking.intervals == ()  # these would need all pairs
    assert ranking.detectable is not None
