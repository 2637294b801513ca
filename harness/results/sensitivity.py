"""Which differences in accuracy and latency a suite can see, before it runs, and how much data smaller ones take.

The spreads come from the suite's own results folder, or else from those that were measured on the suite ``edge``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.plan.planner import Planned
from harness.stats.best import first_step
from harness.stats.power import Spread, detectable_difference, images_needed, prior_freedom, seeds_needed
from harness.stats.ratios import MIN_VALUES, detectable_ratio, values_needed
from harness.types.json import JsonObject
from harness.types.plan import Cell

__all__ = ["POINTS", "RATIO", "AccuracyPower", "LatencyPower", "Sensitivity", "sensitivity"]

POINTS = 1.0
"""The difference in accuracy, in points, for which the needed seeds and images are given."""
MULTIPLES = (2, 3, 5, 10, 30, 100)
"""The multiples of the test images that are tried if neither seeds nor images alone are enough."""
RATIO = 1.02
"""The ratio of latencies for which the needed processes are given."""

EDGE = "as in edge on a virtual machine with 2 cores"
"""Where the assumed spreads were measured: 12 methods, 3 seeds, 360 test images, 5 processes."""
EDGE_ANSWERS = Spread.assumed(0.043, seed_sd=0.007, repeated=0.13)
"""The mean of all pairs of methods."""
EDGE_LATENCY = 0.01
"""The median method's standard deviation of the logarithm of p50 between processes, three runs: 0.8%, 1.1%, 1.1%."""


