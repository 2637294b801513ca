"""One record as plain text: what was measured, on which device, and how it was prepared."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.render.disturbances import record_lines
from harness.results.unnamed import unnamed
from harness.types.blocks import Block, LineageStep
from harness.types.figures import MissingParts
from harness.types.json import Facts
from harness.types.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["describe", "listing"]

SLICES = 48
BARS = "▁▂▃▄▅▆▇█"


EARLIER = (
    "earlier: the folder's last run did not have this cell; `harness leaderboard` shows it with --all only"
)


def listing(records: Sequence[Record], earlier: Container[str] = ()) -> str:
    """Return a table with a line for each record.

    ``earlier`` has the ids of the cells that the folder's last run did not have. They are marked.
    """
    from harness.render.console import columns

    rows = [
        [
            r.cell_id[:12],
            "earlier" if r.cell_id in earlier else "last",
            r.method,
            r.seed,
            r.repeat,
            r.device.name,
            r.runtime.name,
            _scenario(r),
            r.status,
            ", ".join(r.flags) or r.reason,
        ]
        for r in records
    ]
    headers = [
        *("cell", "run", "method", "seed", "repeat", "device", "runtime", "scenario"),
        *("status", "flags or reason"),
    ]
    text = "\n".join(columns([headers, *rows]))
    return f"{text}\n{EARLIER}" if any(r.cell_id in earlier for r in records) else text


def _scenario(record: Record) -> str:
    """Return the scenario of a record, with the batch if it is not 1: ``offline, batch 16``."""
    batch = record.scenario.batch
    return f"{record.scenario.name}, batch {batch}" if (batch or 1) > 1 else str(record.scenario.name or "")


def describe(record: Record, arrays: Mapping[str, NDArray[Any]], earlier: Container[str] = ()) -> str:
    """Return a record and its raw samples as text.

    Lines have at most 110 characters, unless a single word is longer. ``earlier`` has the ids of the cells that the
    folder's last run did not have.
    """
    lines: list[str] = []
    run = [("Run", [EARLIER])] if record.cell_id in earlier else []
    for name, chapter in (*run, *_chapters(record, arrays)):
        text = [part for line in chapter for part in textwrap.wrap(line, 97, break_long_words=False)]
        lines += [f"{'' if i else name:<12} {line}" for i, line in enumerate(text)]
    return "\n".join(lines)


def _chapters(record: Record, arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, list[str]]]:
    yield "Method", [f"{record.method}, seed {record.seed}, repeat {record.repeat} (suite {record.suite})"]
    trouble = record.status + (f" at {record.stage}" if record.stage else "")
    plugin = unnamed(record.plugin, record.reason)
    trouble += f" in plugin {plugin}" if plugin else ""
    yield "Status", [f"{trouble}: {record.reason}" if record.reason else trouble]
    yield "Flags", record_lines(record)
    yield (
        "Identity",
        [
            f"cell {record.cell_id}, attempt {record.attempt}",
            f"run {record.run_id}, machine {record.machine_id}",
            f"started {record.started}" if record.started else "",
        ],
    )
    yield "Device", [_facts(record.device)]
    yield "Runtime", [_facts(record.runtime)]
    yield "Scenario", [_facts(record.scenario)]
    yield "Data", [_facts(record.data)]
    yield "Accuracy", _accuracy(record, arrays)
    yield "Latency", _latency(record, arrays)
    yield "Network", _network(record)
    yield "Memory", [_facts(record.memory)]
    yield "Counts", [_facts(record.counts)]
    yield "Train", [_facts(record.train)]
    yield "State", [_facts(record.state)]
    yield "Energy", [_facts(reading) for reading in record.energy] or ["no meter"]
    yield "Parts", [_facts(part) for part in record.parts]
    yield "Lineage", [_step(number, step) for number, step in enumerate(record.lineage, 1)]
    yield "Origins", [_facts(record.origins)]
    yield "Environment", [_facts(record.environment)]
    yield "Samples", [record.samples.file or "none"]


def _accuracy(record: Record, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    lines = [_facts(record.accuracy, leave_out=("parity", "missing"))]
    if "predictions" in arrays and "labels" in arrays:
        right, n = int((arrays["predictions"] == arrays["labels"]).sum()), len(arrays["labels"])
        low, high = stats.wilson(right, n)
        lines.append(f"{right} of {n} right; 95% Wilson interval {low:.2%} to {high:.2%}")
    if record.accuracy.parity is not None:
        lines.append(f"parity with the built model: {_facts(record.accuracy.parity)}")
    return [*lines, *_without_parts(record.accuracy.missing)]


def _without_parts(robustness: MissingParts) -> Iterator[str]:
    """Yield accuracy for each number of absent parts, and without each single part."""
    if robustness.why is not None:
        yield f"without parts: {robustness.why}"
    for level in robustness.levels:
        some = level.sets is not None and level.of is not None and level.sets < level.of
        tried = f"{level.sets} of {level.of}" if some else f"all {level.of}"
        yield (
            f"without {level.missing} part{'s' if level.missing != 1 else ''} ({tried} sets): top1 mean "
            f"{_figure(level.mean)}, {_figure(level.min)} ({', '.join(level.worst)}) to {_figure(level.max)}"
        )
        if level.missing == 1:
            yield f"  {_facts({f'without {name}': value for name, value in level.top1.items()})}"


def _network(record: Record) -> list[str]:
    """Return lines: the bytes that are sent, the bound, and a line per part and device."""
    network = record.network
    return [
        _facts(network, leave_out=("parts", "devices")),
        *(f"{name}: {_facts(times)}" for name, times in network.parts.items()),
        *(_facts(device) for device in network.devices),
    ]


def _latency(record: Record, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    lines = [_facts(record.latency, leave_out=("bounds",))]
    if bounds := _facts(record.latency.bounds):
        lines.append(f"LoadGen's upper bounds (99% confidence): {bounds}")
    raw: list[int] = arrays["latency_ns"].tolist() if "latency_ns" in arrays else []
    if raw:
        lines.append(f"raw samples: {_figure(min(raw) / 1e6)} to {_figure(max(raw) / 1e6)} ms")
        lines.append(f"over time:   {_sparkline(raw)}  (▄ is the median, █ near twice it or more)")
    if len(arrays.get("warmup_ns", ())):
        lines.append(f"warm-up: {len(arrays['warmup_ns'])} queries before the window")
    return lines


def _sparkline(values: Sequence[float]) -> str:
    """Return medians of consecutive slices as bars from zero to twice the median, so that noise looks small."""
    count = min(SLICES, len(values))
    slices = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    full = 2 * median(values) or 1
    steps = len(BARS) - 1
    return "".join(BARS[min(steps, int(median(part) / full * steps))] for part in slices)


def _step(number: int, step: LineageStep) -> str:
    cost = f", {step.train_s:.1f} s of training" if step.train_s else ""
    notes = dict(step.notes)
    if history := notes.pop("history", None):
        notes["last_epoch"] = history[-1]
    text = f": {_facts(notes)}" if notes else ""
    return f"{number}. {step.stage} {step.entry} ({_facts(step.params)}){cost}{text}"


def _facts(facts: Block | Facts, prefix: str = "", leave_out: Sequence[str] = ()) -> str:
    """Return nested facts in one line: "a 1, b.c 2"; null and empty values are left out."""
    texts = []
    for key, value in (facts.model_dump() if isinstance(facts, Block) else facts).items():
        if key in leave_out:
            continue
        if isinstance(value, Block | Mapping):
            texts.append(_facts(value, f"{prefix}{key}."))
        elif value is not None and value not in ("", [], ()):
            texts.append(f"{prefix}{key} {_figure(value)}")
    return ", ".join(filter(None, texts))


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return f"({_facts(value)})"
    if isinstance(value, list | tuple):
        return " ".join(map(_figure, value))
    return str(value)
