"""Arrays in an npz archive of unknown origin: the directory and all headers are checked before anything is unpacked."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zipfile
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.results.zip_directory import DEFLATED, STORED, Member, members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Header = tuple[int, tuple[int, ...], np.dtype[Any]]
    """Where the data begins, the shape and the type of an element."""

__all__ = ["MOST_UNPACKED_BYTES", "UNREADABLE", "Archive", "Packed"]

MOST_UNPACKED_BYTES = 2**30
"""The largest size of all arrays of a file together, as their headers state it."""

UNREADABLE = (
    *(ValueError, TypeError, KeyError, OSError, EOFError, SyntaxError, RecursionError, MemoryError),
    *(NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What Python's and numpy's readers raise for damaged or hostile archives and headers."""

_LOCAL = 30
"""Bytes of a member's local header without its name."""

_BEFORE_HEADER = 10
"""Bytes of an array before its header: magic, version and the length of the header."""

_USUAL = 128
"""Bytes of most arrays before their data."""


class Packed(NamedTuple):
    """A one-dimensional array as it is in an archive. Equal values unpack to equal arrays.

    ``how`` is the way in which it is packed, ``size`` its unpacked bytes with the header, and ``start`` where its data
    begins.
    """

    name: str
    content: bytes
    how: int
    size: int
    crc: int
    start: int
    dtype: np.dtype[Any]

    def array(self) -> NDArray[Any]:
        """Return the array.

        Raises:
            Exception: one of :data:`UNREADABLE`, if it is damaged.
        """
        data = _first(self.content, self.how, self.size + 1)
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise ValueError(f"array {self.name!r} is damaged")
        return np.frombuffer(data, self.dtype, offset=self.start)


class Archive:
    """The arrays of an archive.

    Raises:
        Exception: one of :data:`UNREADABLE`, if the content is no archive of arrays, or too large.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._members: dict[str, Member] = {}
        self.headers: dict[str, Header] = {}
        total = 0
        for member in members(content):
            name = member.name.removesuffix(".npy")
            if name == member.name or name in self.headers:
                raise ValueError(f"member {member.name!r} is no array, or is there twice")
            total += member.size
            if total > MOST_UNPACKED_BYTES:
                raise ValueError(f"its arrays have more than {MOST_UNPACKED_BYTES:,} bytes")
            if member.how not in (STORED, DEFLATED):
                raise ValueError(f"array {name!r} is packed in another way than numpy does")
            self.headers[name] = self._header(name, member)
            self._members[name] = member

    def packed(self, name: str) -> Packed:
        """Return a one-dimensional array without unpacking it."""
        member, (start, _, dtype) = self._members[name], self.headers[name]
        return Packed(name, bytes(self._packed(member)), member.how, member.size, member.crc, start, dtype)

    def _header(self, name: str, member: Member) -> Header:
        """Return the header of an array. Version 1 of the format has headers of at most 64 KiB."""
        packed = self._packed(member)
        first = _first(packed, member.how, _USUAL)
        if first[:8] != b"\x93NUMPY\1\0" or len(first) < _BEFORE_HEADER:
            raise ValueError(f"array {name!r} has an unknown header")
        start = _BEFORE_HEADER + int.from_bytes(first[8:_BEFORE_HEADER], "little")
        shape, dtype = _parsed(first[:start] if start <= _USUAL else _first(packed, member.how, start))
        if dtype.hasobject or dtype.kind not in "biufSU" or min(shape, default=0) < 0:
            raise ValueError(f"array {name!r} has no numbers or texts")
        if member.size != start + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"array {name!r} has another size than its header states")
        return start, shape, dtype

    def _packed(self, member: Member) -> memoryview:
        """Return the bytes of a member as they are in the archive."""
        local = self._content[member.place : member.place + _LOCAL]
        if len(local) < _LOCAL or local[:4] != b"PK\3\4" or member.encrypted:
            raise ValueError(f"member {member.name!r} has no header, or is encrypted")
        start = member.place + _LOCAL
        start += int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        return memoryview(self._content)[start : start + member.packed_size]


def _first(packed: bytes | memoryview, how: int, most: int) -> bytes:
    """Return at most the first ``most`` bytes of what was packed."""
    if how == STORED:
        return bytes(packed[:most])
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)


@lru_cache(maxsize=1000)
def _parsed(start: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and element type in the first bytes of an array. Most archives have the same few headers."""
    stream = io.BytesIO(start)
    np.lib.format.read_magic(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 could have written
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype
