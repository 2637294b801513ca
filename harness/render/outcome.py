"""Lines for a person about the outcome of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.types.record import Record

__all__ = ["failure_lines", "interruption"]


def failure_lines(failed: Iterable[Record]) -> Iterator[str]:
    """Yield one line for each reason why cells failed."""
    reasons: dict[tuple[str, str], list[str]] = {}  # where it failed, and why -> cells
    for record in failed:
        place = f"{record.stage or ''} in plugin {record.plugin}" if record.plugin else record.stage or ""
        cells = reasons.setdefault((place, record.reason), [])
        cells.append(f"{record.method} (seed {record.seed})")
    for (place, reason), cells in reasons.items():
        yield f"failed: {', '.join(dict.fromkeys(cells))}: {place}: {reason}"


def interruption(records: Sequence[Record], cells: int, folder: Path) -> str:
    """Return a line that says what an interrupted run has kept. ``cells`` is the number of cells in its plan."""
    kept = sum(record.good for record in records)
    return (
        f"interrupted: {kept} of {cells} cells are measured and kept in {folder}, prepared models and checkpoints in "
        "the cache; the same command continues from here"
    )
