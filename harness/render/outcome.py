"""What a run did, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.types.record import Record

__all__ = ["failure_lines", "interruption"]


def failure_lines(failed: Iterable[Record]) -> Iterator[str]:
    """Yield a line for each reason for which cells failed."""
    reasons: dict[tuple[str, str], list[str]] = {}  # where it failed, and why -> cells
    for record in failed:
        place = f"{record.stage or ''} in plugin {record.plugin}" if record.plugin else record.stage or ""
        cells = reasons.setdefault((place, record.reason), [])
        cells.append(f"{record.method} (seed {record.seed})")
    for (place, reason), cells in reasons.items():
        yield f"failed: {', '.join(dict.fromkeys(cells))}: {place}: {reason}"


def interruption(records: Sequence[Record], cells: int, folder: Path) -> str:
    """Return what is kept of a run that was interrupted; ``cells`` is the number of cells in its plan."""
    kept = sum(record.good for record in records)
    return (
        f"interrupted: {kept} of {cells} cells are measured and kept in {folder}, prepared models and checkpoints in "
        "the cache; the same command continues from here"
    )
