"""Tests of the signals of a window, of its undisturbed blocks, and of the marks between them, with made samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.measure.flags import FLAGS, flags
from harness.measure.signals import signals
from harness.measure.undisturbed import undisturbed
from harness.types import DeviceReport, LatencyTrace, PartTrace, Reading, Samples, WarmUp
from harness.worker.loadgen.marks import Marks

MS = 1_000_000
QUIET = {"foreign_cores": 0.0, "elsewhere_cores": 0.0, "steal_cores": 0.0, "delay_s": 0.0, "cores": 2.0}


def window(blocks, *, environment=None, energy=False, **trace):
    """Return samples of a closed loop. ``blocks`` are (latencies in ms, CPU time in ms, time between queries in ms)."""
    latencies = [np.full(n, ms * MS) for n, ms, *_ in blocks]
    n = np.cumsum([len(own) for own in latencies])
    wall = np.cumsum([int(own.sum()) + more * MS for own, (*_, more) in zip(latencies, blocks, strict=True)])
    cpu = np.cumsum([cpu * MS for _, _, cpu, _ in blocks])
    own = {"wall_s": wall[-1] / 1e9, "cpu_s": cpu[-1] / 1e9, **QUIET, **(environment or {})}
    values = {
        "latency_ns": np.concatenate(latencies),
        "window_ns": int(wall[-1]),
        "reached": True,
        "marks": np.stack((n, wall, cpu), axis=1).astype(np.int64),
        **trace,
    }
    return Samples(
        trace=LatencyTrace(**values),
        warmup=WarmUp(np.zeros(0, np.int64), True),
        first_ns=1,
        batch=1,
        environment=own,
        here=DeviceReport(energy=(reading(),) if energy else ()),
    )


def reading():
    return Reading(
        meter="rapl",
        scope="package",
        watches="host",
        provenance="measured",
        quantity="energy",
        host="m",
        window_s=1.0,
        inferences=1,
        samples=1,
        method="default",
        greatest_gap_s=0.1,
        period_s=0.1,
        averaging_s=0.0,
        calibration=0.0,
        energy_gross_j=1.0,
    )


def raised(samples):
    """Return for each signal above its limit its name and the figures that it can change."""
    return {(signal.name, *signal.figures) for signal in signals(samples) if signal.over}


CALM = (100, 1, 100, 0)
TAIL = ("p90", "p99", "mean", "throughput")
TIMES = ("p50", *TAIL)


def test_a_calm_window_has_all_signals_and_none_above_its_limit():
    found = signals(window([CALM] * 8))
    assert {signal.name for signal in found} == {
        "waiting_share",
        "foreign_cores",
        "stalled_s",
        "warmup_unsteady",
        "drift",
        "not_cooled",
        "missed_minimum",
    }
    assert all(signal.limit is not None and signal.flag in FLAGS for signal in found)
    assert flags(window([CALM] * 8)) == []


@pytest.mark.parametrize(
    ("environment", "energy", "expected"),
    [
        ({"delay_s": 0.01}, False, set()),
        ({"delay_s": 0.03}, False, {("waiting_share", *TAIL)}),
        ({"delay_s": 0.1}, False, {("waiting_share", *TAIL), ("waiting_share", "p50")}),
        ({"steal_cores": 0.1}, False, {("waiting_share", *TAIL), ("waiting_share", "p50")}),
        ({"foreign_cores": 0.2}, False, set()),
        ({"foreign_cores": 0.2}, True, {("foreign_cores", "energy")}),
        ({"foreign_cores": 0.05}, True, set()),
        ({"elsewhere_cores": 0.7}, True, {("foreign_cores", *TIMES), ("foreign_cores", "energy")}),
        ({"thermal_events": 3}, True, {("thermal_events", *TIMES, "energy")}),
        (
            {"swap_in_pages": 9, "major_faults": 1},
            False,
            {("swap_in_pages", "memory", "p99", "mean", "throughput")},
        ),
        ({"swap_in_pages": 9, "major_faults": 0}, False, set()),
    ],
)
def test_each_disturbance_is_judged_for_the_figures_that_it_can_change(environment, energy, expected):
    assert raised(window([CALM] * 8, environment=environment, energy=energy)) == expected


# --- a stopped worker -----------------------------------------------------------------------------


def test_a_worker_that_is_stopped_within_a_query_is_stalled():
    samples = window([CALM] * 30 + [(1, 2001, 1, 0)] + [CALM] * 30)
    (stall,) = [signal for signal in signals(samples) if signal.over]
    assert (stall.flag, stall.name, tuple(stall.figures)) == ("stalled", "stalled_s", TIMES)
    assert stall.value == pytest.approx(2.0)
    assert stall.limit == pytest.approx(0.02 * 8.001)


def test_a_worker_that_is_stopped_between_queries_is_stalled():
    assert raised(window([CALM] * 30 + [(100, 1, 100, 2000)] + [CALM] * 30)) == {("stalled_s", *TIMES)}


def test_a_query_that_needs_much_cpu_time_is_no_stall():
    assert raised(window([CALM] * 30 + [(1, 2001, 2001, 0)] + [CALM] * 30)) == set()


def test_a_worker_that_waits_for_a_core_is_contended_and_not_stalled():
    samples = window([CALM] * 30 + [(1, 2001, 1, 0)] + [CALM] * 30, environment={"delay_s": 2.0})
    assert flags(samples) == ["contended"]


def test_noise_of_the_cpu_time_of_several_threads_is_no_stall():
    blocks = [(100, 1, 100 * share // 100, 0) for share in (200, 170, 190, 160, 180, 200, 165, 185) * 4]
    assert raised(window(blocks)) == set()


def test_a_fleet_waits_for_its_devices_by_nature():
    blocks = [CALM] * 30 + [(1, 500, 1, 0)]
    samples = replace(window(blocks), parts=PartTrace(traffic={"input_bytes": 9}))
    assert undisturbed(samples) is None
    assert raised(samples) == set()


def test_short_gaps_are_no_stall():
    assert raised(window([(99, 1, 99, 1)] * 10)) == set()


def test_a_worker_that_waits_for_a_gpu_is_no_stall_unless_it_stops_between_queries():
    waits = (100, 1, 10, 0)
    assert undisturbed(window([waits] * 10)) is None
    assert raised(window([waits] * 10)) == set()
    assert raised(window([waits] * 10 + [(100, 1, 10, 500)])) == {("between_queries_s", *TIMES)}


def test_threads_are_no_stall():
    assert raised(window([(100, 1, 400, 0)] * 10)) == set()
    assert raised(window([(100, 1, 400, 0)] * 10 + [(1, 500, 4, 0)])) == {("stalled_s", *TIMES)}


def server(service_ms, late_ms, cpu_ms, blocks=10):
    """Return a window of a server: one query in each block of 100 ms."""
    n = blocks
    service, late = np.full(n, service_ms * MS), np.asarray(late_ms) * MS
    marks = np.stack(
        (np.arange(1, n + 1), np.arange(1, n + 1) * 100 * MS, np.cumsum(np.asarray(cpu_ms) * MS)), axis=1
    )
    return window(
        [(n, service_ms, 0, 0)],
        latency_ns=service + late,
        queue_ns=late,
        late_ns=late,
        window_ns=n * 100 * MS,
        marks=marks.astype(np.int64),
    )


def test_the_idle_time_of_a_server_is_no_stall():
    assert raised(server(5, [0] * 10, [6] * 10)) == set()


def test_a_server_that_starts_late_without_cpu_time_is_stalled():
    assert raised(server(5, [0] * 9 + [400], [6] * 10)) == {("stalled_s", *TIMES)}


# --- undisturbed blocks ---------------------------------------------------------------------------


def test_the_figures_of_undisturbed_blocks_leave_out_the_disturbed_ones():
    blocks = undisturbed(window([CALM] * 6 + [(50, 2, 50, 0)] * 4))
    assert (blocks.blocks, blocks.of_blocks, blocks.queries) == (6, 10, 600)
    assert (blocks.p50_ms, blocks.p90_ms, blocks.mean_ms) == (1.0, 1.0, 1.0)
    assert blocks.p99_ms is None  # it needs 662 queries
    assert blocks.throughput_ips == pytest.approx(1000.0)
    assert blocks.lost_s == pytest.approx(0.2)
    assert blocks.longest_s == pytest.approx(0.05)


def test_blocks_are_chosen_by_cpu_time_and_not_by_latency():
    blocks = undisturbed(window([CALM] * 6 + [(50, 2, 100, 0)] * 4))
    assert (blocks.blocks, blocks.of_blocks) == (10, 10)
    assert blocks.mean_ms == pytest.approx(1.25)


def test_a_process_that_always_waits_has_no_undisturbed_blocks():
    blocks = undisturbed(window([(50, 2, 70, 0)] * 10, environment={"delay_s": 0.3}))
    assert blocks.blocks == 0
    assert "p50_ms" not in blocks


# --- marks ----------------------------------------------------------------------------------------


def test_marks_are_set_at_most_every_so_often_and_at_the_end():
    times = iter([10, 12, 15, 19])
    marks = Marks(cpu_ns=lambda: next(times), every_ns=100)
    for n, elapsed in ((1, 40), (2, 110), (3, 150), (4, 215)):
        marks.after(n, elapsed)
    marks.after(5, 220, last=True)
    assert marks.array().tolist() == [[2, 110, 2], [4, 215, 5], [5, 220, 9]]


def test_a_window_without_a_mark_has_none():
    assert Marks().array().shape == (0, 3)
