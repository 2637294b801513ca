"""The commands of ``harness results``: check, show and publish records."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import PathType
from harness.cli.output import echo, echo_json
from harness.render.counted import counted

if TYPE_CHECKING:
    from harness.results.folder import Results
    from harness.types.record import Record


@click.group("results")
def command() -> None:
    """Check, show and publish records."""


@command.command("validate")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=PathType())
def validate(folders: tuple[Path, ...]) -> int:
    """Check records and samples against their checksums.

    Exit code 0: there is no problem. Exit code 1: there are problems, which are printed one per line.
    """
    from harness.results.folder import Results

    total = 0
    for folder in folders:
        results = Results(folder)
        problems = results.validate()
        for problem in problems:
            echo(problem)
        total += len(problems)
        records = results.records()
        cells = len({record.identity for record in records})
        facts = ((len(records), "record"), (cells, "cell"), (len(problems), "problem"))
        of_records, of_cells, of_problems = (counted(number, noun) for number, noun in facts)
        echo(f"{folder}: {of_records} of {of_cells}, {of_problems}")
    return 1 if total else 0


@command.command("show")
@click.argument("folder", metavar="DIR", type=PathType())
@click.argument("which", required=False, metavar="[CELL|METHOD]")
@click.option("--json", "as_json", is_flag=True, help="Print the records themselves as JSON.")
def show(folder: Path, which: str | None, as_json: bool) -> None:
    """Show one record in full, or list all.

    CELL is the id of a cell, or its beginning. Without CELL or METHOD, all records are listed. If METHOD has several
    cells, one cell of the last run is shown and the others are listed. Cells that the last run did not have are
    marked.
    """

    from harness.render.record import describe, listing
    from harness.results.folder import Results

    results = Results(folder)
    records = results.latest()
    last_run = {record.cell_id for record in results.latest(current_only=True)}
    earlier = {record.cell_id for record in records} - last_run
    chosen = records if which is None else _matching(records, which, results, earlier)
    if as_json:
        echo_json([record.dump() for record in chosen], indent=2)
    elif which is None:
        echo(listing(chosen, earlier))
    else:
        if (problem := results.samples.problem(chosen[0])) is not None:
            echo(f"warning: {problem}", err=True)
        echo(describe(chosen[0], {} if problem else results.load_samples(chosen[0]), earlier))
        if len(chosen) > 1:
            echo("\n" + listing(chosen[1:], earlier))


@command.command("publish")
@click.argument("folder", metavar="DIR", type=PathType())
@click.argument("machine")
@click.option(
    "--to",
    "root",
    type=PathType(),
    default=Path("results/published"),
    help="The folder of published results.  [default: results/published]",
)
def publish(folder: Path, machine: str, root: Path) -> int:
    """Copy the last run in DIR to results/published/MACHINE/SUITE, and check the copy.

    MACHINE is a short name of the machine, such as xeon-2-cores. An earlier copy is replaced. Records and raw samples
    are copied as they are. Locks, tracebacks and records of earlier runs are left out. Exit code 1: the copy has
    problems, which are printed one per line.
    """
    from harness.results.sharing.check import check_published
    from harness.results.sharing.privacy import local_names
    from harness.results.sharing.publish import publish as copy

    target = copy(folder, machine, root)
    problems = check_published(root, names=local_names())
    for problem in problems:
        echo(problem)
    echo(f"{target}: {'copied, but not ready for a pull request' if problems else 'published'}")
    return 1 if problems else 0


@command.command("check-submission")
@click.argument("root", metavar="DIR", type=PathType())
@click.option("--base", metavar="DIR", type=PathType(), help="The published results before the submission.")
def check_submission(root: Path, base: Path | None) -> int:
    """Check DIR, a folder of published results, as a pull request with results is checked.

    The check reads only regular files of limited size. With --base, the submission may change the folder of one
    machine, and no record that was published before. Exit code 0: there is no problem. Exit code 1: there are
    problems, which are printed one per line.
    """
    from harness.results.sharing.check import check_changes, check_published
    from harness.results.sharing.privacy import local_names

    problems = check_published(root, names=local_names())
    if not problems and base is not None:
        problems = check_changes(base, root)
    for problem in problems:
        echo(problem)
    echo(f"{root}: {counted(len(problems), 'problem')}")
    return 1 if problems else 0


def _matching(
    records: Sequence[Record], which: str, results: Results, earlier: Container[str]
) -> list[Record]:
    from harness.errors import SuiteError, nearest

    matching = [r for r in records if r.method == which] or [
        r for r in records if r.cell_id.startswith(which)
    ]
    if not matching:
        known = nearest(which, {record.method for record in records})
        raise SuiteError(f"{results.folder}: no cell and no method {which!r}: {known}")
    # a changed method has other cells: those before the change are in the folder, and describe other code
    return sorted(matching, key=lambda r: (r.cell_id in earlier, not r.good, r.seed, r.repeat))
