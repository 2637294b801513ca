"""Contracts of backends: the descriptions of devices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from harness.contracts.json import is_json_object
from harness.contracts.need import Need
from harness.types import DeviceInfo, DeviceLink, MeterInfo, MeterUse, Unavailable

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
    for field in ("details", "environment"):
        need(
            is_json_object(getattr(found, field)),
            f"{field} are not JSON",
            f"DeviceInfo.{field}: a JSON object",
        )
    for field in ("formats", "signals"):
        words = getattr(found, field)
        is_words = isinstance(words, tuple) and all(isinstance(word, str) for word in words)
        need(is_words, f"{field} is {words!r}", f"DeviceInfo.{field}: a tuple of texts")
    for field, kind in (("meters", MeterInfo), ("external", MeterUse)):
        values = getattr(found, field)
        right = isinstance(values, tuple) and all(isinstance(value, kind) for value in values)
        need(right, f"{field} is {values!r}", f"DeviceInfo.{field}: a tuple of {kind.__name__}")
    _check_link(need, found.link)
    budget = found.weight_budget_bytes
    is_size = budget is None or (isinstance(budget, int) and not isinstance(budget, bool) and budget >= 4096)
    question = "; is it in MB?" if isinstance(budget, int | float) else ""
    contract = "DeviceInfo.weight_budget_bytes: bytes, or None"
    need(is_size, f"weight_budget_bytes is {budget!r}{question}", contract)


def _check_link(need: Need, link: Any) -> None:
    if link is None:
        return
    need(isinstance(link, DeviceLink), f"link is {link!r}", "DeviceInfo.link: a DeviceLink or None")
    rate, rtt = link.rate_mbps, link.rtt_ms
    rated = rate is None or (_is_number(rate) and rate > 0)
    need(rated, f"link.rate_mbps is {rate!r}", "DeviceLink.rate_mbps: 10^6 bits per second above 0, or None")
    timed = _is_number(rtt) and rtt >= 0
    need(timed, f"link.rtt_ms is {rtt!r}", "DeviceLink.rtt_ms: milliseconds from 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checked_all(need: Need, found: Any, function: str) -> list[DeviceInfo | Unavailable]:
    """Return the answers of ``probe`` as a list, each checked."""
    is_iterable = isinstance(found, Iterable) and not isinstance(found, str)
    need(is_iterable, f"{function} gave {type(found).__name__}", f"{function} gives an iterable")
    answers = list(found)
    for answer in answers:
        check_found(need, answer, function)
    return answers
