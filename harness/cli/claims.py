"""The command ``harness claims``."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.common import PathType, SuiteChoice, block_option, load, make, warn_problems
from harness.cli.output import echo, echo_json


@click.command("claims")
@click.argument("suite")
@click.argument("folder", required=False, metavar="[DIR]", type=PathType())
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the suite, as for the run that made DIR.",
)
@block_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    suite: str, folder: Path | None, overrides: tuple[str, ...], block: tuple[str, ...], as_json: bool
) -> int:
    """Print the verdict on every claim of SUITE's paper; DIR is a results folder of SUITE.

    Counts come from the modules that the plugins build. Accuracies, latencies and comparisons of methods come from
    the records in DIR. Exit code 0: no claim is not-reproduced or opposite. Exit code 1: at least one claim is.
    """
    from harness.render import claims as render
    from harness.results.claims.evidence import Evidence
    from harness.results.claims.load import load_claims
    from harness.results.claims.verdicts import FAILED, Judge, summary
    from harness.suite.shipped import find_suite

    plugins = load(block)
    warn_problems(plugins)
    planned = make(SuiteChoice(suite, overrides), plugins)
    claims = load_claims(find_suite(suite), planned.resolved.suite)
    evidence = Evidence(folder, planned.plan.suite) if folder is not None else None
    for problem in evidence.results.problems if evidence is not None else ():
        echo(f"warning: {problem}", err=True)
    verdicts = list(Judge(claims, planned, evidence).verdicts())
    if as_json:
        document = {
            "suite": planned.plan.suite,
            "paper": claims.paper,
            "scale": claims.scale,
            "claims": [verdict.to_json() for verdict in verdicts],
        }
        echo_json({**document, "summary": summary(verdicts)})
    else:
        render.show(claims.paper, claims.scale, verdicts)
    return 1 if any(verdict.status in FAILED and verdict.same_as is None for verdict in verdicts) else 0
