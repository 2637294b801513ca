"""Simulate tiers and intervals by a cost: false distinctions, power and coverage, with the harness's own functions.

Each process of a row has a log-normal latency. ``spread``: all rows spread by 2% (equal), or by 2% times a log-normal
factor (uneven: sigma 0.7), or a tenth of the processes is slowed by 20% on average (outliers).

    python benchmarks/cost_ranks.py [tables]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from statistics import median

import numpy as np
from scipy import stats as scipy_stats

from harness.stats.best import Compare, first_step, rank_intervals, tiers_by_best
from harness.stats.ratios import LogSample, detectable_ratio, ratio_interval, ratio_p, typical_interval

SPREADS = ("equal", "uneven", "outliers")
SPREAD = 0.02


def logs(random: np.random.Generator, spread: str, rows: int, processes: int) -> np.ndarray:
    """Return logarithms of latencies of equal rows, [rows, processes]."""
    factor = np.exp(random.normal(0, 0.7, (rows, 1))) if spread == "uneven" else 1.0
    values = random.normal(0, SPREAD, (rows, processes)) * factor
    if spread == "outliers":
        slowed = random.random(values.shape) < 0.1
        values += slowed * random.exponential(0.2, values.shape)
    return values


class Table:
    """The rows of a table, sorted by their median. ``order``: the number of each row before sorting."""

    def __init__(self, values: np.ndarray) -> None:
        rows = np.exp(values).tolist()
        self.order = sorted(range(len(rows)), key=lambda row: median(rows[row]))
        self.samples = [LogSample.measured(rows[row]) for row in self.order]

    def compare(self, row: int, others: Sequence[int]) -> list[float]:
        """Return the p-values of a row against worse rows, as the leaderboard does."""
        leader, samples = self.samples[row], self.samples
        return [
            ratio_p(samples[other], leader) if samples[other].mean > leader.mean else 1.0 for other in others
        ]

    def tiers(self) -> list[int]:
        """Return the tier of each row in the order of before sorting."""
        tiers = tiers_by_best(len(self.samples), self.compare)
        return [tier for _, tier in sorted(zip(self.order, tiers, strict=True))]


def false_distinctions(random: np.random.Generator, tables: int) -> None:
    print("tables of equal rows in which any two are told apart, percent (nominal: at most 5)")
    print(f"{'rows':>5} {'processes':>9} " + " ".join(f"{spread:>9}" for spread in SPREADS))
    for rows in (2, 5, 12, 50):
        for processes in (3, 5, 10):
            shares = []
            for spread in SPREADS:
                count = sum(
                    max(Table(logs(random, spread, rows, processes)).tiers()) > 1 for _ in range(tables)
                )
                shares.append(f"{100 * count / tables:9.1f}")
            print(f"{rows:5} {processes:9} {' '.join(shares)}", flush=True)


def power(random: np.random.Generator, tables: int) -> None:
    print("a row is slower than the other, equal rows: tables in which it is told apart, percent")
    print(f"{'rows':>5} {'processes':>9} {'2%':>7} {'5%':>7} {'10%':>7} {'20%':>7}  80% at (planned)")
    for rows in (2, 12):
        for processes in (3, 5, 10, 20):
            shares = []
            for difference in (0.02, 0.05, 0.1, 0.2):
                count = 0
                for _ in range(tables):
                    values = logs(random, "equal", rows, processes)
                    values[-1] += math.log1p(difference)
                    count += Table(values).tiers()[-1] > 1
                shares.append(f"{100 * count / tables:7.1f}")
            ratio = detectable_ratio(processes, SPREAD, alpha=first_step(rows))
            print(f"{rows:5} {processes:9} {' '.join(shares)}  {ratio - 1:.1%}", flush=True)


def coverage(random: np.random.Generator, tables: int) -> None:
    print(
        "coverage of the 95% intervals, percent: of p50, of a ratio of 1.3, of all ranks of six rows together"
    )
    print(f"{'spread':>9} {'processes':>9} {'p50':>6} {'ratio':>6} {'rank':>6}")
    for spread in SPREADS:
        true = float(np.median(logs(random, spread, 200_000, 1)))
        for processes in (3, 5, 10):
            hits = np.zeros(3)
            for _ in range(tables):
                values = logs(random, spread, 6, processes)
                low, high = typical_interval(np.exp(values[0]).tolist())
                hits[0] += low <= math.exp(true) <= high
                values += math.log(1.3) * np.arange(6)[:, None]
                first, second = (LogSample.measured(np.exp(values[row]).tolist()) for row in (0, 1))
                low, high = ratio_interval(second, first)
                hits[1] += low <= 1.3 <= high
                values -= math.log(1.25) * np.arange(6)[:, None]  # now 4% apart
                table = Table(values)
                ranks = rank_intervals(6, table.compare)
                hits[2] += all(
                    low <= row + 1 <= high for row, (low, high) in zip(table.order, ranks, strict=True)
                )
            print(f"{spread:>9} {processes:9} " + " ".join(f"{100 * hit / tables:6.1f}" for hit in hits))


def moderated(random: np.random.Generator, tables: int) -> None:
    """Show why the other rows of a table add nothing to the variance of a row: rows may spread too differently."""
    print(
        "equal rows with 3 processes, of which one spreads five times as much: any two are told apart, percent"
    )
    print("(degrees of freedom that the mean variance of the rows adds: 0, as the harness does, and 4)")
    for rows in (2, 6):
        shares = []
        for freedom in (0, 4):
            count = 0
            for _ in range(tables):
                values = random.normal(0, SPREAD, (rows, 3))
                values[0] *= 5
                values = values[np.argsort(np.median(values, axis=1))]
                own = values.var(axis=1, ddof=1)
                variance = (2 * own + freedom * own.mean()) / (2 + freedom)
                compare = welch(values.mean(axis=1), variance, processes=3, freedom=2 + freedom)
                count += max(tiers_by_best(rows, compare)) > 1
            shares.append(f"{100 * count / tables:5.1f}")
        print(f"{rows:5} {' '.join(shares)}", flush=True)


def welch(mean: np.ndarray, variance: np.ndarray, processes: int, freedom: int) -> Compare:
    """Return Welch's test of a row against worse rows, whose variances have ``freedom`` degrees of freedom."""

    def compare(row: int, others: Sequence[int]) -> list[float]:
        p_values = []
        for other in others:
            parts = variance[[row, other]] / processes
            df = parts.sum() ** 2 / (parts**2 / freedom).sum()
            t = (mean[other] - mean[row]) / math.sqrt(parts.sum())
            p_values.append(float(2 * scipy_stats.t.sf(t, df)) if t > 0 else 1.0)
        return p_values

    return compare


def main(tables: int) -> None:
    random = np.random.default_rng(12)
    false_distinctions(random, tables)
    power(random, tables)
    coverage(random, tables)
    moderated(random, tables)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
