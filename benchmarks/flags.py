"""Compare flags with what really changed: quiet, with a busy core, at times busy, at half speed, and stopped at times.

A small suite runs once in quiet as the reference, and once under each condition. A figure of a row *changed* if it is
outside the 95% t-interval over the reference's processes (or over 2% off, where the interval is narrower). Each rule
marks figures: *rightly* if they changed, *wrongly* if not; changed figures without a mark are *missed*. The rule of
version 0.1.0 marks a whole row if a cell of it has a flag, and uses all cells. Both rules judge the same records.

Half speed is emulated: the processes of the run are stopped for 25 ms of every 50 ms. A real throttled clock gives
signals of the kernel or of a board's watch, which cannot be made here. A condition is left out if the time does not
suffice. Other work on the machine makes the quiet runs worthless: let it idle.

    python benchmarks/flags.py [FOLDER] [--processes 5] [--seconds 350] [--only CONDITION ...]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from threading import Event, Thread

import numpy as np
import psutil
from tabulate import tabulate

from harness import stats
from harness.results.folder import Results
from harness.results.leaderboard.rows import Group
from harness.results.summary import summary_of
from harness.types.record import Record

SUITE = """\
suite: flags
data: {{name: digits, image_size: 16, validation: 0.1}}
seeds: [0]
defaults:
  train: {{epochs: 1, optimizer: adamw, lr: 3.0e-3, batch_size: 32}}
  runtime: onnxruntime
  threads: 1
measure: {{min_time: 800ms, min_queries: 662, max_time: 20s, repeats: {processes}, energy: auto}}
methods:
  tiny: {{build: {{vit: {{patch_size: 4, dim: 24, depth: 3, heads: 3}}}}}}
  small: {{build: {{vit: {{patch_size: 4, dim: 48, depth: 6, heads: 3}}}}}}
  medium: {{build: {{vit: {{patch_size: 2, dim: 48, depth: 6, heads: 3}}}}}}
  large: {{build: {{vit: {{patch_size: 2, dim: 96, depth: 4, heads: 3}}}}}}
devices: {{here: {{backend: cpu}}}}
run: [{{methods: all, devices: [here]}}]
"""
BUSY = [sys.executable, "-c", "while True: pass"]
FLOOR = 0.02
FIGURES: Mapping[str, Callable[[Record], float | None]] = {
    "p50": lambda record: record.latency.p50_ms,
    "p90": lambda record: record.latency.p90_ms,
    "p99": lambda record: record.latency.p99_ms,
    "mean": lambda record: record.latency.mean_ms,
    "throughput": lambda record: record.latency.throughput_ips,
}
COLUMNS = {
    "p50": "latency_p50_ms",
    "p90": "latency_p90_ms",
    "p99": "latency_p99_ms",
    "mean": "latency_mean_ms",
    "throughput": "throughput_ips",
}


# --- conditions -----------------------------------------------------------------------------------


@contextmanager
def quiet(run: psutil.Process) -> Iterator[None]:
    yield


@contextmanager
def busy(run: psutil.Process) -> Iterator[None]:
    """One process computes all the time."""
    process = subprocess.Popen(BUSY)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def in_turns(act: Callable[[Event], None]) -> Iterator[None]:
    """Repeat ``act`` in a thread until the block ends."""
    done = Event()

    def repeat() -> None:
        while not done.is_set():
            act(done)

    thread = Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def at_times(run: psutil.Process) -> Iterator[None]:
    """One process computes for 2 s of every 10 s."""

    def act(done: Event) -> None:
        with busy(run):
            done.wait(2)
        done.wait(8)

    with in_turns(act):
        yield


def stop_for(run: psutil.Process, seconds: float, done: Event) -> None:
    """Stop the processes of the run for a time. They continue in any case."""
    stopped = []
    try:
        with suppress(psutil.NoSuchProcess):
            for process in run.children(recursive=True):
                process.send_signal(signal.SIGSTOP)
                stopped.append(process)
        done.wait(seconds)
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def half_speed(run: psutil.Process) -> Iterator[None]:
    """The processes are stopped for 25 ms of every 50 ms."""

    def act(done: Event) -> None:
        stop_for(run, 0.025, done)
        done.wait(0.025)

    with in_turns(act):
        yield


@contextmanager
def stopped(run: psutil.Process) -> Iterator[None]:
    """The processes are stopped for 0.5 s of every 5 s."""

    def act(done: Event) -> None:
        done.wait(4.5)
        stop_for(run, 0.5, done)

    with in_turns(act):
        yield


CONDITIONS = {
    "quiet": quiet,
    "busy core": busy,
    "busy at times": at_times,
    "half speed": half_speed,
    "stopped": stopped,
}


# --- rules ----------------------------------------------------------------------------------------


def old_flags(record: Record, latency_ns: np.ndarray) -> set[str]:
    """Return the flags of a record by the rules of version 0.1.0."""
    window = record.environment.window
    assert window is not None
    foreign, steal = window.foreign_cores, window.steal_cores or 0.0
    half = len(latency_ns) // 2
    early, late = float(np.median(latency_ns[:half])), float(np.median(latency_ns[-half:]))
    waited = (window.delay_s or 0.0) + steal * (window.wall_s or 0.0)
    waits = window.delay_s is None or waited > 0.05 * ((window.cpu_s or 0.0) + waited)
    crowded = foreign is not None and foreign + steal > 0.1 * (window.cores or 1.0)
    seen = {
        "throttled": bool(window.thermal_events)
        or any(state.get("throttle") for state in record.state.machine.values()),
        "contended": foreign is not None
        and (foreign + (window.elsewhere_cores or 0.0) >= 0.5 or (waits and crowded)),
        "unsteady": not record.state.steady
        or not record.state.cooled
        or (len(latency_ns) >= 20 and abs(late - early) > 0.1 * min(early, late)),
        "swapped": bool(window.swap_in_pages and window.major_faults),
        "short": "short" in record.flags,
    }
    return {flag for flag, is_set in seen.items() if is_set}


@dataclass
class Verdicts:
    """How a rule's marks agree with what changed, in figures."""

    counts: Counter[str]

    def add(self, marked: bool, changed: bool) -> None:
        self.counts["changed"] += changed
        kind = ("rightly" if changed else "wrongly") if marked else ("missed" if changed else "neither")
        self.counts[kind] += 1

    def cells(self) -> list[int]:
        return [self.counts[kind] for kind in ("changed", "rightly", "wrongly", "missed")]


