"""Read a capture as documents that can be compared between two versions: items have names, keys have none.

A document maps a path to a value: ``{"accuracy.top1": 97.5, "parts[fusion].params": 1042}``. An item of a list of
objects is addressed by its name. Objects and lists have an entry of their own, so an empty object is not a missing one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LIST", "OBJECT", "Document", "documents"]

Document = dict[str, Any]
OBJECT, LIST = "{...}", "[...]"

IDENTITY = "claim kind is entry stage name meter plugin method device runtime load seed"
"""The fields that name an item of a list. An item is named by those that it has."""

HASH = re.compile(r"[0-9a-f]{32}")

EXACT_ARRAYS = {"predictions": "predictions", "labels": "labels", "oracle": "oracle", "told": "oracle"}
"""Raw arrays that depend on training and export only, with their name of today. Others are times or readings."""

USUAL = {"batch": 1, "in_flight": 1, "generator": "harness", "deadline": None, "deadline_s": None}
"""Values of a scenario that the name of a cell does not mention."""


class Items(dict[str, Any]):
    """Items by name: a list of objects whose names are computed."""


def documents(capture: Path) -> Iterator[tuple[str, Document]]:
    """Name and document of every answer, of every record, and of every record's raw arrays."""
    answers = capture / "answers"
    for path in sorted(answers.rglob("*.json")):
        answer = json.loads(path.read_text())
        output = answer["stdout"]
        if isinstance(output, dict) and {"nodes", "cells"} <= output.keys():
            answer["stdout"] = _named_plan(output)
        yield path.relative_to(answers).with_suffix("").as_posix(), _flat(answer)
    for path in sorted((capture / "runs").glob("*/records.jsonl")):
        yield from _records(path)


def _records(path: Path) -> Iterator[tuple[str, Document]]:
    """Yield the last attempt of each cell and its raw arrays, with the name of the cell."""
    attempts = [json.loads(line) for line in path.read_text().splitlines()]
    names: set[str] = set()
    for record in {record["cell_id"]: record for record in attempts}.values():
        name = _unique(_cell_name(record, record["device"].get("name"), record["scenario"]), names)
        names.add(name)
        place = f"{path.parent.name}/{name}"
        yield f"record/{place}", _flat(record)
        if record["samples"]:
            with np.load(path.parent / record["samples"]["file"], allow_pickle=False) as arrays:
                yield f"arrays/{place}", _array_document(arrays)


def _array_document(arrays: Mapping[str, Any]) -> Document:
    document: Document = {}
    for name, array in arrays.items():
        document[name] = f"{array.dtype} of {array.ndim} dimensions"
        if name in EXACT_ARRAYS:
            document[f"{EXACT_ARRAYS[name]}.values"] = array.tolist()
    return document


def _cell_name(cell: Mapping[str, Any], device: str | None, scenario: Mapping[str, Any]) -> str:
    """Return a name for a cell of a plan or of a record. ``scenario`` is the block ``measure`` or ``scenario``."""
    kind = scenario.get("scenario") or scenario.get("name")
    unusual = "".join(
        f", {key} {scenario[key]}" for key, usual in USUAL.items() if scenario.get(key, usual) != usual
    )
    return f"{cell['method']} seed {cell['seed']} repeat {cell['repeat']} on {device}, {kind}{unusual}"


def _named_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``plan`` with names instead of hashes, as addresses of nodes and cells and in their references."""
    nodes: dict[str, Any] = {}
    cells: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    names: dict[str, str] = {}  # hash -> name
    for node in plan["nodes"]:
        name = _unique(f"{node['stage']} {node['label']}", nodes)
        names[node["key"]] = name
        nodes[name] = node
    for cell in plan["cells"]:
        task = cell["task"]
        runtime = (task.get("runtime") or {}).get("name")
        name = _unique(f"{_cell_name(cell, task.get('device'), task.get('measure') or {})}, {runtime}", cells)
        names[cell["id"]] = name
        cells[name] = cell
        if cell["method_key"] not in names:
            method = _unique(f"method {cell['method']}", methods)
            names[cell["method_key"]] = method
            methods[method] = cell

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        if isinstance(value, list):
            return [named(item) for item in value]
        if isinstance(value, str) and HASH.fullmatch(value):
            return names.get(value, "a hash")
        return value

    order = {"nodes": list(nodes), "cells": list(cells)}
    return {**plan, "order": order, "nodes": Items(named(nodes)), "cells": Items(named(cells))}


def _flat(value: Any, path: str = "") -> Document:
    """Return the document of a JSON value."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = Items()
        for item in value:
            items[_unique(_item_name(item), items)] = item
        value = items
    if not isinstance(value, dict):
        return {path: value}
    document: Document = {path: LIST if isinstance(value, Items) else OBJECT}
    for key, item in value.items():
        below = f"[{key}]" if isinstance(value, Items) else f".{key}" if path else str(key)
        document |= _flat(item, path + below)
    return document


def _item_name(item: Mapping[str, Any]) -> str:
    words = [item[field] for field in IDENTITY.split() if isinstance(item.get(field), str | int)]
    key = item.get("key")  # of a board: an object of what its rows have in common
    return " ".join(map(str, words or (key.values() if isinstance(key, dict) else ["item"])))


def _unique(name: str, names: Collection[str]) -> str:
    """Return ``name``, with a number if it is already one of ``names``."""
    count, numbered = 1, name
    while numbered in names:
        count += 1
        numbered = f"{name} #{count}"
    return numbered
