"""The command ``harness leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

from harness.render import FORMATS


@click.command("leaderboard")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(FORMATS), default="table", help="Default: table.")
@click.option("--sort", metavar="COL", help="Order the rows by this column instead of by rank.")
@click.option("--columns", metavar="A,B", help="These columns, in this order, or 'all'.")
@click.option("--within", metavar="A,B", help="Split tables further, e.g. runtime,precision.")
@click.option(
    "--where",
    metavar="EXPR",
    help="Show only rows for which this holds, e.g. 'top1 > 90 and latency_p50_ms < 5'.",
)
@click.option(
    "--published",
    "published",
    multiple=True,
    metavar="FILE",
    help="Below them, what a paper printed, e.g. papers/devit (repeatable).",
)
@click.option("--all", "everything", is_flag=True, help="Also cells that the folder's last run did not have.")
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
    provenance. --within splits the tables further. --where and --sort change no figure and no tier. Published figures
    have tables of their own, in which they are not ranked.
    """
    from harness.errors import SuiteError
    from harness.render import render
    from harness.results.folder import Results
    from harness.results.leaderboard.leaderboard import Leaderboard, leaderboard_of, sorted_by
    from harness.results.leaderboard.published import find_published, published_tables
    from harness.results.merged import Merged
    from harness.types.columns import COLUMNS, check_columns

    if sort:
        check_columns([sort], "--sort")
    chosen = None
    if columns:
        chosen = list(COLUMNS) if columns == "all" else check_columns(_names(columns), "--columns")
    opened = [Results(folder) for folder in folders]
    for results in opened:
        if problems := results.scan()[1]:
            click.echo(
                f"warning: {results.folder}: {len(problems)} bad lines left out; see `harness results validate`",
                err=True,
            )
    merged = Merged(opened, current_only=not everything)
    if not merged.records:
        raise SuiteError(f"no records in {', '.join(map(str, folders))}")
    measured = leaderboard_of(merged.records, merged.load_samples, within=_names(within or ""), where=where)
    printed = [table for name in published for table in published_tables(find_published(name), where)]
    leaderboard = Leaderboard((*measured.tables, *printed))
    if not leaderboard.tables and format not in ("csv", "json"):
        click.echo(f"no row for which {where}")
        return
    click.echo(render(sorted_by(leaderboard, sort) if sort else leaderboard, format, chosen))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
