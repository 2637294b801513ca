"""Names of classes: their order, and what is wrong or doubtful about them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.errors import SuiteError

__all__ = ["check_name", "name_notes", "ordered", "same_name", "shown", "some"]

SHOWN = 3


def ordered(names: Iterable[str]) -> list[str]:
    """Return names in order: by number if all are numbers (2 before 10), else by text."""
    listed = list(names)
    if all(name.isascii() and name.isdigit() for name in listed):
        return sorted(listed, key=lambda name: (int(name), name))
    return sorted(listed)


def same_name(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): a letter and its accent may be written as one sign or two."""
    return unicodedata.normalize("NFC", name)


def check_name(name: str, where: object) -> None:
    """Refuse the name of a class that cannot be printed or stored.

    Raises:
        SuiteError: it is empty, holds a control character, or is no text. The message begins with ``where``.
    """
    if not name.strip():
        raise SuiteError(f"{where}: {name!r} is no name of a class")
    wrong = next((sign for sign in name if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")), None)
    if wrong is not None:
        kind = "what is no UTF-8" if unicodedata.category(wrong) == "Cs" else "a control character"
        raise SuiteError(f"{where}: the name of class {name!r} holds {kind}: {wrong!r}; rename it")


def name_notes(names: Sequence[str]) -> Iterator[str]:
    """Yield what is doubtful about the names of classes."""
    twice = [f"{count} are called {name!r}" for name, count in Counter(names).items() if count > 1]
    if twice:
        yield f"classes of one name are kept apart by their numbers: {some(twice)}"
    folded: dict[str, set[str]] = {}
    for name in names:
        folded.setdefault(" ".join(name.casefold().split()), set()).add(name)
    alike = [" and ".join(map(repr, sorted(group))) for group in folded.values() if len(group) > 1]
    if alike:
        yield f"classes differ in capitals or spaces only: {some(alike)}"


def shown(text: str) -> str:
    """Return a text as it can be printed: one with control characters is quoted, and they are escaped."""
    return text if text.isprintable() else repr(text)


def some(texts: Iterable[str]) -> str:
    """Return the first texts, and how many more there are."""
    listed = list(texts)
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
