"""The command ``harness run``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from harness.cli.common import (
    PathType,
    SuiteChoice,
    load,
    make,
    progress_options,
    results_folder,
    suite_options,
    warn_problems,
)
from harness.cli.output import echo


@click.command("run")
@suite_options
@click.option("--out", type=PathType(), help="Results folder (results/local/SUITE).")
@click.option("--prepare-only", is_flag=True, help="Train and export; measure nothing.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Measure all cells again, or those that --only and --device name; their records are set aside.",
)
@click.option("--retry-flagged", is_flag=True, help="Measure again the cells whose record is flagged.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the leaderboard as JSON, and the progress to stderr."
)
@progress_options
def command(
    chosen: SuiteChoice,
    out: Path | None,
    prepare_only: bool,
    fresh: bool,
    retry_flagged: bool,
    as_json: bool,
    quiet: bool,
    plain: bool,
    traceback: bool,
) -> int:
    """Run SUITE: a YAML file, or the name of a shipped suite (see `harness suites list`).

    Exit code 0: every cell is measured; 1: a cell failed, or the data of some cells are not here; 2: the input is
    wrong, or the data of all cells are not here; 130: Ctrl-C; 143 and 129: SIGTERM and SIGHUP. To continue a run that
    stopped, give the same command again, without --fresh.
    """
    from harness.render import progress, render
    from harness.render.outcome import absence_lines, failure_lines, interruption
    from harness.run.made_by import MadeBy
    from harness.run.outcome import Options
    from harness.run.runner import run_suite
    from harness.store.artifacts import Store
    from harness.store.files import default_cache
    from harness.suite.loading import suite_text
    from harness.suite.shipped import find_suite

    plugins = load(chosen.block)
    warn_problems(plugins)
    planned = make(chosen, plugins)
    plan = planned.plan
    some = not all(cell.skipped for cell in plan.cells)  # else the absent data are the error of the run
    for warning in (*plan.warnings, *(plan.missing_data if some else ())):
        echo(f"warning: {warning}", err=True)
    folder = out if out is not None else results_folder(plan.suite)
    stream = sys.stderr if as_json else sys.stdout
    watcher = progress.watcher(stream, quiet=quiet, plain=plain or as_json)
    options = Options(
        prepare_only=prepare_only,
        fresh=fresh,
        retry_flagged=retry_flagged,
        selection=chosen.selection,
        traceback=traceback,
        made_by=MadeBy(
            suite_text(find_suite(chosen.suite), chosen.overrides), shlex.join(["harness", *sys.argv[1:]])
        ),
    )
    store = Store(default_cache(), watcher.noted)
    outcome = run_suite(planned, plugins, store, folder, watcher, options)
    if outcome.interrupted is not None:
        reason = outcome.interrupted.reason
        echo(interruption(reason, outcome.records, len(plan.cells), folder, fresh=fresh), err=True)
        return outcome.exit_code
    for problem in plugins.observed:
        echo(f"warning: {problem}", err=True)
    if outcome.leaderboard is not None:
        print(render(outcome.leaderboard, "json" if as_json else "table"), flush=True)
    for line in (*failure_lines(outcome.failed, folder), *absence_lines(outcome.without_data)):
        echo(line, err=True)
    echo(f"records: {folder}", err=as_json)
    return outcome.exit_code
