"""Numbers that no measurement gives. A line with a right checksum can have them: a person or a plugin made it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from harness.types.figures import Counts, ProcessMemory
from harness.types.json import JsonObject

__all__ = ["MOST_NUMBER", "impossible"]

MOST_NUMBER = 1e100
"""The greatest number, of either sign, in a record. Sums of squares of such numbers have a value."""

_TIMES = ("p50_ms", "p90_ms", "p95_ms", "p97_ms", "p99_ms", "p999_ms", "mean_ms", "std_ms", "first_ms")
_NOT_NEGATIVE: Mapping[str, Collection[str]] = {
    "counts": Counts.model_fields,
    "latency": ("n", *_TIMES, "throughput_ips", "preprocess_ms"),
    "memory": ProcessMemory.model_fields,
    "network": ("input_bytes", "feature_bytes", "critical_path_ms", "over_bound"),
    "train": ("train_s", "train_macs"),
    "accuracy": ("n", "top1", "top5", "top1_oracle"),
}
"""Figures of each block that are sizes, numbers, times or shares."""


def impossible(content: JsonObject) -> str | None:
    """Return where the content of a record has a number that no measurement gives, and why, or None.

    Raises:
        RecursionError: the content is nested too deeply.
    """
    if place := _too_great(content):
        return f"{'.'.join(reversed(place))}: is beyond {MOST_NUMBER:g}, which no figure is"
    for block, names in _NOT_NEGATIVE.items():
        figures = content.get(block) or {}
        most = 100 if block == "accuracy" else MOST_NUMBER
        for name in figures.keys() & names:
            value = figures[name]
            if value is not None and value < 0:
                return f"{block}.{name}: is below 0"
            if value is not None and value > most and name != "n":
                return f"{block}.{name}: is above {most} percent"
    return None


def _too_great(content: JsonObject | list[Any]) -> list[str]:
    """Return the keys that lead to a number beyond :data:`MOST_NUMBER`, innermost first; empty if there is none."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        kind = type(value)
        if kind is dict or kind is list:
            if place := _too_great(value):
                return [*place, str(key)]
        elif (kind is float or kind is int) and not -MOST_NUMBER <= value <= MOST_NUMBER:
            return [str(key)]
    return []
