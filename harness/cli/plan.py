"""The command ``harness plan``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from harness.cli.common import SuiteChoice, load, make, results_folder, suite_options, warn_problems
from harness.cli.output import echo, echo_json

if TYPE_CHECKING:
    from harness.plan.estimate import Assumptions
    from harness.plan.planner import Planned
    from harness.results.sensitivity import Sensitivity


@click.command("plan")
@suite_options
@click.option("--estimate", is_flag=True, help="Estimate latency and memory from the devices' profiles.")
@click.option("--profile", metavar="FILE|NAME", help="With --estimate: this profile for every device.")
@click.option(
    "--link", metavar="MBPS,MS", help="With --estimate: rate and round trip of every link, e.g. 16,1."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON.")
def command(
    chosen: SuiteChoice, estimate: bool, profile: str | None, link: str | None, as_json: bool
) -> None:
    """Show the steps and cells that running SUITE takes, and which differences its comparison can show.

    Steps that are prepared already are marked. How much accuracy and latency vary is taken from results/local/SUITE if
    that is there.
    """
    from harness.plan.estimate import estimates
    from harness.render.estimate import show_estimates
    from harness.render.plan import show
    from harness.render.sensitivity import sensitivity_lines
    from harness.store.artifacts import Store
    from harness.store.files import default_cache

    if not estimate and (profile or link):
        raise click.UsageError("--profile and --link go with --estimate")
    assumed = _assumed(profile, link)
    plugins = load(chosen.block)
    warn_problems(plugins)
    planned = make(chosen, plugins)
    plan = planned.plan
    store = Store(default_cache())
    estimated = estimates(planned, store, assumed) if estimate else []
    power = _power(planned)
    if as_json:
        extra = {"estimates": [asdict(estimate) for estimate in estimated]} if estimate else {}
        echo_json({**plan.to_json(), "sensitivity": power.to_json() if power else None, **extra})
        return
    show(plan, {key for key in plan.nodes if store.has(key)})
    for line in sensitivity_lines(power) if power else ():
        echo(line)
    if estimate:
        show_estimates(estimated)
    for warning in (*plan.warnings, *plan.missing_data, *plan.missing_extras):
        echo(f"warning: {warning}", err=True)


def _power(planned: Planned) -> Sensitivity | None:
    """Return what the plan can show. If the suite's results cannot be read, a warning says so, and none are used."""
    from harness.errors import StorageError
    from harness.results.sensitivity import sensitivity

    try:
        return sensitivity(planned, results_folder(planned.plan.suite))
    except StorageError as error:
        echo(f"warning: {error}", err=True)
        return sensitivity(planned, None)


def _assumed(profile: str | None, link: str | None) -> Assumptions:
    from pydantic import ValidationError

    from harness.plan.estimate import Assumptions
    from harness.plan.profiles.profile import Link
    from harness.plan.profiles.stored import load_profile

    linked = None
    if link is not None:
        try:
            rate, rtt = map(float, link.split(","))
            linked = Link(rate_mbps=rate, rtt_ms=rtt)
        except (ValueError, ValidationError):
            raise click.UsageError(
                f"--link {link}: write MBPS,MS: megabits per second above 0, milliseconds"
            ) from None
    return Assumptions(profile=load_profile(profile) if profile else None, link=linked)
