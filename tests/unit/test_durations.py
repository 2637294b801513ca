"""Tests of the durations of a window and its idle time, for the meters that read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.machine.energy.durations import IDLE_READINGS, SETTLE_S, Durations, lengthened, longest_s
from harness.types import MeterInfo, Metering, Stop, Workload

SLOW = MeterInfo(
    name="slow",
    scope="wall",
    watches="plug",
    provenance="measured",
    quantity="power",
    period_s=1.0,
    averaging_s=2.0,
)
FAST = replace(SLOW, name="fast", period_s=0.01, averaging_s=0.0)


def test_the_slowest_meter_decides() -> None:
    needed = Durations.of([FAST, SLOW], error=0.05)
    assert needed == Durations(settle_s=4.0, idle_s=IDLE_READINGS + 2.0, window_s=pytest.approx(40.0))
    assert Durations.of([]) == Durations(settle_s=SETTLE_S, idle_s=0.0, window_s=0.0)


def test_a_workload_waits_for_meters_that_are_read_elsewhere() -> None:
    workload = Workload(stop=Stop(min_time_s=1.0, max_time_s=15.0), metering=Metering(idle_s=2.0))
    assert lengthened(workload, ()) == workload
    longer = lengthened(workload, (SLOW,))
    assert longer.metering.elsewhere
    assert longer.stop.min_time_s == 15.0  # 20 s are needed, and max_time_s is the limit
    assert longer.metering.idle_s == 8.0 + 4.0
    assert (
        lengthened(
            replace(workload, metering=replace(workload.metering, idle_s=10.0)), (SLOW,)
        ).metering.idle_s
        == 10.0 + 4.0
    )
    assert (
        lengthened(
            replace(workload, metering=replace(workload.metering, idle_s=0.0)), (SLOW,)
        ).metering.idle_s
        == 0.0
    )


def test_the_longest_time_holds_every_round() -> None:
    workload = Workload(stop=Stop(max_time_s=10.0, warmup_max_s=5.0), metering=Metering(idle_s=2.0))
    assert longest_s(workload) == 2 * (SETTLE_S + 2.0) + 15.0
    assert longest_s(workload, (SLOW,)) == 2 * (4.0 + 8.0) + 15.0
    assert longest_s(
        replace(
            workload, metering=replace(workload.metering, error=0.1, cool_below_c=50.0, cool_limit_s=60.0)
        )
    ) == (3 * (2 * (SETTLE_S + 30.0) + 15.0) + 60.0)
