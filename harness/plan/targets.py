"""Devices and fleets of a suite, described by their backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.contracts.devices import check_found
from harness.errors import BrokenContract, SuiteError, nearest
from harness.plan.entries import Entries
from harness.plugins import Plugins
from harness.suite.suite import Suite
from harness.types import DeviceInfo, DeviceSpec, Unavailable

__all__ = ["Target", "Targets"]

Described = tuple[DeviceSpec, DeviceInfo | Unavailable]


@dataclass(frozen=True)
class Target:
    """A device or fleet of the suite, described by its backend.

    ``specs`` and ``infos`` have one value per device, but ``infos`` lacks devices that are not available. ``central``
    is the index of the central device. ``unavailable`` says why the target cannot be used, or is None.
    """

    name: str
    specs: tuple[DeviceSpec, ...]
    infos: tuple[DeviceInfo, ...]
    central: int
    fleet: bool
    unavailable: str | None


@dataclass
class Targets:
    """The devices and fleets of a suite. A backend describes each device once per number of threads."""

    suite: Suite
    plugins: Plugins
    entries: Entries
    _targets: dict[tuple[str, int], Target] = field(default_factory=dict)
    _devices: dict[tuple[str, int], Described] = field(default_factory=dict)

    def get(self, name: str, threads: int) -> Target:
        """Return device or fleet ``name``.

        ``threads`` is the number for each worker whose device does not set its own.

        Raises:
            SuiteError: its description in the suite is wrong.
        """
        if (name, threads) not in self._targets:
            self._targets[name, threads] = self._target(name, threads)
        return self._targets[name, threads]

    def _target(self, name: str, threads: int) -> Target:
        choice = self.suite.devices[name]
        members = choice.fleet if choice.fleet is not None else (name,)
        described = {member: self._device(member, threads) for member in dict.fromkeys(members)}
        problems = [
            f"{member}: {info.reason}" + (f" ({info.fix})" if info.fix else "")
            for member, (_, info) in described.items()
            if isinstance(info, Unavailable)
        ]
        self._check_boards(name, members, described)
        infos = (described[member][1] for member in members)
        return Target(
            name=name,
            specs=tuple(described[member][0] for member in members),
            infos=tuple(info for info in infos if isinstance(info, DeviceInfo)),
            central=members.index(choice.central or members[0]),
            fleet=choice.fleet is not None,
            unavailable="; ".join(problems) or None,
        )

    def _check_boards(self, name: str, members: Sequence[str], described: Mapping[str, Described]) -> None:
        """Refuse a fleet that has one board twice, under one name or two names.

        A worker of this machine may be in a fleet several times.
        """
        seen: dict[str, str] = {}
        for index, member in enumerate(members):
            spec, info = described[member]
            if not (isinstance(info, DeviceInfo) and info.is_board):
                continue
            board = getattr(spec.params, "board", None) or spec.name
            if board in seen:
                where = self.suite.source.where("devices", name, "fleet", index)
                raise SuiteError(
                    f"{where}: {member!r} is the same board as {seen[board]!r}: one holds it at a time"
                )
            seen[board] = member

    def _device(self, name: str, threads: int) -> Described:
        choice, source, path = self.suite.devices[name], self.suite.source, ("devices", name)
        threads = choice.threads or threads
        if (name, threads) in self._devices:
            return self._devices[name, threads]
        assert choice.backend is not None
        registered = self.entries.get(self.plugins.backends, choice.backend, (*path, "backend"))
        own = choice.model_extra or {}
        for key in own:
            if key not in registered.entry.params.model_fields:
                allowed = ["backend", "threads", "meters", *registered.entry.params.model_fields]
                raise SuiteError(f"{source.where(*path, key)}: unknown key; {nearest(key, allowed)}")
        backends = self.plugins.backends
        params = self.entries.params(backends, choice.backend, own, path)
        spec = DeviceSpec(name=name, backend=choice.backend, params=params, threads=threads)
        info: DeviceInfo | Unavailable
        try:
            with backends.calling(choice.backend, "describe"):
                info = registered.entry.describe(spec)
            check_found(backends.need(choice.backend), info, "describe")
        except BrokenContract as error:
            info = Unavailable(name=name, reason=str(error))
        except ValueError as error:
            raise SuiteError(f"{source.where(*path)}: {error}") from None
        self._devices[name, threads] = spec, info
        return spec, info
