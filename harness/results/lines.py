"""Reading ``records.jsonl``: every valid line is a record, and every other line is named. Memory is bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from harness.errors import StorageError
from harness.store.files import open_regular
from harness.types.record import SCHEMA, Record, checksum

__all__ = ["MOST_BYTES", "MOST_LINE_BYTES", "MOST_PROBLEMS", "scan"]

MOST_BYTES = 2**30
"""The largest file of records that is read. A record has about 10 kB."""

MOST_LINE_BYTES = 8 * 2**20
"""The longest line that is read as a record."""

MOST_PROBLEMS = 1000
"""How many bad lines are named one by one; the others are counted."""


def scan(path: Path) -> tuple[list[tuple[int, Record]], list[str]]:
    """Return (line number, record) of every valid line, and a sentence for every other line.

    Raises:
        StorageError: the file cannot be read, or is too large.
    """
    valid: list[tuple[int, Record]] = []
    problems: list[str] = []
    further = 0
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise StorageError(f"{path}: has {size:,} bytes, at most {MOST_BYTES:,} are read")
            for number, line in enumerate(_lines(file), 1):
                content = line.rstrip(b"\n")
                if not content.strip():
                    continue
                record, problem = _parse(content)
                if record is not None:
                    valid.append((number, record))
                elif len(problems) < MOST_PROBLEMS:
                    torn = "" if line.endswith(b"\n") else " (torn: the last write was cut off)"
                    problems.append(f"{path}:{number}: {problem}{torn}")
                else:
                    further += 1
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    if further:
        problems.append(f"{path}: {further:,} further bad lines")
    return valid, problems


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield each line. Of one that is longer than :data:`MOST_LINE_BYTES`, only so much and one byte more."""
    while line := file.readline(MOST_LINE_BYTES + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(2**20)
        yield line if len(line) <= MOST_LINE_BYTES or line.endswith(b"\n") else line + rest[-1:]


def _parse(line: bytes) -> tuple[Record | None, str]:
    """Return the record in a line, or None and what is wrong with the line."""
    if len(line) > MOST_LINE_BYTES:
        return None, f"longer than a record may be: at most {MOST_LINE_BYTES:,} bytes"
    try:
        content = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None, "not JSON"
    if not isinstance(content, dict):
        return None, "not a JSON object"
    if content.get("schema") != SCHEMA:
        return None, f"schema {content.get('schema')!r:.40} is not one this version reads ({SCHEMA})"
    try:
        record = Record.model_validate(content)
    except (ValidationError, RecursionError) as error:
        detail = (
            error.errors()[0]
            if isinstance(error, ValidationError)
            else {"loc": (), "msg": "nested too deeply"}
        )
        return None, f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    try:
        matches = checksum(content) == record.checksum
    except (ValueError, RecursionError):  # NaN is not JSON, though Python reads it
        matches = False
    return (record, "") if matches else (None, "checksum does not match: the line was changed or damaged")
