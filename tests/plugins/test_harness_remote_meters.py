"""Tests of meters of this host that watch a board."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.types import Artifact, Clock, MeterInfo, MeterUse, Monitor

pytest.importorskip("grpc")

from harness_remote.client.external import External
from remote_boards import GRAPH, QUICK, Boards, opened, pictures, spec_of

pytest_plugins = ["remote_boards"]


METER = """
import time

class Steady:
    def __init__(self, info):
        self.counts = info.quantity == "energy"

    def read(self):
        now = time.monotonic_ns()
        return now, 2e-9 * now if self.counts else 2.0

    def close(self):
        pass

class Logged(Steady):
    def fetch(self, begin, end, load):
        return [(ns, 2e-9 * ns) for ns in range(begin - 10**9, end + 10**9, 10**6)]
"""


@pytest.fixture
def steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeterUse:
    """A meter of this workstation that shows two watts."""
    (tmp_path / "steady_meter.py").write_text(METER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    info = MeterInfo(
        name="steady", scope="board", watches="pi1", provenance="measured", quantity="power", period_s=0.05
    )
    return MeterUse(info=info, open="steady_meter:Steady")


@pytest.mark.clock
def test_a_meter_here_watches_the_board(
    lab: Boards, plugins: Any, artifact: Artifact, steady: MeterUse
) -> None:
    spec = replace(spec_of(plugins), monitor=Monitor(meters=(steady,)))
    with opened(plugins, spec) as device:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        for _ in range(5):
            samples = device.measure(
                replace(
                    QUICK,
                    stop=replace(QUICK.stop, min_time_s=0.3, max_time_s=0.5),
                    metering=replace(QUICK.metering, idle_s=0.1),
                ),
                pictures(),
            )
            (reading,) = samples.here.energy
            # a busy machine may keep the sampler from its turn, which withholds a figure
            if not any("gap" in why or "readings in" in why for why in reading.withheld.values()):
                break
    assert reading.meter == "steady"
    assert reading.energy_gross_j == pytest.approx(2 * reading.window_s, rel=1e-6)
    assert reading.energy_net_j == pytest.approx(0, abs=1e-6)
    begin, end = samples.spans["load"]
    assert reading.window_s == pytest.approx((end - begin) / 1e9)
    inside = samples.here.meters["meter_ns:steady"]
    assert ((inside >= begin) & (inside <= end)).sum() >= 3


def test_another_clock_moves_a_reading_and_its_error_is_in_it(steady: MeterUse) -> None:
    counter = replace(steady.info, quantity="energy")
    external = External((MeterUse(info=counter, open="steady_meter:Logged"),))
    try:
        external.begin()
        begin = time.monotonic_ns()
        ahead = 3_600_000_000_000
        spans = {"load": (begin + ahead, begin + ahead + 300_000_000)}
        seen = external.end(spans, Clock(offset_ns=ahead, error_ns=20_000_000), 10)
    finally:
        external.close()
    (reading,) = seen.energy
    assert reading.energy_gross_j == pytest.approx(0.6, rel=1e-6)
    assert reading.u_gross_j >= 2.0 * 0.02  # two watts for 20 ms at an edge, at the least
    read = seen.meters["meter_ns:steady"]
    assert read[0] < begin + ahead < read[-1]
