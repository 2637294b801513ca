"""Find the meters and watches that answer, and those that the cells of a device read.

Planning uses this module. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.contracts.meters import checked_meters, checked_signals
from harness.contracts.need import needing
from harness.errors import BrokenContract, first_line
from harness.machine import state
from harness.plugins import Plugins
from harness.registry import Registered
from harness.types import DeviceInfo, MeterEntry, MeterInfo, MeterUse, Monitor, Params, Unavailable, Watch
from harness.types.json import Signals
from harness.types.plain import function_name

__all__ = ["Found", "Meters", "answers", "fitting"]

Found = tuple[list[MeterUse], list[Unavailable]]
"""The meters that answer, and the meters that do not, with the reasons."""


def answers(
    registered: Registered[MeterEntry], params: Params | None = None
) -> list[MeterInfo | Unavailable]:
    """Return the meters that an entry finds, with the suite's parameters ``params`` or, if None, by itself.

    A meter at another host is opened there once, since only that host knows whether it answers.

    Raises:
        ValueError: ``params`` cannot be right. No other error is raised.
    """
    entry, need = registered.entry, needing(f"meter {registered.entry.name!r}", registered.origin.plugin)
    if registered.not_installed is not None and not getattr(params, "host", ""):
        reason, _, fix = registered.not_installed.partition(": ")
        return [Unavailable(name=entry.name, reason=reason, fix=fix)]
    try:
        if entry.describe is not None and params is not None:
            infos = checked_meters(need, entry.describe(params), "describe")
        else:
            infos = checked_meters(need, entry.probe(), "probe")
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one broken meter must not hide the others
        kind = not isinstance(error, BrokenContract)
        return [
            Unavailable(name=entry.name, reason=f"plugin {registered.origin}: {first_line(error, kind=kind)}")
        ]
    return [
        _at_its_host(info, entry) if isinstance(info, MeterInfo) and info.host else info for info in infos
    ]


def _at_its_host(info: MeterInfo, entry: MeterEntry) -> MeterInfo | Unavailable:
    """Open a meter at its host, and return its description or why it does not answer."""
    from harness.machine.sampler import Sampler  # no other part of planning needs it

    sampler = Sampler(Monitor(meters=(MeterUse(info=info, open=function_name(entry.open)),)))
    try:
        problems = [*sampler.ready().values(), *sampler.problems()]
    finally:
        sampler.close()
    if not problems:
        return info
    return Unavailable(
        name=info.name,
        reason=f"at {info.host}: {problems[0]}",
        fix=f"`ssh {info.host} python3 -m harness.machine.reader` must start without a password",
    )


class Meters:
    """The meters and watches that are read during the cells of one suite. They are looked up once."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._auto: Found | None = None
        self._watches = {"linux": state.watch} | {
            registered.entry.name: registered.entry.watch
            for registered in plugins.meters
            if registered.entry.watch is not None and registered.not_installed is None
        }
        self._seen: dict[str, Signals | Unavailable] | None = None

    def auto(self) -> Found:
        """Return the meters that answer without parameters, and those that do not answer, with the reasons."""
        if self._auto is None:
            uses: list[MeterUse] = []
            absent: list[Unavailable] = []
            for registered in self._plugins.meters:
                try:
                    infos = answers(registered)
                except ValueError as error:
                    infos = [Unavailable(name=registered.entry.name, reason=str(error))]
                _sort(infos, registered.entry, uses, absent)
            self._auto = uses, absent
        return self._auto

    def named(self, chosen: Iterable[tuple[Registered[MeterEntry], Params]]) -> Found:
        """Return the meters that a suite names, and those of them that do not answer, with the reasons.

        Raises:
            ValueError: a meter's parameters cannot be right.
        """
        uses: list[MeterUse] = []
        absent: list[Unavailable] = []
        for registered, params in chosen:
            _sort(answers(registered, params), registered.entry, uses, absent)
        return uses, absent

    def watches(self) -> Mapping[str, str]:
        """Return the watches that know something of this machine: name -> "module:function".

        A watch that fails is included, so that the failure appears in records.
        """
        return {name: function_name(self._watches[name]) for name in self.snapshot()}

    def snapshot(self) -> Mapping[str, Signals | Unavailable]:
        """Return the signals that each watch read when it was looked up, or why it read nothing.

        Each watch is closed again.
        """
        if self._seen is None:
            self._seen = {}
            for name, function in self._watches.items():
                try:
                    opened = function()
                    if opened is not None:
                        self._seen[name] = _read_once(opened)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - a watch's library may raise anything
                    self._seen[name] = Unavailable(name=name, reason=first_line(error, kind=True))
        return self._seen

    def tells_temperature(self) -> bool:
        """Return whether a watch reads a temperature."""
        states = self.snapshot().values()
        return any("temperature_c" in state for state in states if not isinstance(state, Unavailable))


def _read_once(watch: Watch) -> Signals:
    try:
        return checked_signals(watch())
    finally:
        if close := getattr(watch, "close", None):
            close()


def fitting(uses: Sequence[MeterUse], info: DeviceInfo) -> list[MeterUse]:
    """Return the meters that measure this device. A meter of another GPU does not."""
    return [
        use
        for use in uses
        if use.info.scope != "gpu"
        or (info.kind == "cuda" and use.info.watches.partition("/")[0] == info.watched_as)
    ]


def _sort(
    infos: Iterable[MeterInfo | Unavailable],
    entry: MeterEntry,
    uses: list[MeterUse],
    absent: list[Unavailable],
) -> None:
    """Put meters that answer into ``uses``, and the others into ``absent``."""
    for info in infos:
        if isinstance(info, MeterInfo):
            uses.append(MeterUse(info=info, open=function_name(entry.open)))
        else:
            absent.append(info)
