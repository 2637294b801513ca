"""The right and wrong answers of rows, packed to one bit each, and the comparison of one row with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.results.answers import SeedAnswers
from harness.results.leaderboard.rows import Group
from harness.results.summary import Summary
from harness.stats.binary import difference_interval, mcnemar
from harness.stats.crossed import Crossed, Prior, crossed_of_sums, nested
from harness.stats.power import Spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Answers", "AnswersOf", "Paired", "answers_of", "compare"]

AnswersOf: TypeAlias = Callable[[Summary], SeedAnswers | None]
"""A function that returns which images a record answered right."""

CHUNK_BYTES = 2**25
"""Memory for intermediate arrays of a comparison with many rows."""

ALONE = Prior()
"""No other rows."""

_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Answers:
    """The answers of one row by seed. A row without raw predictions has none."""

    of_seed: Mapping[int, SeedAnswers]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in ascending order."""
        return tuple(sorted(self.of_seed))

    def packed(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return the packed answers of ``seeds`` with the same number of images, uint8 [S, ceil(n / 8)]."""
        return np.stack([self.of_seed[seed].bits for seed in seeds])

    def sums(self, seeds: tuple[int, ...]) -> NDArray[np.uint16]:
        """Return for each image the number of ``seeds`` whose answer is right, uint16 [n]."""
        return self._all_sums if seeds == self.seeds else self._sums(seeds)

    @cached_property
    def _all_sums(self) -> NDArray[np.uint16]:
        return self._sums(self.seeds)

    def _sums(self, seeds: Sequence[int]) -> NDArray[np.uint16]:
        n = self.of_seed[seeds[0]].n
        sums: NDArray[np.uint16] = np.unpackbits(self.packed(seeds), axis=1, count=n).sum(
            axis=0, dtype=np.uint16
        )
        return sums


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The comparison of two rows on their common seeds and images. Differences are fractions, first row less second.

    ``low`` and ``high``: the 95% interval of the difference. ``seeds``: the number of common seeds. ``images``: images of
    a seed. ``spread``: the variances of the differences of answers, ``None`` if each seed has images of its own.
    """

    difference: float
    p: float
    low: float
    high: float
    seeds: int
    images: int
    spread: Spread | None

    @property
    def test(self) -> str:
        """The name of the test."""
        return "exact McNemar test" if self.seeds == 1 else "crossed analysis of seeds and images"


def answers_of(group: Group, of_record: AnswersOf) -> Answers:
    """Return the answers of a row. Repeats of a seed share their predictions, so the first one counts."""
    answers: dict[int, SeedAnswers] = {}
    for record in group.good:
        if record.seed not in answers and (own := of_record(record)) is not None and own.n:
            answers[record.seed] = own
    return Answers(answers)


def compare(
    first: Answers, others: Sequence[Answers], prior: Prior = ALONE, chunk_bytes: int = CHUNK_BYTES
) -> list[Paired | None]:
    """Compare one row with each of ``others`` (:mod:`harness.stats.crossed`).

    Rows are compared on the seeds that both have with the same images. The result is ``None`` if there are none. Where
    there is one seed, the exact McNemar test compares the two trained models. ``prior``: what the other rows of the
    table say of the variance over seeds. ``chunk_bytes``: memory for intermediate arrays.
    """
    results: list[Paired | None] = [None] * len(others)
    places: dict[tuple[int, ...], list[int]] = {}
    for place, other in enumerate(others):
        common = tuple(
            seed
            for seed in first.seeds
            if seed in other.of_seed and other.of_seed[seed].images == first.of_seed[seed].images
        )
        if common:
            places.setdefault(common, []).append(place)
    for seeds, members in places.items():
        group = _of_seeds(first, [others[place] for place in members], seeds, prior, chunk_bytes)
        for place, paired in zip(members, group, strict=True):
            results[place] = paired
    return results


def _of_seeds(
    first: Answers, others: Sequence[Answers], seeds: tuple[int, ...], prior: Prior, chunk_bytes: int
) -> list[Paired]:
    """Compare one row with others on seeds that all have with the same images as the first row."""
    if len(seeds) == 1:
        return [_of_models(first.of_seed[seeds[0]], other.of_seed[seeds[0]]) for other in others]
    if len({first.of_seed[seed].images for seed in seeds}) > 1:
        sizes = np.array([first.of_seed[seed].n for seed in seeds])
        counts = np.array([[_right(other.of_seed[seed]) for seed in seeds] for other in others])
        own = np.array([_right(first.of_seed[seed]) for seed in seeds])
        result = nested((own - counts) / sizes, 1 / float(sizes.min()))
        return _unpacked(result, int(sizes.min()), prior)
    images = first.of_seed[seeds[0]].n
    own = first.packed(seeds)
    own_sums = first.sums(seeds).astype(np.int32)
    at_once = max(1, chunk_bytes // (8 * images + own.size))
    paired: list[Paired] = []
    for start in range(0, len(others), at_once):
        members = others[start : start + at_once]
        packed = np.stack([other.packed(seeds) for other in members])
        differences = own_sums - np.stack([other.sums(seeds) for other in members])
        result = crossed_of_sums(
            _ones(own).astype(np.int64) - _ones(packed),
            np.einsum("ni,ni->n", differences, differences, dtype=np.int64),
            _ones(packed ^ own).sum(axis=1),
            images=images,
            step=1.0,
        )
        paired += _unpacked(result, images, prior)
    return paired


def _of_models(first: SeedAnswers, second: SeedAnswers) -> Paired:
    only_first = int(_ones(first.bits & ~second.bits))
    only_second = int(_ones(second.bits & ~first.bits))
    low, high = difference_interval(only_first, only_second, first.n)
    return Paired(
        difference=(only_first - only_second) / first.n,
        p=mcnemar(only_first, only_second),
        low=low,
        high=high,
        seeds=1,
        images=first.n,
        spread=Spread.assumed((only_first + only_second) / first.n),
    )


def _unpacked(result: Crossed, images: int, prior: Prior) -> list[Paired]:
    moderated = result.moderated(prior)
    low, high = moderated.interval()
    columns = (result.difference, moderated.p, low, high, *result.variances)
    return [
        Paired(
            difference=difference,
            p=p,
            low=max(-1.0, bottom),
            high=min(1.0, top),
            seeds=result.seeds,
            images=images,
            spread=Spread(seed=seed, image=image, residual=residual) if result.images else None,
        )
        for difference, p, bottom, top, seed, image, residual in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _right(answers: SeedAnswers) -> int:
    return int(_ones(answers.bits))


def _ones(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number of ones in the last axis. The bits that pad a packed array are 0."""
    counts: NDArray[np.int64] = _BITS[packed].sum(axis=-1, dtype=np.int64)
    return counts
