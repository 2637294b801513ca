"""What is read beside each device of a cell: which machine's meters, read by whom, and why one is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import SuiteError
from harness.machine.environment import machine_of
from harness.machine.meters import Meters, fitting
from harness.plugins import Plugins
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.types import MeterInfo, MeterUse, Monitor
from harness.types.measure import Measure

if TYPE_CHECKING:
    from harness.plan.targets import Target

__all__ = ["Monitors"]


def _of_fleet(use: MeterUse, fleet: str) -> MeterUse:
    """A meter that watches all devices of a fleet together."""
    return replace(use, info=replace(use.info, details={**use.info.details, "of_fleet": fleet}))


class Monitors:
    """The monitors of a suite's targets, looked up once each."""

    def __init__(self, suite: Suite, plugins: Plugins) -> None:
        self.suite, self.source = suite, suite.source
        self.plugins = plugins
        self.meters = Meters(plugins)
        self._known: dict[tuple[str, str], tuple[tuple[Monitor, ...], str]] = {}

    def of(self, target: Target, measure: Measure) -> tuple[tuple[Monitor, ...], str]:
        """What is read beside the cells of a target, by device, and why a meter is not.

        A machine is read once, by the first of its devices, the central one before others.

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
        machines = [machine_of(info.details) for info in target.infos]
        order = sorted(range(len(machines)), key=lambda index: index != target.central)
        readers = {machines[index]: index for index in reversed(order)}
        uses: dict[int, list[MeterUse]] = {}
        said: list[str] = []
        if not why_none:
            for machine, index in sorted(readers.items()):
                uses[index], told = self._meters_of(target, machine, machines)
                said.append(f"{target.specs[index].name}: {told}" if told and len(readers) > 1 else told)
        monitors = tuple(
            Monitor(
                meters=tuple(uses.get(index, ())),
                watches=self.meters.watches() if readers.get("") == index else {},
            )
            for index in range(len(machines))
        )
        return monitors, why_none or "; ".join(filter(None, said))

    def _meters_of(self, target: Target, machine: str, machines: Sequence[str]) -> tuple[list[MeterUse], str]:
        """Meters of one machine of a target: those that the suite names, else all that answer."""
        members = [spec.name for spec, where in zip(target.specs, machines, strict=True) if where == machine]
        infos = [info for info, where in zip(target.infos, machines, strict=True) if where == machine]
        given = [MeterInfo(**one) for info in infos for one in info.details.get("meters", ())]
        fleet = [target.name] if machine == machines[target.central] else []
        named = [
            name for name in dict.fromkeys((*fleet, *members)) if self.suite.devices[name].meters is not None
        ]
        uses: dict[str, MeterUse] = {}
        absent = []
        for name in named:
            path = ("devices", name, "meters")
            chosen = []
            for index, ref in enumerate(self.suite.devices[name].meters or ()):
                own = [one for one in given if one.name.partition(":")[0] == ref.name]
                if own and not ref.params:
                    uses |= {one.name: MeterUse(info=one, open="") for one in own}
                    continue
                meter = self.plugins.meters.get(ref.name, self.source.where(*path, index))
                params = validated(meter.entry.params, ref.params, self.source, (*path, index, ref.name))
                chosen.append((meter, params))
            try:
                found, missing = self.meters.named(chosen)
            except ValueError as error:
                raise SuiteError(f"{self.source.where(*path)}: {error}") from None
            if name == target.name and target.fleet and len(set(machines)) > 1:
                found = [_of_fleet(use, name) for use in found]
            for use in found:
                if uses.setdefault(use.info.name, use).info != use.info:
                    raise SuiteError(f"{self.source.where(*path)}: two meters are called {use.info.name}")
            absent += missing
        if not named and machine:
            external = [one for info in infos for one in info.details.get("external", ())]
            uses = {one.name: MeterUse(info=one, open="") for one in given} | {
                one["info"]["name"]: MeterUse(info=MeterInfo(**one["info"]), open=one["open"])
                for one in external
            }
        elif not named:
            found, absent = self.meters.auto()
            uses = {use.info.name: use for info in infos for use in fitting(found, info)}
        told = "; ".join(f"{one.name}: {one.reason}" for one in absent)
        if not uses:
            return [], "no meter answers" + (f" ({told})" if told else "")
        return list(uses.values()), f"not read: {told}" if named and told else ""
