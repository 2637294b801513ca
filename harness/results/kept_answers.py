"""The answers in sample files, kept in the index of a results folder while no file changes."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import TypeAlias

from harness.results.answers import SeedAnswers
from harness.results.index import Index, state_of
from harness.store.hashing import FileState
from harness.store.remembered import SETTLED_S

__all__ = ["KeptAnswers"]

Entry: TypeAlias = tuple[FileState, SeedAnswers | None]
_NAME = "answers.json"


class KeptAnswers:
    """The answers of files by their SHA-256. They count while inode, size, mtime and ctime of the file stay the same.

    ``settled_s``: a file that changed within so many seconds before it was read is not kept, since the clock of a file
    system is coarse.
    """

    def __init__(self, index: Index, settled_s: float = SETTLED_S) -> None:
        self._index = index
        self._latest_ns = time.time_ns() - settled_s * 1e9
        self._known = {
            name: (
                FileState(*state),
                None if images is None else SeedAnswers(bytes.fromhex(images), n, base64.b64decode(right)),
            )
            for name, (state, images, n, right) in (index.read(_NAME) or {}).items()
        }
        self._used: dict[str, Entry] = {}
        self._changed = False

    def __contains__(self, sha256: object) -> bool:
        """Return whether answers of a file were kept. They may be of an earlier state of the file."""
        return sha256 in self._known

    def get_or_read(
        self, sha256: str, path: str, read: Callable[[], SeedAnswers | None]
    ) -> SeedAnswers | None:
        """Return the answers in a file: what is kept of it in its present state, or ``read()``.

        Raises:
            StorageError: what ``read`` raises.
        """
        state = state_of(path)
        entry = self._known.get(sha256)
        if entry is None or entry[0] != state:
            answers = read()
            self._changed = True
            if state is None or state.ctime_ns > self._latest_ns:
                return answers
            entry = state, answers
        self._used[sha256] = entry
        return entry[1]

    def save(self) -> None:
        """Write what is new into the index."""
        if self._changed:
            self._index.write(
                _NAME,
                {
                    name: [
                        state,
                        *(
                            (None, 0, "")
                            if answers is None
                            else (answers.images.hex(), answers.n, base64.b64encode(answers.right).decode())
                        ),
                    ]
                    for name, (state, answers) in self._used.items()
                },
            )
