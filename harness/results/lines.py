"""Reading ``records.jsonl``: every valid line is a record, and every other line is named. Memory is bounded."""

from __future__ import annotations

import json
import marshal
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import pydantic_core
from pydantic import ValidationError

from harness.errors import StorageError
from harness.results.bounds import impossible
from harness.results.collector import paused
from harness.results.second_process import SecondProcess, map_parts
from harness.store.files import open_regular
from harness.types.blocks import Block, DataBlock, DeviceBlock, RuntimeBlock, ScenarioBlock
from harness.types.json import JsonObject
from harness.types.record import SCHEMA, Record, checksum, checksum_of_line

__all__ = ["MOST_BYTES", "MOST_LINE_BYTES", "MOST_PROBLEMS", "Line", "record_at", "record_in", "scan"]

MOST_BYTES = 2**31
"""The largest file of records that is read. A record has about 10 kB."""

MOST_LINE_BYTES = 8 * 2**20
"""The longest line that is read as a record."""

MOST_PROBLEMS = 1000
"""How many bad lines are named one by one; the others are counted."""

_PART_BYTES, _PART_LINES = 2 * 2**20, 10_000
"""Lines that are read at once: about so many bytes, and at most so many lines."""

SHARED: dict[str, type[Block]] = {
    "device": DeviceBlock,
    "runtime": RuntimeBlock,
    "scenario": ScenarioBlock,
    "data": DataBlock,
}
"""Blocks that many records have alike. Such records share one object."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """The place of a record: its file, the number of its line from 1, and the byte at which the line begins."""

    path: Path
    number: int
    start: int


Place: TypeAlias = tuple[int, int, bytes]
"""The number of a line, where it begins, and its bytes."""


@paused()
def scan(
    path: Path, take: Callable[[Line, Record], T], second: SecondProcess | None = None
) -> tuple[list[T], list[str]]:
    """Return what ``take`` makes of every valid line, and a sentence for every other line.

    Only what ``take`` returns stays in memory. With a ``second`` process, ``take`` must be a function of a module.

    Raises:
        StorageError: the file cannot be read, or is too large.
    """
    taken: list[T] = []
    problems: list[str] = []
    further = 0
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise StorageError(f"{path}: has {size:,} bytes, at most {MOST_BYTES:,} are read")
            for valid, bad, more in map_parts(partial(_read, path, take), _parts(file), second):
                taken += valid
                room = MOST_PROBLEMS - len(problems)
                problems += bad[:room]
                further += more + len(bad[room:])
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    if further:
        problems.append(f"{path}: {further:,} further bad lines")
    return taken, problems


def _read(
    path: Path, take: Callable[[Line, Record], T], lines: Sequence[Place]
) -> tuple[list[T], list[str], int]:
    """Return what ``take`` makes of the valid lines, sentences for other lines, and the number of further ones."""
    taken: list[T] = []
    problems: list[str] = []
    further = 0
    parser = _Parser()
    with paused():
        for number, start, line in lines:
            content = line.rstrip(b"\n")
            if not content.strip():
                continue
            record, problem = parser.parse(content)
            if record is not None:
                taken.append(take(Line(path, number, start), record))
            elif len(problems) < MOST_PROBLEMS:
                torn = "" if line.endswith(b"\n") else " (torn: the last write was cut off)"
                problems.append(f"{path}:{number}: {problem}{torn}")
            else:
                further += 1
    return taken, problems, further


def record_at(line: Line) -> Record:
    """Return the record in a line.

    Raises:
        StorageError: the file cannot be read, or has no valid record there any more.
    """
    try:
        with open_regular(line.path) as file:
            file.seek(line.start)
            content = file.readline(MOST_LINE_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{line.path}: {error.strerror or error}") from None
    try:
        return record_in(content.rstrip(b"\n"))
    except ValueError as error:
        raise StorageError(f"{line.path}:{line.number}: was changed while it was read: {error}") from None


def record_in(content: bytes) -> Record:
    """Return the record in the bytes of a line.

    Raises:
        ValueError: the bytes are no record. The message says why.
    """
    record, problem = _Parser().parse(content)
    if record is None:
        raise ValueError(problem)
    return record


def _parts(file: BinaryIO) -> Iterator[list[Place]]:
    """Yield the lines of a file in lists of about :data:`_PART_BYTES`."""
    part: list[Place] = []
    size = 0
    for place in _lines(file):
        part.append(place)
        size += len(place[2])
        if size >= _PART_BYTES or len(part) >= _PART_LINES:
            yield part
            part, size = [], 0
    yield part


def _lines(file: BinaryIO) -> Iterator[Place]:
    """Yield the number of each line, where it begins, and its bytes.

    Of a line that is longer than :data:`MOST_LINE_BYTES`, only so much is in memory, and one byte more.
    """
    number = start = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        length, rest = len(line), line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(2**20)
            length += len(rest)
        yield (
            number,
            start,
            line if len(line) <= MOST_LINE_BYTES or line.endswith(b"\n") else line + rest[-1:],
        )
        start += length


class _Parser:
    """Makes records of lines. Records with an equal block of :data:`SHARED` get the same object."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Block] = {}

    def parse(self, line: bytes) -> tuple[Record | None, str]:
        """Return the record in a line, or None and what is wrong with the line."""
        if len(line) > MOST_LINE_BYTES:
            return None, f"longer than a record may be: at most {MOST_LINE_BYTES:,} bytes"
        content = _json(line)
        if content is None:
            return None, "not JSON"
        if not isinstance(content, dict):
            return None, "not a JSON object"
        if content.get("schema") != SCHEMA:
            return None, f"schema {content.get('schema')!r:.40} is not one this version reads ({SCHEMA})"
        try:
            record = Record.model_validate({**content, **self._shared(content)}, strict=True)
        except (ValidationError, RecursionError) as error:
            detail = (
                error.errors()[0]
                if isinstance(error, ValidationError)
                else {"loc": (), "msg": "nested too deeply"}
            )
            return None, f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        try:
            matches = checksum_of_line(line) == record.checksum or checksum(content) == record.checksum
            problem = impossible(content)
        except (ValueError, RecursionError):  # NaN is not JSON, though Python reads it
            matches, problem = False, None
        if not matches:
            return None, "checksum does not match: the line was changed or damaged"
        return (record, "") if problem is None else (None, problem)

    def _shared(self, content: JsonObject) -> dict[str, Block]:
        shared: dict[str, Block] = {}
        for name, kind in SHARED.items():
            value = content.get(name)
            if isinstance(value, dict):
                key = name, marshal.dumps(value, 2)  # the fastest bytes that equal values have alike
                if key not in self._known:
                    try:
                        self._known[key] = kind.model_validate(value, strict=True)
                    except ValidationError:  # the whole record says where
                        continue
                shared[name] = self._known[key]
        return shared


def _json(line: bytes) -> Any:
    """Return the JSON value in a line, or None if there is none.

    Python's parser reads what the faster one refuses: text that UTF-8 cannot encode, and NaN, which no checksum matches.
    """
    try:
        return pydantic_core.from_json(line, allow_inf_nan=False)
    except ValueError:
        pass
    try:
        return json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
