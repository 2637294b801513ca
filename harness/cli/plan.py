"""``harness plan``."""

from __future__ import annotations

import json

import click

from harness.cli.common import load, make, suite_options, warn_problems


@click.command("plan")
@suite_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON.")
def command(
    suite: str,
    overrides: tuple[str, ...],
    only: str | None,
    devices: tuple[str, ...],
    block: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the steps and cells that running SUITE takes, and which steps are prepared already."""
    from harness.artifacts import Store, default_cache
    from harness.render.plan import show

    plugins = load(block)
    warn_problems(plugins)
    _, plan = make(suite, overrides, only, devices, plugins)
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=1))
        return
    store = Store(default_cache())
    show(plan, {key for key in plan.nodes if store.has(key)})
    for warning in (*plan.warnings, *plan.missing_data, *plan.missing_extras):
        click.echo(f"warning: {warning}", err=True)
