"""One record's story as plain text: what was measured, on what, how it came to be."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.types.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["listing", "tell"]

SLICES = 48
BARS = "▁▂▃▄▅▆▇█"


def listing(records: Sequence[Record]) -> str:
    """One line per record."""
    from tabulate import tabulate

    rows = [
        [
            r.cell_id[:12],
            r.method,
            r.seed,
            r.repeat,
            r.device.get("name"),
            r.runtime.get("name"),
            r.status,
            ", ".join(r.flags) or r.reason,
        ]
        for r in records
    ]
    headers = ["cell", "method", "seed", "repeat", "device", "runtime", "status", "flags or reason"]
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def tell(record: Record, arrays: Mapping[str, NDArray[Any]]) -> str:
    """The story of a record and its raw samples, in lines of at most 110 characters where words allow."""
    lines: list[str] = []
    for name, story in _chapters(record, arrays):
        text = [part for line in story for part in textwrap.wrap(line, 97, break_long_words=False)]
        lines += [f"{'' if i else name:<12} {line}" for i, line in enumerate(text)]
    return "\n".join(lines)


def _chapters(record: Record, arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, list[str]]]:
    yield "Method", [f"{record.method}, seed {record.seed}, repeat {record.repeat} (suite {record.suite})"]
    trouble = record.status + (f" at {record.stage}" if record.stage else "")
    trouble += f" in plugin {record.plugin}" if record.plugin else ""
    yield "Status", [f"{trouble}: {record.reason}" if record.reason else trouble]
    yield "Flags", [", ".join(record.flags) or "none"]
    yield (
        "Identity",
        [
            f"cell {record.cell_id}, attempt {record.attempt}",
            f"run {record.run_id}, machine {record.machine_id}",
            f"started {record.started}" if record.started else "",
        ],
    )
    for name in ("device", "runtime", "scenario", "data"):
        yield name.capitalize(), [_facts(getattr(record, name))]
    yield "Accuracy", _accuracy(record, arrays)
    yield "Latency", _latency(record, arrays)
    yield "Network", _network(record)
    for name in ("memory", "counts", "train", "state"):
        yield name.capitalize(), [_facts(getattr(record, name))]
    yield "Energy", [_facts(reading) for reading in record.energy] or ["no meter"]
    yield "Parts", [_facts(part) for part in record.parts]
    yield "Lineage", [_step(number, step) for number, step in enumerate(record.lineage, 1)]
    yield "Origins", [_facts(record.origins)]
    yield "Environment", [_facts(record.environment)]
    yield "Samples", [record.samples.get("file", "none")]


def _accuracy(record: Record, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    lines = [
        _facts({key: value for key, value in record.accuracy.items() if key not in ("parity", "missing")})
    ]
    if "predictions" in arrays and "labels" in arrays:
        right, n = int((arrays["predictions"] == arrays["labels"]).sum()), len(arrays["labels"])
        low, high = stats.wilson(right, n)
        lines.append(f"{right} of {n} right; 95% Wilson interval {low:.2%} to {high:.2%}")
    if parity := record.accuracy.get("parity"):
        lines.append(f"parity with the built model: {_facts(parity)}")
    return [*lines, *_without_parts(record.accuracy.get("missing") or {})]


def _without_parts(missing: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy for each number of missing parts, and without each single one."""
    if "why" in missing:
        yield f"without parts: {missing['why']}"
    for level in missing.get("levels", ()):
        tried = f"{level['sets']} of {level['of']}" if level["sets"] < level["of"] else f"all {level['of']}"
        yield (
            f"without {level['missing']} part{'s' if level['missing'] > 1 else ''} ({tried} sets): top1 mean "
            f"{_figure(level['mean'])}, {_figure(level['min'])} ({', '.join(level['worst'])}) to {_figure(level['max'])}"
        )
        if level["missing"] == 1:
            yield f"  {_facts({f'without {name}': value for name, value in level['top1'].items()})}"


def _network(record: Record) -> list[str]:
    """What is sent, the bound, and a line per part and device."""
    network = dict(record.network)
    parts, devices = network.pop("parts", {}), network.pop("devices", ())
    return [
        _facts(network),
        *(f"{name}: {_facts(facts)}" for name, facts in parts.items()),
        *(_facts(device) for device in devices),
    ]


def _latency(record: Record, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    bounds = record.latency.get("bounds") or {}
    lines = [_facts({key: value for key, value in record.latency.items() if key != "bounds"})]
    if any(value is not None for value in bounds.values()):
        lines.append(f"LoadGen's upper bounds (99% confidence): {_facts(bounds)}")
    raw: list[int] = arrays["latency_ns"].tolist() if "latency_ns" in arrays else []
    if raw:
        lines.append(f"raw samples: {_figure(min(raw) / 1e6)} to {_figure(max(raw) / 1e6)} ms")
        lines.append(f"over time:   {_sparkline(raw)}  (▄ is the median, █ near twice it or more)")
    if len(arrays.get("warmup_ns", ())):
        lines.append(f"warm-up: {len(arrays['warmup_ns'])} queries before the window")
    return lines


def _sparkline(values: Sequence[float]) -> str:
    """Medians of consecutive slices as bars from zero to twice the median, so that noise looks small."""
    count = min(SLICES, len(values))
    slices = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    full = 2 * median(values) or 1
    steps = len(BARS) - 1
    return "".join(BARS[min(steps, int(median(part) / full * steps))] for part in slices)


def _step(number: int, step: Mapping[str, Any]) -> str:
    cost = f", {step['train_s']:.1f} s of training" if step.get("train_s") else ""
    notes = dict(step.get("notes") or {})
    if history := notes.pop("history", None):
        notes["last_epoch"] = history[-1]
    told = f": {_facts(notes)}" if notes else ""
    return (
        f"{number}. {step.get('stage')} {step.get('entry')} ({_facts(step.get('params') or {})}){cost}{told}"
    )


def _facts(facts: Mapping[str, Any], prefix: str = "") -> str:
    """Nested facts in one line: "a 1, b.c 2"; what is null or empty is left out."""
    found = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found.append(_facts(value, f"{prefix}{key}."))
        elif value is not None and value != "":
            found.append(f"{prefix}{key} {_figure(value)}")
    return ", ".join(filter(None, found))


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return f"({_facts(value)})"
    if isinstance(value, list | tuple):
        return " ".join(map(_figure, value))
    return str(value)
