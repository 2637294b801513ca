"""Simulate leaderboards: how often equal rows are separated, what real differences are found, and what intervals cover.

The old method (one exact McNemar test per seed, combined by Rüger's rule, corrected by Holm over all pairs) stands
beside the method of the harness. Answers are drawn from a normal model: an image has a difficulty that all rows share
and one for each row; a training has an ability of its own; the rest changes with every answer. Run with:

    python benchmarks/ranks.py [--tables N] [--seed N] [--part false|power|intervals|pairs]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from harness.results.answers import SeedAnswers
from harness.results.leaderboard.answers import Answers, compare
from harness.results.leaderboard.tiers import comparison_of
from harness.stats.best import rank_intervals, tiers_by_best
from harness.stats.crossed import Crossed, crossed_of_sums
from harness.stats.intervals import t_interval

SEEDS = (2, 3, 5, 10, 20)
IMAGES = 360


@dataclass(frozen=True)
class Model:
    """The standard deviations of the parts of an answer, and the accuracy of a row.

    ``unequal``: the factor of the first row's ``training``.
    """

    image: float = 2.0
    row_image: float = 1.0
    training: float = 0.0
    answer: float = 1.0
    accuracy: float = 0.95
    unequal: float = 1.0

    def draw(
        self, rng: np.random.Generator, rows: int, seeds: int, images: int, ahead: float = 0.0
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return whether answers are right, bool [rows, seeds, images], and each row's true accuracy on these images.

        The first row is better by ``ahead`` over all images.
        """
        training = np.full((rows, 1, 1), self.training)
        training[0] *= self.unequal
        spread = np.sqrt(self.image**2 + self.row_image**2 + training**2 + self.answer**2)
        accuracy = np.full(rows, self.accuracy)
        accuracy[0] += ahead
        limit = spread * scipy_stats.norm.ppf(accuracy)[:, None, None]
        difficulty = self.image * rng.standard_normal((1, 1, images))
        difficulty = difficulty + self.row_image * rng.standard_normal((rows, 1, images))
        changing = training * rng.standard_normal((rows, seeds, 1))
        changing = changing + self.answer * rng.standard_normal((rows, seeds, images))
        expected = scipy_stats.norm.cdf((limit - difficulty) / np.hypot(training, self.answer))
        return difficulty + changing < limit, expected.mean(axis=(1, 2))


def packed(right: NDArray[np.bool_]) -> Answers:
    """Return the answers of one row, [seeds, images]."""
    return Answers(
        {seed: SeedAnswers(b"", len(own), np.packbits(own).tobytes()) for seed, own in enumerate(right)}
    )


def sorted_rows(right: NDArray[np.bool_]) -> tuple[NDArray[np.intp], list[Answers]]:
    """Return the order of rows from the best one, and their answers in this order."""
    order = np.argsort(-right.mean(axis=(1, 2)), kind="stable")
    return order, [packed(right[row]) for row in order]


# --- the old method -------------------------------------------------------------------------------


def old_tiers(right: NDArray[np.bool_]) -> list[int]:
    """Return the tiers of rows, which are sorted best first, by the old method."""
    rows, seeds, _ = right.shape
    first, second = np.triu_indices(rows, 1)
    flat = right.astype(np.float32)
    both = np.einsum("rsi,qsi->srq", flat, flat, optimize=True)[:, first, second].round().astype(int)
    count = flat.sum(axis=2).round().astype(int)
    only_first = count[first].T - both
    only_second = count[second].T - both
    total = only_first + only_second
    place = seeds // 2 + 1
    sides = [
        np.sort(scipy_stats.binom.cdf(few, total, 0.5), axis=0)[place - 1] * seeds / place
        for few in (only_second, only_first)
    ]
    p = np.minimum(1, 2 * np.minimum(*sides))
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, (len(p) - np.arange(len(p))) * p[order]))
    apart = np.zeros((rows, rows), dtype=bool)
    apart[first, second] = adjusted <= 0.05
    tiers = [0] * rows
    remaining, tier = list(range(rows)), 0
    while remaining:
        tier += 1
        leader = remaining[0]
        for row in remaining:
            if not apart[leader, row]:
                tiers[row] = tier
        remaining = [row for row in remaining if apart[leader, row]]
    return tiers


