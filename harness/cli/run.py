"""``harness run``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.cli.common import load, make, suite_options, warn_problems


@click.command("run")
@suite_options
@click.option("--out", type=click.Path(path_type=Path), help="Results folder (results/local/SUITE).")
@click.option("--prepare-only", is_flag=True, help="Train and export; measure nothing.")
@click.option("--fresh", is_flag=True, help="Measure every cell anew; earlier records are set aside.")
@click.option("--retry-flagged", is_flag=True, help="Measure cells again whose record is flagged.")
@click.option("--json", "as_json", is_flag=True, help="Print the leaderboard as JSON, progress to stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Plain lines instead of a live table.")
def command(
    suite: str,
    overrides: tuple[str, ...],
    only: str | None,
    devices: tuple[str, ...],
    block: tuple[str, ...],
    out: Path | None,
    prepare_only: bool,
    fresh: bool,
    retry_flagged: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run SUITE: a YAML file, or the name of a shipped suite (see `harness suites list`).

    Exit code 0: every cell is measured; 1: some cell failed; 2: wrong input; 130: interrupted. A run that
    was stopped goes on where it stood when the same command is given again.
    """
    from harness.errors import SuiteError
    from harness.render import progress, render
    from harness.results.folder import Results
    from harness.results.leaderboard.leaderboard import leaderboard_of
    from harness.run.outcome import Options
    from harness.run.runner import job_count, run
    from harness.store.artifacts import Store
    from harness.store.files import default_cache

    plugins = load(block)
    warn_problems(plugins)
    planned = make(suite, overrides, only, devices, plugins)
    plan, prepare = planned.plan, planned.resolved.suite.prepare
    for missing in (*plan.missing_extras, *plan.missing_data):
        raise SuiteError(missing)
    for warning in plan.warnings:
        click.echo(f"warning: {warning}", err=True)
    folder = out if out is not None else Path("results") / "local" / plan.suite
    results = Results(folder, create=True)
    watcher = progress.watcher(
        plain=quiet or as_json or not sys.stdout.isatty(), stream=sys.stderr if as_json else sys.stdout
    )
    options = Options(
        jobs=job_count(prepare, plan.host),
        threads=prepare.threads,
        processes=prepare.processes,
        prepare_only=prepare_only,
        fresh=fresh,
        retry_flagged=retry_flagged,
    )
    with results.lock():
        try:
            outcome = run(plan, plugins, Store(default_cache()), results, watcher, options)
        except KeyboardInterrupt:
            watcher.close()
            kept = sum(r.good for r in results.latest(current_only=True))
            click.echo(
                f"\ninterrupted: {kept} of {len(plan.cells)} cells are measured and kept in {folder}, prepared "
                "models and checkpoints in the cache; the same command goes on from here",
                err=True,
            )
            return 130
        finally:
            watcher.close()
    for problem in plugins.observed:
        click.echo(f"warning: {problem}", err=True)
    if not prepare_only:
        board = leaderboard_of(
            outcome.records, results.load_samples, rank_by=plan.rank_by, baseline=plan.baseline
        )
        click.echo(render(board, "json" if as_json else "table"))
    _say_failures(outcome, folder, as_json)
    return 1 if outcome.failed or outcome.failed_nodes else 0


def _say_failures(outcome, folder: Path, as_json: bool) -> None:  # type: ignore[no-untyped-def]
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in outcome.failed:
        reasons.setdefault((record.stage or "", record.reason or ""), []).append(
            f"{record.method} (seed {record.seed})"
        )
    for (stage, reason), cells in reasons.items():
        click.echo(f"failed: {', '.join(dict.fromkeys(cells))}: {stage}: {reason}", err=True)
    click.echo(f"records: {folder}", err=as_json)
