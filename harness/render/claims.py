"""Tables of the verdicts on a paper's claims: one table per status, with the claims that are not reproduced first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.render.console import wide_console
from harness.results.claims.verdicts import STATUSES, Verdict

__all__ = ["counts", "show"]

_STYLES = {
    "reproduced": "green",
    "not-reproduced": "red",
    "paper-contradicts-itself": "yellow",
    "not-checkable-here": "dim",
}


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return how many claims have each status."""
    return {status: sum(verdict.status == status for verdict in verdicts) for status in STATUSES}


def show(paper: str, verdicts: Sequence[Verdict], console: Console | None = None) -> None:
    """Print ``verdicts``, one table per status, and a line with the counts."""
    console = console or wide_console()
    console.print(f"[bold]{escape(paper)}[/]")
    for status in STATUSES:
        chosen = [verdict for verdict in verdicts if verdict.status == status]
        if chosen:
            console.print(f"\n[bold {_STYLES[status]}]{status}[/]")
            console.print(_table(chosen))
    sums = ", ".join(f"{count} {status}" for status, count in counts(verdicts).items() if count)
    console.print(f"\n{len(verdicts)} claims: {sums}")


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for heading, right in (
        ("where", False),
        ("claim", False),
        ("paper", True),
        ("ours", True),
        ("±", True),
        ("unit", False),
        ("", False),
    ):
        shown = any(_cells(verdict)[heading] for verdict in verdicts)
        if shown:
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
    headings = [column.header for column in table.columns]
    for verdict in verdicts:
        cells = _cells(verdict)
        table.add_row(*(escape(cells[str(heading)]) for heading in headings))
    return table


def _cells(verdict: Verdict) -> dict[str, str]:
    return {
        "where": verdict.table,
        "claim": verdict.says,
        "paper": _number(verdict.published),
        "ours": _number(verdict.ours),
        "±": verdict.tolerance,
        "unit": verdict.unit,
        "": verdict.why,
    }


def _number(value: float | tuple[int, ...] | None) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.5g}" if abs(value) < 1e4 else f"{value:.0f}"
