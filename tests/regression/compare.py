"""Print the differences between two captures, one line each. The exit code is 1 if one of them is not allowed.

    python compare.py BEFORE AFTER [--allow FILE] [--only PATTERN] [--common] [--all]

Predictions, training losses, counts, accuracies, plans, claims, and what is printed of existing records must be equal
bit for bit. Values that volatile.txt names must be present. Latency is reported as a ratio.

A difference is ``lost`` (a path is missing after), ``changed``, or ``added``. Added paths are allowed. Each line of FILE
(default: allowed.txt in this folder) is a pattern of differences to allow: ``document:path``, where ``*`` is any text.
Two spaces and ``#`` start a comment.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from documents import LIST, OBJECT, Document, documents

HERE = Path(__file__).resolve().parent
ALLOWED, VOLATILE = HERE / "allowed.txt", HERE / "volatile.txt"


@dataclass(frozen=True)
class Moment:
    """The places that depend on the time of a capture: those whose value may change, and those that may be absent."""

    value: re.Pattern[str]
    presence: re.Pattern[str]

    @classmethod
    def read(cls, path: Path) -> Moment:
        """Read the patterns of volatile.txt."""
        patterns = read_patterns(path)
        optional = [pattern[2:] for pattern in patterns if pattern.startswith("? ")]
        return cls(compiled([*patterns, *optional]), compiled(optional))


@dataclass(frozen=True)
class Difference:
    """One path of one document. ``kind`` is lost, changed or added."""

    kind: str
    document: str
    path: str
    detail: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.path}"

    @property
    def group(self) -> tuple[str, str, str]:
        """Return the key that equal differences in other records of a run, or in other items, share."""
        words = self.document.split("/")
        family = "/".join(words[:2]) if words[0] in ("record", "arrays") else words[0]
        return self.kind, family, re.sub(r"\[[^\]]*\]", "[]", self.path)


def differences(
    before: Mapping[str, Document], after: Mapping[str, Document], moment: Moment
) -> Iterator[Difference]:
    """Yield the differences between two captures. The values of ``moment`` may change."""
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Difference("lost", name, "", "the document")
        elif name not in before:
            yield Difference("added", name, "", "the document")
        else:
            yield from _within(name, before[name], after[name], moment)


def _within(name: str, old: Document, new: Document, moment: Moment) -> Iterator[Difference]:
    for kind, present, absent in (("lost", old, new), ("added", new, old)):
        for path in present:
            if path in absent or moment.presence.fullmatch(f"{name}:{path}"):
                continue
            # a path below another difference is part of it
            if all(absent.get(above) in (OBJECT, LIST) for above in _ancestors(path) if above in present):
                yield Difference(kind, name, path, _short(present[path]))
    for path, value in old.items():
        if path in new and not _same(value, new[path]) and not moment.value.fullmatch(f"{name}:{path}"):
            yield Difference("changed", name, path, _change(value, new[path]))


def _ancestors(path: str) -> list[str]:
    return [path[: separator.start()] for separator in re.finditer(r"[.\[]", path)]


def _same(old: Any, new: Any) -> bool:
    return type(old) is type(new) and bool(old == new)


def _change(old: Any, new: Any) -> str:
    if not (isinstance(old, list) and isinstance(new, list)):
        return f"{_short(old)} -> {_short(new)}"
    different = [index for index, pair in enumerate(zip(old, new, strict=False)) if not _same(*pair)]
    first = different[0] if different else min(len(old), len(new))
    left, right = (_short(items[first]) if first < len(items) else "nothing" for items in (old, new))
    size = f"{len(old)} items" if len(old) == len(new) else f"{len(old)} and {len(new)} items"
    return f"{len(different)} of {size}; [{first}]: {left} -> {right}"


def _short(value: Any) -> str:
    text = value if value in (OBJECT, LIST) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


# --- patterns -----------------------------------------------------------------------------------


def compiled(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return a regular expression for any of ``patterns``, in which ``*`` is any text."""
    return re.compile("|".join(re.escape(pattern).replace(r"\*", ".*") for pattern in patterns) or "(?!)")


def read_patterns(path: Path) -> list[str]:
    """Return the patterns in a file, without its comments."""
    lines = [line.partition("  #")[0].strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


# --- report -------------------------------------------------------------------------------------


def latency_ratios(before: Mapping[str, Document], after: Mapping[str, Document]) -> Iterator[str]:
    """Yield one line per run: the ratio of p50 after to p50 before, over the cells."""
    ratios: dict[str, list[float]] = {}
    for name, old in before.items():
        p50, p50_after = old.get("latency.p50_ms"), after.get(name, {}).get("latency.p50_ms")
        if name.startswith("record/") and p50 and p50_after:
            ratios.setdefault(name.split("/")[1], []).append(p50_after / p50)
    for run, values in sorted(ratios.items()):
        yield (
            f"latency {run}: p50 after / before: median {median(values):.3f}, "
            f"{min(values):.3f} to {max(values):.3f}, {len(values)} cells"
        )


def report(items: Sequence[Difference], *, every: bool) -> Iterator[str]:
    """Yield the lines for ``items``. Unless ``every``, one line stands for a difference in many records or items."""
    groups: dict[Any, list[Difference]] = {}
    for item in items:
        groups.setdefault(item if every else item.group, []).append(item)
    for group in groups.values():
        more = f"  (and in {len(group) - 1} more)" if len(group) > 1 else ""
        yield f"{group[0].kind:<8}{group[0].place}  {group[0].detail}{more}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--allow", type=Path, default=ALLOWED, help="a file of patterns of expected differences"
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="these documents, e.g. 'plan/*'")
    parser.add_argument("--common", action="store_true", help="only documents that both captures have")
    parser.add_argument("--all", action="store_true", help="print one line for each record and item")
    options = parser.parse_args()
    chosen = compiled([options.only])
    before, after = (
        {name: document for name, document in documents(capture) if chosen.fullmatch(name)}
        for capture in (options.before, options.after)
    )
    if options.common:
        before = {name: document for name, document in before.items() if name in after}
        after = {name: document for name, document in after.items() if name in before}
    if not before:
        print("no documents to compare")
        return 1
    patterns = read_patterns(options.allow)
    allowed = compiled(patterns)
    items = list(differences(before, after, Moment.read(VOLATILE)))
    added = [item for item in items if item.kind == "added"]
    failures = [item for item in items if item.kind != "added" and not allowed.fullmatch(item.place)]
    unused = [text for text in patterns if not any(compiled([text]).fullmatch(item.place) for item in items)]
    for line in (
        *report(added, every=options.all),
        *report(failures, every=options.all),
        *latency_ratios(before, after),
        *(f"allowed, but no such difference: {text}" for text in unused),
    ):
        print(line)
    count = len(items) - len(failures) - len(added)
    print(f"{len(before)} documents: {len(failures)} differences, {count} allowed, {len(added)} added")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
