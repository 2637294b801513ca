"""Tables of the verdicts on a paper's claims: one table per status, with the claims that are not reproduced first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.render.console import wide_console
from harness.results.claims.verdicts import STATUSES, TRIED, Status, Verdict, summary

__all__ = ["show"]

_STYLES: dict[Status, str] = {
    "reproduced": "green",
    "within-tolerance": "green",
    "reproduced-fitted": "yellow",
    "holds": "green",
    "not-reproduced": "red",
    "opposite": "red",
    "paper-contradicts-itself": "yellow",
    "undecided": "dim",
    "not-checkable-here": "dim",
}


def show(paper: str, scale: str, verdicts: Sequence[Verdict], console: Console | None = None) -> None:
    """Print ``verdicts``, one table per status, and a line with the counts.

    ``scale`` is the data on which the orderings were tried, or empty for the paper's own data.
    """
    console = console or wide_console()
    console.print(f"[bold]{escape(paper)}[/]")
    if scale:
        console.print(f"Orderings are tried on {escape(scale)}, which is not the papers' data.")
    for status in STATUSES:
        chosen = [verdict for verdict in verdicts if verdict.status == status]
        if chosen:
            heading = f"{status} on {scale}" if scale and status in TRIED else status
            console.print(f"\n[bold {_STYLES[status]}]{escape(heading)}[/]")
            console.print(_table(chosen, {verdict.claim: verdict.table for verdict in verdicts}))
    same = sum(verdict.same_as is not None for verdict in verdicts)
    sums = ", ".join(f"{count} {status}" for status, count in summary(verdicts).items() if count)
    console.print(f"\n{len(verdicts) - same} claims: {sums}")
    if same:
        noun = "claim is" if same == 1 else "claims are"
        console.print(f"{same} further {noun} about a figure that another claim has, and not counted")


def _table(verdicts: Sequence[Verdict], places: Mapping[str, str]) -> Table:
    """Return a table of ``verdicts``. ``places`` has by name of a claim where the paper says it."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for heading, right in (
        ("where", False),
        ("claim", False),
        ("paper", True),
        ("ours", True),
        ("95% interval", True),
        ("training PMACs", True),
        ("±", True),
        ("unit", False),
        ("", False),
    ):
        shown = any(_cells(verdict, places)[heading] for verdict in verdicts)
        if shown:
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
    headings = [column.header for column in table.columns]
    for verdict in verdicts:
        cells = _cells(verdict, places)
        table.add_row(*(escape(cells[str(heading)]) for heading in headings))
    return table


def _cells(verdict: Verdict, places: Mapping[str, str]) -> dict[str, str]:
    return {
        "where": verdict.table,
        "claim": verdict.says,
        "paper": verdict.printed or _number(verdict.published),
        "ours": _number(verdict.ours),
        "95% interval": " to ".join(map(_number, verdict.interval or ())),
        "training PMACs": " : ".join(map(_number, verdict.compute or ())),
        "±": verdict.tolerance,
        "unit": verdict.unit,
        "": "; ".join(
            filter(
                None,
                (
                    verdict.same_as and f"same figure as in {places.get(verdict.same_as, verdict.same_as)}",
                    verdict.why,
                ),
            )
        ),
    }


def _number(value: float | tuple[int, ...] | None) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.5g}" if abs(value) < 1e4 else f"{value:.0f}"
