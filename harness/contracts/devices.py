"""Contracts of backends: the descriptions of devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.contracts.json import is_json_object
from harness.contracts.need import Need
from harness.types import DeviceInfo, Unavailable

__all__ = ["check_found", "checked_all"]

TEXTS = ("name", "backend", "model", "kind", "machine_id")


def check_found(need: Need, found: Any, function: str) -> None:
    """Check one answer of ``probe`` or ``describe``: a device, or why it cannot be used."""
    is_answer = isinstance(found, DeviceInfo | Unavailable)
    allowed = f"{function} gives DeviceInfo or Unavailable"
    need(is_answer, f"{function} gave {type(found).__name__}", allowed)
    if isinstance(found, Unavailable):
        for field in ("name", "reason", "fix"):
            value = getattr(found, field)
            need(isinstance(value, str), f"{field} is {value!r}", f"Unavailable.{field}: a text")
        return
    for field in TEXTS:
        value = getattr(found, field)
        need(isinstance(value, str), f"{field} is {value!r}", f"DeviceInfo.{field}: a text")
    for field in ("cores", "memory_bytes"):
        count = getattr(found, field)
        is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 0
        need(is_count, f"{field} is {count!r}", f"DeviceInfo.{field}: a whole number, 0 if unknown")
    need(bool(found.model) and bool(found.kind), "has no model or kind", "DeviceInfo.model, DeviceInfo.kind")
    need(is_json_object(found.details), "details are not JSON", "DeviceInfo.details: a JSON object")


def checked_all(need: Need, found: Any, function: str) -> list[DeviceInfo | Unavailable]:
    """Return the answers of ``probe`` as a list, each checked."""
    is_iterable = isinstance(found, Iterable) and not isinstance(found, str)
    need(is_iterable, f"{function} gave {type(found).__name__}", f"{function} gives an iterable")
    answers = list(found)
    for answer in answers:
        check_found(need, answer, function)
    return answers
