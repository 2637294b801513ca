"""Contracts of what planning gets from a method: how a module is built, the sketch of a partition, a placement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness.contracts.json import is_json_object
from harness.contracts.need import Need
from harness.types import IMAGE, ModuleSpec, Placement, Sketch

__all__ = ["PART_NAME", "check_placement", "check_sketch", "check_spec"]

PART_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
"""The form of a part's name. Folders and keys of a record have this name."""
FACTORY = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"
COUNTS = ("params", "macs", "weight_bytes", "output_bytes")


def check_spec(need: Need, spec: Any, function: str) -> None:
    """Check a :class:`~harness.types.ModuleSpec` that ``function`` returned. Nothing is imported."""
    need(isinstance(spec, ModuleSpec), f"{function} gave {type(spec).__name__}", "it gives a ModuleSpec")
    is_name = isinstance(spec.factory, str) and re.fullmatch(FACTORY, spec.factory) is not None
    allowed = 'ModuleSpec.factory: "package.module:function", which other processes import'
    need(is_name, f"{function} gave the factory {spec.factory!r}", allowed)
    problem = f"{function} gave params that are not JSON: {_short(spec.params)}"
    need(is_json_object(spec.params), problem, "ModuleSpec.params: a JSON object")


def check_sketch(need: Need, sketch: Any, devices: int) -> None:
    """Check a sketch for a fleet of ``devices`` devices."""
    need(isinstance(sketch, Sketch), f"sketch gave {type(sketch).__name__}", "sketch gives a Sketch")
    need(bool(sketch.parts), "sketch gave no part", "Sketch.parts: at least one part")
    seen = {IMAGE}
    for part in sketch.parts:
        is_name = isinstance(part.name, str) and re.fullmatch(PART_NAME, part.name) is not None
        need(is_name, f"a part is named {part.name!r}", "PartSketch.name: letters, digits, - _ and .")
        need(part.name not in seen, f"two parts are named {part.name!r}", "PartSketch.name: unique")
        unknown = [name for name in part.inputs if name not in seen]
        need(
            not unknown and not isinstance(part.inputs, str) and len(part.inputs) > 0,
            f"part {part.name!r} has the inputs {part.inputs!r}",
            "PartSketch.inputs: image or earlier parts",
        )
        seen.add(part.name)
        for field in COUNTS:
            count = getattr(part, field)
            is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 0
            need(
                is_count, f"{field} of part {part.name!r} is {count!r}", f"PartSketch.{field}: a whole number"
            )
        if part.spec is not None:
            check_spec(need, part.spec, "sketch")
    if sketch.placement is not None:
        check_placement(need, sketch.placement, [part.name for part in sketch.parts], devices, "sketch")
    problem = f"sketch gave decisions that are not JSON: {_short(sketch.decisions)}"
    need(is_json_object(sketch.decisions), problem, "Sketch.decisions: a JSON object")


def check_placement(
    need: Need, placement: Any, parts: Iterable[str], devices: int, function: str = "place"
) -> None:
    """Check that a placement has each of ``parts`` on one of ``devices`` devices."""
    is_placement = isinstance(placement, Placement) and isinstance(placement.device_of, Mapping)
    need(is_placement, f"{function} gave {type(placement).__name__}", f"{function} gives a Placement")
    names = list(parts)
    left = [name for name in names if name not in placement.device_of]
    need(not left, f"left out {', '.join(left)}", "Placement.device_of: every part has a device")
    unknown = [str(name) for name in placement.device_of if name not in names]
    need(not unknown, f"placed {', '.join(unknown)}", "Placement.device_of: parts of the sketch alone")
    for name, index in placement.device_of.items():
        is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < devices
        need(
            is_index,
            f"placed {name} on device {index!r}",
            f"Placement.device_of: an index into the fleet's devices, 0 to {devices - 1}",
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