@dataclass(frozen=True, kw_only=True)
class AccuracyPower:
    """The smallest difference in accuracy, in points, that is found with 80% power, and what :data:`POINTS` take.

    ``discordance``: percent of the answers of which two methods get exactly one right. ``source``: where it is from.
    ``needed_seeds`` and ``needed_images``: the one with the other as planned; None if no number is enough.
    ``needed_both``: if neither is enough, seeds and a multiple of the test images that are. ``why``: why there are no figures.
    """

    seeds: int
    images: int
    discordance: float
    source: str
    points: float | None = None
    needed_seeds: int | None = None
    needed_images: int | None = None
    needed_both: tuple[int, int] | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class LatencyPower:
    """The smallest ratio of two p50 that is found with 80% power, and the processes that :data:`RATIO` takes.

    ``spread``: the standard deviation of the logarithm of p50 between processes. ``source``: where it is from. ``why``:
    why there is no ratio.
    """

    processes: int
    spread: float
    source: str
    ratio: float | None = None
    needed_processes: int | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What the comparison of ``rows`` rows on ``device`` can see. The table is the largest of the suite.

    The differences are those that the first step of the table's correction finds.
    """

    device: str
    rows: int
    accuracy: AccuracyPower
    latency: LatencyPower

    def to_json(self) -> JsonObject:
        """Return the figures as JSON."""
        return asdict(self)


def sensitivity(planned: Planned, folder: Path | None) -> Sensitivity | None:
    """Return what the largest table of a plan can see, or None if no table has two rows.

    ``folder``: the suite's results folder, or None. If it has records of the suite on the table's device, the spreads
    are from them.

    Raises:
        StorageError: the folder cannot be read.
    """
    device, cells = _largest_table(planned.plan.cells)
    rows = Counter(_row(cell) for cell in cells)
    if len(rows) < 2:
        return None
    recorded = _recorded(planned.plan.suite, device, folder) if folder is not None else _Recorded()
    images = planned.resolved.method(cells[0].method).data.info.sizes.get("test", 0) or recorded.images
    return Sensitivity(
        device=device,
        rows=len(rows),
        accuracy=_accuracy(len({cell.seed for cell in cells}), images, len(rows), recorded.answers, folder),
        latency=_latency(min(rows.values()), len(rows), recorded.latency, folder),
    )


@dataclass(frozen=True)
class _Recorded:
    """What records say of a table: the spreads of answers and of p50, and the number of test images, 0 if unknown."""

    answers: Spread | None = None
    latency: float | None = None
    images: int = 0


def _row(cell: Cell) -> tuple[str, str, int, int]:
    return cell.method, cell.task.runtime.name, cell.task.measure.batch, cell.task.threads


def _largest_table(cells: Sequence[Cell]) -> tuple[str, list[Cell]]:
    """Return the device of the table with the most rows, and its cells."""
    tables: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.impossible is None:
            key = (cell.task.device, cell.data, cell.task.measure.scenario)
            tables.setdefault(key, []).append(cell)
    if not tables:
        return "", []
    (device, *_), own = max(tables.items(), key=lambda item: len({_row(cell) for cell in item[1]}))
    return device, own


def _recorded(suite: str, device: str, folder: Path) -> _Recorded:
    """Return what the records on a device in the folder say, of the table with the most rows."""
    if not (folder / "records.jsonl").is_file():
        return _Recorded()
    from harness.results.folder import Results
    from harness.results.leaderboard.leaderboard import grouped
    from harness.results.leaderboard.spreads import answer_spread, latency_spread
    from harness.results.merged import Merged

    merged = Merged([Results(folder)])
    own = [record for record in merged.records if record.suite == suite and record.device.name == device]
    groups = max(grouped(own).values(), key=len, default=[])
    images = max((record.data.n or 0 for record in own), default=0)
    return _Recorded(answer_spread(groups, merged.answers_of), latency_spread(groups), images)


def _accuracy(
    seeds: int, images: int, rows: int, recorded: Spread | None, folder: Path | None
) -> AccuracyPower:
    spread = recorded or EDGE_ANSWERS
    facts: dict[str, Any] = {
        "seeds": seeds,
        "images": images,
        "discordance": 100 * (spread.image + spread.residual),
        "source": f"as in {folder}" if recorded else EDGE,
    }
    if images < 2:
        return AccuracyPower(**facts, why="the number of test images is not known before the data is read")
    comparisons, alpha = rows - 1, first_step(rows)
    seeds_alone = seeds_needed(POINTS / 100, spread, images, alpha=alpha, comparisons=comparisons)
    images_alone = images_needed(POINTS / 100, spread, seeds, alpha=alpha, comparisons=comparisons)
    both = None if seeds_alone or images_alone else _both(images, spread, rows)
    prior = prior_freedom(comparisons, seeds)
    return AccuracyPower(
        **facts,
        points=100 * detectable_difference(spread, seeds, images, alpha=alpha, prior=prior),
        needed_seeds=seeds_alone,
        needed_images=images_alone,
        needed_both=both,
    )


def _both(images: int, spread: Spread, rows: int) -> tuple[int, int] | None:
    """Return the seeds and test images with the smallest product that find :data:`POINTS`, if at most 1,000 seeds do."""
    pairs = []
    for times in MULTIPLES:
        seeds = seeds_needed(
            POINTS / 100, spread, times * images, alpha=first_step(rows), comparisons=rows - 1
        )
        pairs += [] if seeds is None else [(seeds, times * images)]
    return min(pairs, key=lambda pair: pair[0] * pair[1], default=None)


def _latency(processes: int, rows: int, recorded: float | None, folder: Path | None) -> LatencyPower:
    spread, alpha = recorded or EDGE_LATENCY, first_step(rows)
    source = f"as in {folder}" if recorded else EDGE
    needed = values_needed(RATIO, spread, alpha=alpha)
    if processes < MIN_VALUES:
        why = f"a test needs {MIN_VALUES} processes, and a row has {processes}"
        return LatencyPower(
            processes=processes, spread=spread, source=source, needed_processes=needed, why=why
        )
    return LatencyPower(
        processes=processes,
        spread=spread,
        source=source,
        ratio=detectable_ratio(processes, spread, alpha=alpha),
        needed_processes=needed,
    )
