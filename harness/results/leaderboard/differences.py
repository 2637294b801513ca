"""What differs between rows of one method that are alike in all settings that a table shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.results.leaderboard.rows import Group
from harness.types.blocks import Block, OriginBlock
from harness.types.record import Record

__all__ = ["SHOWN", "differences"]

ALIKE = ("method", "device", "nodes", "runtime", "batch", "load", "threads")
"""Columns in which the compared rows are equal."""

SHOWN = 6
"""How many differences a sentence lists; it counts the others."""


def differences(groups: Sequence[Group]) -> list[str]:
    """Return a sentence for each method that has several rows in one setting: how they differ."""
    alike: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        row = group.row
        alike.setdefault(tuple(row[name] for name in ALIKE), []).append(group)
    return [_sentence(same) for same in alike.values() if len(same) > 1]


def _sentence(groups: Sequence[Group]) -> str:
    known = [dict(_facts(group)) for group in groups]
    names = list(dict.fromkeys(name for facts in known for name in facts))
    lines = []
    for name in names:
        values = [facts.get(name, "absent") for facts in known]
        if len(set(values)) > 1:
            lines.append(f"{name} {' | '.join(values)}")
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    what = "; ".join(lines[:SHOWN]) or "nothing that their records hold"
    return f"{groups[0].row['method']} ({' | '.join(_labels(groups))}) differs in: {what}{more}"


def _labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each row: its folder and run where these differ, and when it was measured."""
    names = [name for name in ("folder", "run") if len({group.row[name] for group in groups}) > 1]
    return [", ".join(str(group.row[name]) for name in (*names, "started")) for group in groups]


def _facts(group: Group) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each fact by which a configuration, a machine or a run may differ."""
    record: Record = group.records[0]
    yield "seeds", " ".join(map(str, sorted({each.seed for each in group.records})))
    for number, step in enumerate(record.lineage, 1):
        prefix = f"{number}. {step.stage} {step.entry}"
        yield from _flat(step.params, prefix)
        yield from _flat(step.notes.get("train"), f"{prefix} train")
    yield from _flat(record.runtime.params, f"runtime {record.runtime.name}")
    yield from _flat(record.scenario, "measure")
    yield from _flat(record.data, "data")
    for name, origin in sorted(record.origins.items()):
        if isinstance(origin, OriginBlock):
            yield f"code of {name}", f"{origin.version} {(origin.source or '')[:8]}".strip()
        else:
            yield f"code of {name}", str(origin)
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
