"""``harness devices list``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from harness.cli.common import block_option, load


@click.group("devices")
def command() -> None:
    """The devices of this machine."""


@command.command("list")
@block_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(block: tuple[str, ...], as_json: bool) -> None:
    """What every backend and meter finds here, or why it finds nothing and what to do about it."""
    from harness.types import Unavailable

    plugins = load(block)
    found: list[dict[str, Any]] = []
    for registry in (plugins.backends, plugins.meters):
        for registered in registry:
            entry: Any = registered.entry
            try:
                answers = list(entry.probe())
            except Exception as error:  # noqa: BLE001 - one broken backend must not hide the others
                answers = [Unavailable(name=entry.name, reason=f"{type(error).__name__}: {error}")]
            for answer in answers:
                usable = not isinstance(answer, Unavailable)
                found.append({"is": registry.kind, "entry": entry.name, "usable": usable, **asdict(answer)})
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for item in found:
        head = f"{item['is']} {item['entry']}"
        if item["usable"] and item["is"] == "backend":
            memory = item["memory_bytes"] / 2**30
            click.secho(f"{head}: {item['model']}", bold=True)
            click.echo(
                f"  {item['cores']} cores, {memory:.1f} GiB" if item["cores"] else f"  {memory:.1f} GiB"
            )
        elif item["usable"]:
            click.secho(f"{head}: {item['name']} ({item['scope']}, every {item['period_s']} s)", bold=True)
        else:
            click.secho(f"{head}: not usable", fg="yellow")
            click.echo(f"  {item['reason']}" + (f"\n  {item['fix']}" if item["fix"] else ""))
    if not len(plugins.meters):
        click.echo("meters: no installed plugin gives one, so energy is not measured")
