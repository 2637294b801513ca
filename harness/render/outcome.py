"""Lines for a person about the outcome of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.render.counted import counted
from harness.results.unnamed import unnamed
from harness.types.plan import Cell
from harness.types.record import Record

__all__ = ["absence_lines", "failure_lines", "interruption"]


def failure_lines(failed: Iterable[Record], folder: Path) -> Iterator[str]:
    """Yield one line for each reason why cells failed, with the file that has the traceback, in ``folder``."""
    reasons: dict[tuple[str, str], list[str]] = {}  # where it failed, and why -> cells
    traces: dict[tuple[str, str], str] = {}
    for record in failed:
        plugin = unnamed(record.plugin, record.reason)
        place = (record.stage or "") + (f" in plugin {plugin}" if plugin else "")
        cells = reasons.setdefault((place, record.reason), [])
        if record.traceback:
            traces.setdefault((place, record.reason), f" (traceback: {folder / record.traceback})")
        cells.append(f"{record.method} (seed {record.seed})")
    for (place, reason), cells in reasons.items():
        trace = traces.get((place, reason), "")
        yield f"failed: {', '.join(dict.fromkeys(cells))}: {place}: {reason}{trace}"


def absence_lines(cells: Iterable[Cell]) -> Iterator[str]:
    """Yield one line for each reason why the data of ``cells`` are not here, with their number and their methods."""
    reasons: dict[str, list[Cell]] = {}
    for cell in cells:
        reasons.setdefault(cell.absent or "", []).append(cell)
    for reason, without in reasons.items():
        methods = list(dict.fromkeys(cell.method for cell in without))
        more = [f"{len(methods) - 3} more methods"] if len(methods) > 4 else []
        names = ", ".join([*methods[: 3 if more else 4], *more])
        yield f"skipped: {counted(len(without), 'cell')} of {names}: {reason}"


def interruption(
    reason: str, records: Sequence[Record], cells: int, folder: Path, *, fresh: bool = False
) -> str:
    """Return a line that says why a run ended early, what it has kept, and which command continues it.

    ``cells`` is the number of its cells. With ``fresh`` the same command would set the kept records aside.
    """
    kept = sum(record.good for record in records)
    return (
        f"{reason or 'nobody reads the output'}: {kept} of {cells} cells are measured and kept in {folder}, prepared models and checkpoints in "
        f"the cache; the same command{' without --fresh' if fresh else ''} continues from here"
    )