# --- what is counted ------------------------------------------------------------------------------


def shares(
    rng: np.random.Generator,
    model: Model,
    rows: int,
    seeds: int,
    images: int,
    tables: int,
    ahead: float = 0.0,
) -> tuple[float, float]:
    """Return in which share of tables the second row is in a lower tier than the first: old method, new method.

    Without a difference (``ahead`` = 0) any two rows in different tiers count.
    """
    old = new = 0
    for _ in range(tables):
        right, _ = model.draw(rng, rows, seeds, images, ahead)
        order, answers = sorted_rows(right)
        for_old, for_new = old_tiers(right[order]), tiers_by_best(rows, comparison_of(answers))
        if ahead:
            better, other = (int(np.flatnonzero(order == row)[0]) for row in (0, 1))
            old += for_old[better] < for_old[other]
            new += for_new[better] < for_new[other]
        else:
            old += max(for_old) > 1
            new += max(for_new) > 1
    return old / tables, new / tables


def coverage(rng: np.random.Generator, model: Model, seeds: int, images: int, tables: int) -> list[float]:
    """Return the coverage of the intervals of a difference, of all ranks of a table of five together, and of top1_ci.

    ``top1_ci`` is about other trainings on the same test images.
    """
    difference = ranks = top1 = 0
    ahead = min(0.02, (1 - model.accuracy) / 2)
    for _ in range(tables):
        own, expected = model.draw(rng, 5, seeds, images, ahead)
        (paired,) = compare(packed(own[0]), [packed(own[1])])
        if paired is not None:
            difference += paired.low <= ahead <= paired.high
        order, answers = sorted_rows(own)
        true = [(1, 1) if row == 0 else (2, 5) for row in order]  # one row is better, the others are equal
        found = rank_intervals(5, comparison_of(answers))
        ranks += all(
            low <= first and last <= high for (low, high), (first, last) in zip(found, true, strict=True)
        )
        interval = t_interval(own[1].mean(axis=1).tolist(), step=1 / images)
        if interval is not None:
            top1 += interval[0] <= expected[1] <= interval[1]
    return [difference / tables, ranks / tables, top1 / tables if seeds > 2 else math.nan]


def pair_shares(
    rng: np.random.Generator, model: Model, seeds: int, images: int, tables: int, ahead: float = 0.0
) -> tuple[float, float]:
    """Return in which share of pairs of rows the rows are separated at 5%: by Satterthwaite's degrees of freedom, now.

    With one seed there is only the exact McNemar test, and the first share is nan.
    """
    drawn = np.stack([model.draw(rng, 2, seeds, images, ahead)[0] for _ in range(tables)])
    if seeds == 1:
        pairs = [compare(packed(first), [packed(second)])[0] for first, second in drawn]
        return math.nan, sum(pair is not None and pair.p <= 0.05 for pair in pairs) / tables
    d = drawn[:, 0].astype(np.int32) - drawn[:, 1]
    result = crossed_of_sums(
        d.sum(axis=2), (d.sum(axis=1) ** 2).sum(axis=1), (d**2).sum(axis=(1, 2)), images=images, step=1.0
    )
    return float((satterthwaite(result) <= 0.05).mean()), float((result.p <= 0.05).mean())


def satterthwaite(result: Crossed) -> NDArray[np.float64]:
    """Return the p-values of t-tests with the whole variance and Satterthwaite's degrees of freedom (Hillis 2007)."""
    variance = result.by_seed + result.by_image
    freedom = variance**2 / (result.by_seed**2 / result.freedom)
    p: NDArray[np.float64] = 2 * scipy_stats.t.sf(np.abs(result.difference) / np.sqrt(variance), freedom)
    return p


