"""What differs between rows of one method that are alike in all settings that a table shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.results.leaderboard.place import short_names
from harness.results.leaderboard.rows import Group
from harness.types.blocks import Block, OriginBlock
from harness.types.record import Record

__all__ = ["SHOWN", "differences"]

ALIKE = ("method", "device", "nodes", "runtime", "batch", "load", "threads")
"""Columns in which the compared rows are equal."""

SHOWN = 6
"""How many differences a sentence lists; it counts the others."""


def differences(groups: Sequence[Group]) -> list[str]:
    """Return sentences that say how rows of one method in one setting differ; methods that differ alike share one."""
    alike: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        row = group.row
        alike.setdefault(tuple(row[name] for name in ALIKE), []).append(group)
    methods: dict[tuple[str, str], dict[str, None]] = {}  # labels and what differs -> the methods
    for same in alike.values():
        if len(same) > 1:
            same.sort(key=lambda group: [str(group.row[name]) for name in ("folder", "run", "started")])
            labels = " | ".join(_labels(same))
            methods.setdefault((labels, _compared(same)), {})[str(same[0].row["method"])] = None
    return [f"{', '.join(names)} ({labels}): {what}" for (labels, what), names in methods.items()]


def _labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each row: its folder and run, or when it was measured if these are the same."""
    short = short_names([str(group.row["folder"]) for group in groups])
    folders = [short[str(group.row["folder"])] for group in groups]
    runs = [str(group.row["run"]) for group in groups]
    apart = [values for values in (folders, runs) if len(set(values)) > 1]
    labels = [", ".join(own) for own in zip(*apart, strict=True)]
    return labels if len(set(labels)) == len(groups) else [str(group.row["started"]) for group in groups]


def _compared(groups: Sequence[Group]) -> str:
    records = [group.records[0].record() for group in groups]
    known = [dict(_facts(group, record)) for group, record in zip(groups, records, strict=True)]
    lines = []
    for name in dict.fromkeys(name for facts in known for name in facts):
        values = [facts.get(name, "absent") for facts in known]
        if len(set(values)) > 1:
            lines.append(f"{name} {' | '.join(values)}")
    if changed := _changed_code(records):
        lines.append(f"code of {', '.join(changed)}")
    if not lines:
        keys = {str(group.row["method_key"])[:8] for group in groups}
        return f"records do not say what differs{', but the configurations do' if len(keys) > 1 else ''}"
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"differs in {'; '.join(lines[:SHOWN])}{more}"


def _changed_code(records: Sequence[Record]) -> list[str]:
    """Return the entries that all records used, and whose code differs."""
    common = set.intersection(*(set(record.origins) for record in records))
    changed = []
    for name in sorted(common):
        origins = [record.origins[name] for record in records]
        coarse = any(isinstance(origin, str) for origin in origins)  # records of 0.1.0 have no hash
        if len({_code(origin, coarse) for origin in origins}) > 1:
            changed.append(name)
    return changed


def _code(origin: OriginBlock | str, coarse: bool) -> str:
    if isinstance(origin, str):
        return origin
    version = f"{origin.distribution} {origin.version}"
    return version if coarse else f"{version} {origin.source}"


def _facts(group: Group, record: Record) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each fact by which a configuration, a machine or a run may differ."""
    yield "seeds", " ".join(map(str, sorted({each.seed for each in group.records})))
    for number, step in enumerate(record.lineage, 1):
        prefix = f"{number}. {step.stage} {step.entry}"
        yield from _flat(step.params, prefix)
        yield from _flat(step.notes.get("train"), f"{prefix} train")
    yield from _flat(record.runtime.params, f"runtime {record.runtime.name}")
    yield from _flat(record.scenario, "measure")
    yield from _flat(record.data, "data")
    yield "machine", record.machine_id
    environment = record.environment
    yield from _flat(environment.versions, "version of")
    for name in ("os", "kernel", "python", "cpu_capability", "governor"):
        yield name, str(environment.get(name))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the single values of nested facts, with the names that lead to them."""
    if isinstance(value, Block | Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}")
    elif value is not None:
        yield name, str(value)
