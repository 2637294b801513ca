"""``harness leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

from harness.render import FORMATS


@click.command("leaderboard")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(FORMATS), default="table", help="Default: table.")
@click.option("--sort", metavar="COL", help="Order the rows by this column instead of by rank.")
@click.option("--columns", metavar="A,B", help="These columns, in this order, or 'all'.")
@click.option("--within", metavar="A,B", help="Split boards further, e.g. runtime,precision.")
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
    """Leaderboards from the records in DIR..., merged.

    Only what may be compared stands on one board: same task, data set and split, scenario, device
    model and provenance. --within splits further; --where and --sort change no figure and no tier.
    Published figures stand on boards of their own and are not ranked.
    """
    from harness.errors import SuiteError
    from harness.render import render
    from harness.results.folder import Results
    from harness.results.leaderboard.leaderboard import Leaderboard, boards, sorted_by
    from harness.results.leaderboard.published import find_published, published_boards
    from harness.types.columns import COLUMNS, check_columns
    from harness.types.record import Record

    if sort:
        check_columns([sort], "--sort")
    chosen = None
    if columns:
        chosen = list(COLUMNS) if columns == "all" else check_columns(_names(columns), "--columns")
    owner: dict[tuple[str, str, str], Results] = {}
    view: dict[tuple[str, str, str], Record] = {}
    for folder in folders:
        results = Results(folder)
        if problems := results.scan()[1]:
            click.echo(
                f"warning: {folder}: {len(problems)} bad lines left out; see `harness results validate`",
                err=True,
            )
        for record in results.latest(current_only=not everything):
            known = view.get(record.identity)
            if known is None or (record.good, record.attempt) > (known.good, known.attempt):
                view[record.identity], owner[record.identity] = record, results
    if not view:
        raise SuiteError(f"no records in {', '.join(map(str, folders))}")
    found = boards(
        view.values(),
        lambda record: owner[record.identity].load_samples(record),
        within=_names(within or ""),
        where=where,
    )
    printed = [board for name in published for board in published_boards(find_published(name), where)]
    found = Leaderboard((*found.boards, *printed))
    if not found.boards and format not in ("csv", "json"):
        click.echo(f"no row for which {where}")
        return
    click.echo(render(sorted_by(found, sort) if sort else found, format, chosen))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
