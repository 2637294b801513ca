"""The directory of a small zip archive of unknown origin. Python's zipfile takes longer than to unpack what is read."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

__all__ = ["DEFLATED", "STORED", "Member", "members"]

STORED, DEFLATED = 0, 8
"""The ways in which numpy packs arrays."""

_MOST_BYTES = 2**20
_END = Struct("<4s4H2LH")
"""Signature, four numbers of disks and members, bytes and place of the directory, bytes of a comment."""

_LOCATOR = 20
"""Bytes of the record before the end record, if an archive has the fields of a large one."""

_ENTRY = Struct("<4s6H3L5H2L")
"""Signature, versions, flags, packing, time and date, CRC, packed and unpacked bytes, lengths, disk, attributes, place."""

_ENCRYPTED, _UTF8 = 0x1, 0x800


class Member(NamedTuple):
    """A member as the directory states it. ``place``: where its local header begins. ``size``: its unpacked bytes."""

    name: str
    how: int
    crc: int
    packed_size: int
    size: int
    place: int
    encrypted: bool


def members(content: bytes) -> Iterator[Member]:
    """Yield the members of an archive: only of one without a comment, and without other bytes before or in it.

    Raises:
        ValueError: the content is no such archive, or its directory is larger than 1 MiB.
    """
    end = len(content) - _END.size
    if end < 0 or content[end : end + 4] != b"PK\5\6" or content[max(end - _LOCATOR, 0) :][:4] == b"PK\6\7":
        raise ValueError("it does not end as a small zip archive does")
    *_, size, place, _ = _END.unpack_from(content, end)
    if size > _MOST_BYTES:
        raise ValueError(f"its directory has more than {_MOST_BYTES:,} bytes")
    if place + size != end:
        raise ValueError("its directory is not where its end states")
    while place < end:
        if place + _ENTRY.size > end:
            raise ValueError("its directory is cut off")
        signature, _, _, flags, how, _, _, crc, packed, unpacked, name, extra, comment, *_, start = (
            _ENTRY.unpack_from(content, place)
        )
        place += _ENTRY.size
        if signature != b"PK\1\2":
            raise ValueError("its directory is damaged")
        text = content[place : place + name].decode("utf-8" if flags & _UTF8 else "cp437")
        place += name + extra + comment
        yield Member(text, how, crc, packed, unpacked, start, bool(flags & _ENCRYPTED))
    if place != end:
        raise ValueError("its directory is cut off")
