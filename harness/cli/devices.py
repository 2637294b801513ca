"""The command ``harness devices list``. Plugins add further commands to the group."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from harness.cli.common import block_option, load
from harness.cli.plugin_commands import PluginGroup
from harness.types.json import JsonObject


@click.group("devices", cls=PluginGroup, points="harness.commands.devices")
def command() -> None:
    """List the devices of this machine, and work with boards."""


@command.command("list")
@block_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(block: tuple[str, ...], as_json: bool) -> None:
    """List what every backend and meter finds here.

    If a backend or meter finds nothing, the reason and the remedy are printed. A watch reads the machine's state:
    temperatures, clocks, causes of throttling.
    """
    from harness.errors import first_line
    from harness.machine.meters import Meters, answers
    from harness.types import Unavailable

    plugins = load(block)
    items: list[JsonObject] = []
    for registered in plugins.backends:
        try:
            probed = list(registered.entry.probe())
        except Exception as error:  # noqa: BLE001 - one broken backend must not hide the others
            probed = [Unavailable(name=registered.entry.name, reason=first_line(error, kind=True))]
        items += [_item("backend", registered.entry.name, device) for device in probed]
    for meter in plugins.meters:
        try:
            metered = answers(meter)
        except ValueError as error:
            metered = [Unavailable(name=meter.entry.name, reason=str(error))]
        items += [_item("meter", meter.entry.name, info) for info in metered]
    for name, state in Meters(plugins).snapshot().items():
        if isinstance(state, Unavailable):
            items.append(_item("watch", name, state))
        else:
            items.append({"is": "watch", "entry": name, "usable": True, "signals": dict(state)})
    if as_json:
        click.echo(json.dumps(items, indent=1))
        return
    for item in items:
        _show(item)


def _item(kind: str, entry: str, answer: Any) -> JsonObject:
    from harness.types import Unavailable

    return {"is": kind, "entry": entry, "usable": not isinstance(answer, Unavailable), **asdict(answer)}


def _show(item: JsonObject) -> None:
    head = f"{item['is']} {item['entry']}"
    if not item["usable"]:
        click.secho(f"{head}: not usable", fg="yellow")
        click.echo(f"  {item['reason']}" + (f"\n  {item['fix']}" if item["fix"] else ""))
    elif item["is"] == "backend":
        memory = f"{item['memory_bytes'] / 2**30:.1f} GiB"
        click.secho(f"{head}: {item['model']}", bold=True)
        click.echo(f"  {item['cores']} cores, {memory}" if item["cores"] else f"  {memory}")
    elif item["is"] == "meter":
        click.secho(f"{head}: {item['name']}", bold=True)
        error = f"{item['calibration']:.2%}" if item["calibration"] is not None else "not stated"
        averaged = f", the mean over {item['averaging_s']:g} s" if item["averaging_s"] else ""
        click.echo(
            f"  {item['quantity']} of the {item['scope']}, {item['provenance']}, new every {item['period_s']:g} s"
            f"{averaged}; error {error}"
        )
    else:
        signals = ", ".join(f"{key} {_plain(value)}" for key, value in item["signals"].items())
        click.secho(f"{head}: {signals}", bold=True)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
