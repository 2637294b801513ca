"""The meters and watches that are read during a cell, on which device, and why a meter is not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import SuiteError
from harness.machine.environment import machine_of
from harness.machine.meters import Meters, fitting
from harness.plan.entries import Entries
from harness.plan.targets import Target
from harness.plugins import Plugins
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.types import DeviceInfo, MeterInfo, MeterUse, Monitor, Unavailable
from harness.types.measure import Measure

__all__ = ["Monitors"]


class Monitors:
    """The monitors of a suite's targets. They are looked up once for each target."""

    def __init__(self, suite: Suite, plugins: Plugins, entries: Entries) -> None:
        self.suite, self.source = suite, suite.source
        self.plugins, self.entries = plugins, entries
        self.meters = Meters(plugins)
        self._known: dict[tuple[str, str], tuple[tuple[Monitor, ...], str]] = {}

    def of(self, target: Target, measure: Measure) -> tuple[tuple[Monitor, ...], str]:
        """Return the monitor of each device of a target, and why a meter is not read.

        Of the devices on one machine, only one reads the machine: the central device if it is there, else the first.

        Raises:
            SuiteError: a meter that the suite names is unknown, or its parameters cannot be right.
        """
        why_none = "energy: off" if measure.energy == "off" else ""
        if measure.generator == "loadgen":
            why_none = "LoadGen prepares and writes within its own run, which is no inference"
        memo = target.name, why_none
        if memo not in self._known:
            self._known[memo] = self._read_beside(target, why_none)
        return self._known[memo]

    def _read_beside(self, target: Target, why_none: str) -> tuple[tuple[Monitor, ...], str]:
        if target.unavailable:
            return (Monitor(),) * len(target.specs), why_none or target.unavailable
        machines = [machine_of(info) for info in target.infos]
        order = sorted(range(len(machines)), key=lambda index: index != target.central)
        readers = {machines[index]: index for index in reversed(order)}
        uses: dict[int, list[MeterUse]] = {}
        reasons: list[str] = []
        if not why_none:
            for machine, index in sorted(readers.items()):
                uses[index], why = self._meters_of(target, machine, machines)
                reasons.append(f"{target.specs[index].name}: {why}" if why and len(readers) > 1 else why)
        monitors = tuple(
            Monitor(
                meters=tuple(uses.get(index, ())),
                watches=self.meters.watches() if readers.get("") == index else {},
            )
            for index in range(len(machines))
        )
        return monitors, why_none or "; ".join(filter(None, reasons))

    def _meters_of(self, target: Target, machine: str, machines: Sequence[str]) -> tuple[list[MeterUse], str]:
        """Return the meters of one machine of a target, and why a meter is not read.

        They are the meters that the suite names. If it names none, they are all meters that answer.
        """
        members = [spec.name for spec, where in zip(target.specs, machines, strict=True) if where == machine]
        infos = [info for info, where in zip(target.infos, machines, strict=True) if where == machine]
        fleet = [target.name] if machine == machines[target.central] else []
        named = [
            name for name in dict.fromkeys((*fleet, *members)) if self.suite.devices[name].meters is not None
        ]
        uses: dict[str, MeterUse] = {}
        absent: list[Unavailable] = []
        for name in named:
            of_fleet = name == target.name and target.fleet and len(set(machines)) > 1
            absent += self._add_named(uses, name, _own_meters(infos), of_fleet)
        if not named and machine:
            uses = _board_meters(infos)
        elif not named:
            answering, absent = self.meters.auto()
            uses = {use.info.name: use for info in infos for use in fitting(answering, info)}
        why = "; ".join(f"{meter.name}: {meter.reason}" for meter in absent)
        if not uses:
            return [], "no meter answers" + (f" ({why})" if why else "")
        return list(uses.values()), f"not read: {why}" if named and why else ""

    def _add_named(
        self, uses: dict[str, MeterUse], name: str, own: Sequence[MeterInfo], of_fleet: bool
    ) -> list[Unavailable]:
        """Add the meters that device or fleet ``name`` names to ``uses``. Return those that do not answer.

        ``own``: meters that the board reads itself. ``of_fleet``: whether the meters watch all devices of a fleet
        together.
        """
        path = ("devices", name, "meters")
        chosen = []
        for index, ref in enumerate(self.suite.devices[name].meters or ()):
            matching = [info for info in own if info.name.partition(":")[0] == ref.name]
            if matching and not ref.params:
                uses |= {info.name: MeterUse(info=info, open="") for info in matching}
                continue
            meter = self.entries.get(self.plugins.meters, ref.name, (*path, index))
            params = validated(meter.entry.params, ref.params, self.source, (*path, index, ref.name))
            chosen.append((meter, params))
        try:
            answering, absent = self.meters.named(chosen)
        except ValueError as error:
            raise SuiteError(f"{self.source.where(*path)}: {error}") from None
        for use in answering:
            use = _of_fleet(use, name) if of_fleet else use
            if uses.setdefault(use.info.name, use).info != use.info:
                raise SuiteError(f"{self.source.where(*path)}: two meters are called {use.info.name}")
        return absent


def _of_fleet(use: MeterUse, fleet: str) -> MeterUse:
    """Return the meter with a mark that it watches all devices of a fleet together."""
    return replace(use, info=replace(use.info, details={**use.info.details, "of_fleet": fleet}))


def _own_meters(infos: Sequence[DeviceInfo]) -> list[MeterInfo]:
    """Return the meters that boards read themselves."""
    return [meter for info in infos for meter in info.meters]


def _board_meters(infos: Sequence[DeviceInfo]) -> dict[str, MeterUse]:
    """Return the meters of a board by name: its own, and external ones that watch it."""
    own = {info.name: MeterUse(info=info, open="") for info in _own_meters(infos)}
    external = [use for info in infos for use in info.external]
    return own | {use.info.name: use for use in external}
