"""Devices and fleets of a suite, described by their backends."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types import DeviceInfo, DeviceSpec

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """A device or fleet of the suite, described by its backend."""

    name: str
    specs: tuple[DeviceSpec, ...]
    infos: tuple[DeviceInfo, ...]
    central: int
    fleet: bool
    unavailable: str | None