def values(records: Sequence[Record], figure: str) -> list[float]:
    return [value for record in records if (value := FIGURES[figure](record)) is not None]


def changed(value: float, reference: Sequence[float], figure: str) -> bool:
    """Return whether a figure is outside the interval of the reference."""
    centre = fmean(reference) if figure == "mean" else median(reference)
    interval = stats.t_interval(reference)
    half = (interval[1] - interval[0]) / 2 if interval else 0.0
    return abs(value - centre) > max(half, FLOOR * centre)


def judge(folder: Path, reference: Mapping[str, Sequence[Record]]) -> list[list[object]]:
    """Return a line of the table for each figure: figures of the old rule, and of the new one."""
    results = Results(folder)
    old, new = ({figure: Verdicts(Counter()) for figure in FIGURES} for _ in range(2))
    old_rows, new_rows, less = Verdicts(Counter()), Verdicts(Counter()), Counter()  # type: ignore[var-annotated]
    for method, records in by_method(results).items():
        flags = set().union(
            *(old_flags(record, results.load_samples(record)["latency_ns"]) for record in records)
        )
        row = Group([summary_of(record) for record in records]).row
        disturbed = {found.figure: found for found in row.disturbances}
        any_old = any_new = any_mark = False
        for figure, column in COLUMNS.items():
            quiet_values, own = values(reference[method], figure), values(records, figure)
            shown = row.number(column)
            if not quiet_values or not own or shown is None:
                continue
            whole = fmean(own) if figure == "mean" else median(own)
            before, now = changed(whole, quiet_values, figure), changed(shown, quiet_values, figure)
            found = disturbed.get(figure)  # type: ignore[call-overload]
            mark = bool(found and found.marked) or "short" in row.texts("flags")
            old[figure].add(bool(flags), before)
            new[figure].add(mark, now)
            less[figure] += bool(found and found.used < found.cells)
            any_old, any_new, any_mark = any_old or before, any_new or now, any_mark or mark
        old_rows.add(bool(flags), any_old)
        new_rows.add(any_mark, any_new)
    lines: list[list[object]] = [
        [figure, *old[figure].cells(), *new[figure].cells(), less[figure]] for figure in FIGURES
    ]
    return [*lines, ["any (rows)", *old_rows.cells(), *new_rows.cells(), ""]]


def by_method(results: Results) -> dict[str, list[Record]]:
    """Return the records with figures by method, in the order in which they were measured."""
    records: dict[str, list[Record]] = {}
    for record in sorted(results.latest(), key=lambda record: record.started):
        if record.good:
            records.setdefault(record.method, []).append(record)
    return records


# --- running --------------------------------------------------------------------------------------


def run(suite: Path, folder: Path, condition: Callable[[psutil.Process], object], *more: str) -> float:
    """Run the suite under a condition. Return the seconds that it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "harness", "run", str(suite), "--out", str(folder), "-q", *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with condition(psutil.Process(process.pid)):  # type: ignore[attr-defined]
            code = process.wait()
    finally:
        process.kill()
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return time.monotonic() - began


def first_processes(records: Mapping[str, Sequence[Record]]) -> str:
    """Return how much slower the first process of each method was than the median of the later ones."""
    slower = []
    for own in records.values():
        first, *later = values(own, "p50")
        if later:
            slower.append(100 * (first / median(later) - 1))
    middle = f"{median(slower):+.1f}%" if slower else "unknown"
    each = ", ".join(f"{own:+.1f}%" for own in slower)
    return f"p50 of a method's first process against the median of its later ones: {middle} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=350.0)
    parser.add_argument("--only", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS))
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        suite = folder / "flags.yaml"
        suite.write_text(SUITE.format(processes=given.processes))
        run(suite, folder / "reference", quiet, "--prepare-only")
        took = run(suite, folder / "reference", quiet)
        reference = by_method(Results(folder / "reference"))
        print(f"reference: {took:.0f} s. {first_processes(reference)}", flush=True)
        lines: list[list[object]] = []
        for condition in given.only:
            if time.monotonic() + took * (2 if condition == "half speed" else 1.1) > end:
                print(f"{condition}: left out, the time does not suffice", flush=True)
                continue
            own = run(suite, folder / condition.replace(" ", "-"), CONDITIONS[condition])
            print(f"{condition}: {own:.0f} s", flush=True)
            lines += [[condition, *line] for line in judge(folder / condition.replace(" ", "-"), reference)]
        kinds = ("changed", "rightly", "wrongly", "missed")
        headers = [
            "condition",
            "figure",
            *(f"old {kind}" for kind in kinds),
            *(f"new {kind}" for kind in kinds),
            "left out",
        ]
        print(tabulate(lines, headers=headers))
        print(
            f"{len(reference)} rows; each number counts figures of rows (the last line of a condition: rows)"
        )


if __name__ == "__main__":
    main()
