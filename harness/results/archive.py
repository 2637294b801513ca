"""Arrays in an npz archive of unknown origin: the directory and all headers are checked before anything is unpacked."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zipfile
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Header = tuple[int, tuple[int, ...], np.dtype[Any]]
    """Where the data begins, the shape and the type of an element."""

__all__ = ["MOST_UNPACKED_BYTES", "UNREADABLE", "Archive"]

MOST_UNPACKED_BYTES = 2**30
"""The largest size of all arrays of a file together, as their headers state it."""

UNREADABLE = (
    *(ValueError, TypeError, KeyError, OSError, EOFError, SyntaxError, RecursionError, MemoryError),
    *(NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What Python's and numpy's readers raise for damaged or hostile archives and headers."""

_MOST_DIRECTORY_BYTES = 2**20
_END = 22
"""Bytes of the end record of a zip archive without a comment."""

_LOCAL = 30
"""Bytes of a member's local header without its name."""

_BEFORE_HEADER = 10
"""Bytes of an array before its header: magic, version and the length of the header."""

_USUAL = 128
"""Bytes of most arrays before their data."""


class Archive:
    """The arrays of an archive.

    Raises:
        Exception: one of :data:`UNREADABLE`, if the content is no archive of arrays, or too large.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.headers: dict[str, Header] = {}
        end = content[-_END:]
        if len(end) < _END or end[:4] != b"PK\5\6" or content[-_END - 20 :][:4] == b"PK\6\7":
            raise ValueError("it does not end as a small zip archive does")
        if int.from_bytes(end[12:16], "little") > _MOST_DIRECTORY_BYTES:
            raise ValueError(f"its directory has more than {_MOST_DIRECTORY_BYTES:,} bytes")
        total = 0
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in self.headers:
                raise ValueError(f"member {member.filename!r} is no array, or is there twice")
            total += member.file_size
            if total > MOST_UNPACKED_BYTES:
                raise ValueError(f"its arrays have more than {MOST_UNPACKED_BYTES:,} bytes")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} is packed in another way than numpy does")
            self.headers[name] = self._header(name, member)
            self._members[name] = member

    def array(self, name: str) -> NDArray[Any]:
        """Return a one-dimensional array.

        Raises:
            Exception: one of :data:`UNREADABLE`, if it is damaged.
        """
        member, (start, _, dtype) = self._members[name], self.headers[name]
        data = self._unpacked(member, member.file_size + 1)
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise ValueError(f"array {name!r} is damaged")
        return np.frombuffer(data, dtype, offset=start)

    def _header(self, name: str, member: zipfile.ZipInfo) -> Header:
        """Return the header of an array. Version 1 of the format has headers of at most 64 KiB."""
        first = self._unpacked(member, _USUAL)
        if first[:8] != b"\x93NUMPY\1\0" or len(first) < _BEFORE_HEADER:
            raise ValueError(f"array {name!r} has an unknown header")
        start = _BEFORE_HEADER + int.from_bytes(first[8:_BEFORE_HEADER], "little")
        shape, dtype = _parsed(first[:start] if start <= _USUAL else self._unpacked(member, start))
        if dtype.hasobject or dtype.kind not in "biufSU" or min(shape, default=0) < 0:
            raise ValueError(f"array {name!r} has no numbers or texts")
        if member.file_size != start + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"array {name!r} has another size than its header states")
        return start, shape, dtype

    def _unpacked(self, member: zipfile.ZipInfo, most: int) -> bytes:
        """Return at most the first ``most`` bytes of a member."""
        local = self._content[member.header_offset : member.header_offset + _LOCAL]
        if len(local) < _LOCAL or local[:4] != b"PK\3\4" or member.flag_bits & 1:
            raise ValueError(f"member {member.filename!r} has no header, or is encrypted")
        start = member.header_offset + _LOCAL
        start += int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        packed = memoryview(self._content)[start : start + member.compress_size]
        if member.compress_type == zipfile.ZIP_STORED:
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
