"""The command ``harness leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.common import PathType
from harness.cli.output import echo
from harness.render import FORMATS
from harness.results.collector import paused


@click.command("leaderboard")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=PathType())
@click.option(
    "--format", type=click.Choice(FORMATS), default="table", help="Output format.  [default: table]"
)
@click.option(
    "--sort",
    metavar="COL",
    help="Order the rows by this column, the best value first; -COL: the greatest value first.",
)
@click.option("--columns", metavar="A,B", help="Show these columns, in this order, or 'all'.")
@click.option("--within", metavar="A,B", help="Split tables further, e.g. runtime,precision.")
@click.option(
    "--where", metavar="EXPR", help="Show only rows for which this holds, e.g. 'top-1 > 90 and p50 < 5'."
)
@click.option(
    "--published",
    "published",
    multiple=True,
    metavar="FILE",
    help="Show below the tables the figures that a paper printed, e.g. papers/devit (repeatable).",
)
@click.option(
    "--all", "everything", is_flag=True, help="Show also cells that the folder's last run did not have."
)
@paused()
def command(
    folders: tuple[Path, ...],
    format: str,
    sort: str | None,
    columns: str | None,
    within: str | None,
    where: str | None,
    published: tuple[str, ...],
    everything: bool,
) -> None:
    """Print leaderboards of the records in all DIR together.

    One table has only rows that may be compared: they share task, data set and split, scenario, device model and
    provenance. --within splits the tables further. --where and --sort change no figure. With --sort the tiers are by
    that column, if rows can be tested by it. A column is named by its name or its heading: latency_p50_ms or p50.
    Published figures have tables of their own, in which they are not ranked.
    """
    from harness.errors import SuiteError
    from harness.render import render
    from harness.results.indexed import leaderboard_in
    from harness.results.leaderboard.leaderboard import Leaderboard
    from harness.results.leaderboard.published import find_published, published_tables
    from harness.results.leaderboard.selection import filtered, has_test, sorted_by
    from harness.types.column_names import check_columns, sort_order
    from harness.types.columns import COLUMNS

    ordered = sort_order(sort, "--sort") if sort else None
    chosen = None
    if columns:
        chosen = list(COLUMNS) if columns == "all" else check_columns(_names(columns), "--columns")
    shown = leaderboard_in(
        folders,
        current_only=not everything,
        rank_by=ordered[0] if ordered and has_test(ordered[0]) else None,
        within=_names(within or ""),
    )
    for problem in shown.problems:
        echo(f"warning: {problem}", err=True)
    if shown.left_out:
        cells = f"{shown.left_out} cells" if shown.left_out > 1 else "1 cell"
        echo(f"note: {cells} left out that the folder's last run did not have; --all shows them", err=True)
    if not shown.records:
        raise SuiteError(f"no records in {', '.join(map(str, folders))}")
    printed = [table for name in published for table in published_tables(find_published(name))]
    leaderboard = Leaderboard((*shown.leaderboard.tables, *printed))
    if where:
        leaderboard = filtered(leaderboard, where)
    if ordered:
        name, greatest_first = ordered
        leaderboard = sorted_by(leaderboard, name, greatest_first=greatest_first)
    if leaderboard.tables or format in ("csv", "json"):
        print(render(leaderboard, format, chosen), flush=True)  # it is printable, and may have colours
    else:
        echo(f"no row meets {where}")
    for note in leaderboard.notes:
        echo(f"note: {note}", err=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
