"""Tests of the look-ups of planning: existing watches, broken watches, and that no watch stays open."""

from __future__ import annotations

from types import SimpleNamespace

from harness.hookspecs import hookimpl
from harness.machine.meters import Meters
from harness.plugins import load_plugins
from harness.types import MeterEntry, Unavailable

OPEN: list[str] = []


class Thermometer:
    def __init__(self) -> None:
        OPEN.append("thermometer")

    def __call__(self) -> dict[str, float]:
        return {"temperature_c": 50.0}

    def close(self) -> None:
        OPEN.remove("thermometer")


class Dead(Thermometer):
    def __call__(self) -> dict[str, float]:
        raise OSError("sensor gone")


def broken() -> None:
    raise RuntimeError("no service")


def nothing() -> None:
    return None


def meters(**watches):
    entries = [
        MeterEntry(name=name, summary="a watch", probe=lambda: (), open=Thermometer, watch=watch)
        for name, watch in watches.items()
    ]
    plugin = SimpleNamespace(harness_meters=hookimpl(lambda: entries, specname="harness_meters"))
    return Meters(load_plugins(["power"], extra={"watching": plugin}))


def test_watches_are_read_once_and_closed():
    found = meters(warm=Thermometer, none=nothing)
    assert found.snapshot()["warm"] == {"temperature_c": 50.0}
    assert found.watches()["warm"] == f"{__name__}:Thermometer"
    assert "none" not in found.watches()
    assert found.tells_temperature()
    assert OPEN == []


def test_one_that_fails_is_said_and_kept_for_the_record():
    found = meters(bad=broken, dead=Dead)
    reasons = {name: one.reason for name, one in found.snapshot().items() if isinstance(one, Unavailable)}
    assert reasons == {"bad": "RuntimeError: no service", "dead": "OSError: sensor gone"}
    assert {"bad", "dead"} <= found.watches().keys()
    assert OPEN == []