MODELS = {
    "no seed effect": Model(),
    "seed effect": Model(training=0.5),
    "98%, seed effect": Model(training=0.5, accuracy=0.98),
}


def false_distinctions(rng: np.random.Generator, tables: int) -> None:
    """Print how often equal rows are in different tiers."""
    print("equal rows in different tiers, % of tables (old / new), nominal 5%")
    for name, model in MODELS.items():
        for rows, count in ((2, tables), (5, tables // 2), (12, tables // 3), (50, tables // 10)):
            _line(
                f"{name}, {IMAGES} images",
                rows,
                [shares(rng, model, rows, s, IMAGES, count) for s in SEEDS],
                count,
            )
    for rows in (2, 5):
        cells = [shares(rng, Model(training=0.3), rows, seeds, 30, tables // 2) for seeds in SEEDS]
        _line("seed effect, 30 images", rows, cells, tables // 2)
    for rows in (3, 5, 12):
        model = Model(training=0.2, unequal=5)
        cells = [shares(rng, model, rows, seeds, IMAGES, tables // 3) for seeds in SEEDS]
        _line("one row of 25 x variance", rows, cells, tables // 3)


def power(rng: np.random.Generator, tables: int) -> None:
    """Print how often a real difference is found."""
    print("a real difference is found, % of tables (old / new)")
    for ahead in (0.02, 0.04):
        for name, training in (("no seed effect", 0.0), ("seed effect", 0.5)):
            model = Model(training=training, accuracy=0.9)
            for rows, count in ((2, tables // 2), (12, tables // 5)):
                cells = [shares(rng, model, rows, seeds, IMAGES, count, ahead) for seeds in SEEDS]
                _line(f"{100 * ahead:.0f} points, {name}", rows, cells, count)


def intervals(rng: np.random.Generator, tables: int) -> None:
    """Print how often the intervals cover."""
    print("coverage of 95% intervals, %: difference, all ranks together, top1_ci")
    for name, model in MODELS.items():
        cells = [coverage(rng, model, seeds, IMAGES, tables // 2) for seeds in SEEDS]
        text = "  ".join(" ".join(f"{100 * each:5.1f}" for each in cell) for cell in cells)
        print(f"{name:28} {text}   n={tables // 2}", flush=True)


def pairs(rng: np.random.Generator, tables: int) -> None:
    """Print how often two rows alone are separated, from one seed on, also by Satterthwaite's degrees of freedom."""
    print(f"two rows alone are separated, % of pairs (Satterthwaite / now), seeds: {(1, *SEEDS)}")
    for ahead, accuracy in ((0.0, 0.95), (0.0, 0.9), (0.04, 0.9)):
        for name, training in (("no seed effect", 0.0), ("seed effect", 0.5), ("large seed effect", 1.5)):
            model = Model(training=training, accuracy=accuracy)
            cells = [pair_shares(rng, model, seeds, IMAGES, tables, ahead) for seeds in (1, *SEEDS)]
            _line(f"{100 * ahead:.0f} points, {100 * accuracy:.0f}%, {name}", 2, cells, tables)


def _line(name: str, rows: int, cells: Sequence[tuple[float, float]], count: int) -> None:
    text = "  ".join(f"{100 * old:5.1f} /{100 * new:5.1f}" for old, new in cells)
    print(f"{name:28} {rows:3} rows  {text}   n={count}", flush=True)


PARTS = {"false": false_distinctions, "power": power, "intervals": intervals, "pairs": pairs}


def main() -> None:
    """Print the chosen parts. Each line has one figure per number of seeds in :data:`SEEDS`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, action="append")
    chosen = parser.parse_args()
    print(f"seeds: {SEEDS}")
    for part in chosen.part or PARTS:
        PARTS[part](np.random.default_rng(chosen.seed), chosen.tables)


if __name__ == "__main__":
    main()
