"""The command ``harness devices list``. Plugins add further commands to the group."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import block_option, load
from harness.cli.output import echo, echo_json
from harness.cli.plugin_commands import PluginGroup
from harness.render.counted import counted

if TYPE_CHECKING:
    from harness.types import DeviceInfo, MeterInfo, Unavailable
    from harness.types.json import JsonObject, Signals


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
    from harness.contracts.devices import checked_all
    from harness.errors import HarnessError
    from harness.machine.meters import Meters, answers
    from harness.types import Unavailable

    plugins = load(block)
    items: list[_Item] = []
    for registered in plugins.backends:
        name = registered.entry.name
        try:
            with plugins.backends.calling(name, "probe", may_refuse=False):
                probed = checked_all(plugins.backends.need(name), registered.entry.probe(), "probe")
        except HarnessError as error:  # one broken backend must not hide the others
            probed = [Unavailable(name=name, reason=str(error))]
        items += [_Item("backend", name, device) for device in probed]
    for meter in plugins.meters:
        try:
            metered = answers(meter)
        except ValueError as error:
            metered = [Unavailable(name=meter.entry.name, reason=str(error))]
        items += [_Item("meter", meter.entry.name, info) for info in metered]
    for name, state in Meters(plugins).snapshot().items():
        items.append(_Item("watch", name, state if isinstance(state, Unavailable) else _Read(dict(state))))
    if as_json:
        echo_json([item.to_json() for item in items])
        return
    for item in items:
        _show(item)


@dataclass(frozen=True)
class _Read:
    """The signals that a watch read."""

    signals: Signals


@dataclass(frozen=True)
class _Item:
    """A line of the list: the kind and the name of an entry, and the things that the entry found."""

    kind: str
    entry: str
    found: DeviceInfo | MeterInfo | _Read | Unavailable

    def to_json(self) -> JsonObject:
        from harness.types import Unavailable

        usable = not isinstance(self.found, Unavailable)
        return {"is": self.kind, "entry": self.entry, "usable": usable, **asdict(self.found)}


def _show(item: _Item) -> None:
    from harness.types import DeviceInfo, MeterInfo, Unavailable

    head, found = f"{item.kind} {item.entry}", item.found
    if isinstance(found, Unavailable):
        echo(f"{head}: not usable", fg="yellow")
        echo(f"  {found.reason}" + (f"\n  {found.fix}" if found.fix else ""))
    elif isinstance(found, DeviceInfo):
        memory = f"{found.memory_bytes / 2**30:.1f} GiB"
        echo(f"{head}: {found.model}", bold=True)
        echo(f"  {counted(found.cores, 'core')}, {memory}" if found.cores else f"  {memory}")
    elif isinstance(found, MeterInfo):
        echo(f"{head}: {found.name}", bold=True)
        error = f"{found.calibration:.2%}" if found.calibration is not None else "not stated"
        averaged = f", the mean over {found.averaging_s:g} s" if found.averaging_s else ""
        echo(
            f"  {found.quantity} of the {found.scope}, {found.provenance}, new every {found.period_s:g} s"
            f"{averaged}; error {error}"
        )
    else:
        signals = ", ".join(f"{key} {_plain(value)}" for key, value in found.signals.items())
        echo(f"{head}: {signals}", bold=True)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
