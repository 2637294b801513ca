"""Tests of network figures from samples and a graph: shares of the time and the bound, against cases by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.measure.network import MeasuredLink, critical_path_ns, measured_link, network_of
from harness.types import DeviceLink, Graph, GraphPart, LatencyTrace, PartTrace, Samples, TensorSpec, WarmUp
from harness.types.figures import Queries

MS = 1_000_000


def graph(*parts: tuple[str, tuple[str, ...]], **more: Any) -> Graph:
    spec = TensorSpec(shape=(4,))
    return Graph(parts=tuple(GraphPart(name=n, inputs=i, output=spec) for n, i in parts), **more)


def link(latency: float, up: float, down: float) -> MeasuredLink:
    return MeasuredLink(latency_ns=latency * MS, up_ns=up * MS, down_ns=down * MS, source="stated")


def samples(window_ns: int = 1000 * MS, **parts: Any) -> Samples:
    return Samples(
        trace=LatencyTrace(np.full(20, 50 * MS), window_ns, True),
        warmup=WarmUp(np.zeros(0, np.int64), True),
        first_ns=1,
        batch=1,
        parts=PartTrace(**parts),
    )


def bound(parts: Graph, places: dict, compute: dict, links: dict) -> float:
    network = critical_path_ns(parts, places, 0, {k: v * MS for k, v in compute.items()}, links)
    assert network is not None
    return network / MS


STAR = graph(("a", ("image",)), ("b", ("image",)), ("f", ("a", "b")))


def test_the_slowest_part_with_its_bytes_then_fusion():
    places = {"a": 1, "b": 2, "f": 0}
    links = {"a": link(1, 10, 2), "b": link(1, 10, 2)}
    assert bound(STAR, places, {"a": 5, "b": 20, "f": 3}, links) == 10 + 1 + 20 + 2 + 1 + 3


def test_an_own_part_runs_meanwhile_and_two_of_one_device_one_after_another():
    links = {"b": link(1, 10, 2)}
    assert bound(STAR, {"a": 0, "b": 1, "f": 0}, {"a": 50, "b": 20, "f": 3}, links) == 53
    links = {"a": link(1, 10, 2), "b": link(1, 10, 2)}
    both = bound(STAR, {"a": 1, "b": 1, "f": 0}, {"a": 20, "b": 20, "f": 3}, links)
    assert both == 10 + 1 + 20 + 20 + 2 + 1 + 3  # b's image comes while a computes
    slow_link = bound(STAR, {"a": 1, "b": 1, "f": 0}, {"a": 1, "b": 1, "f": 3}, links)
    assert slow_link == 10 + 10 + 1 + 1 + 2 + 1 + 3  # and a's answer goes while b's image comes


def test_a_shared_port_sends_to_one_device_after_another():
    shared = {name: replace(link(1, 10, 2), shared=True) for name in ("a", "b")}
    whole = bound(STAR, {"a": 1, "b": 2, "f": 0}, {"a": 5, "b": 5, "f": 3}, shared)
    assert whole == 10 + 10 + 1 + 5 + 2 + 1 + 3


def test_a_chain_is_the_sum_of_its_steps():
    chain = graph(("front", ("image",)), ("middle", ("front",)), ("back", ("middle",)))
    links = {"front": link(1, 10, 4), "middle": link(2, 4, 1)}
    places = {"front": 1, "middle": 2, "back": 0}
    whole = bound(chain, places, {"front": 5, "middle": 6, "back": 7}, links)
    assert whole == (10 + 1 + 5 + 4 + 1) + (4 + 2 + 6 + 1 + 2) + 7


def test_without_a_link_or_a_time_there_is_no_bound():
    places = {"a": 1, "b": 2, "f": 0}
    links = {"a": link(1, 1, 1), "b": None}
    assert critical_path_ns(STAR, places, 0, {"a": 1.0, "b": 1.0, "f": 1.0}, links) is None
    links["b"] = link(1, 1, 1)
    assert critical_path_ns(STAR, places, 0, {"a": 1.0, "b": None, "f": 1.0}, links) is None


def test_a_link_is_as_its_device_states_else_as_the_probe_found():
    given = samples(
        traffic={"sent_bytes:a": 2_000_000, "received_bytes:a": 1000},
        links={"rtt:a": 4 * MS, "up:a": 14 * MS, "down:a": 3 * MS},
    )
    probed = measured_link("a", given, None)
    assert probed == MeasuredLink(latency_ns=2 * MS, up_ns=10 * MS, down_ns=0, source="probe")
    stated = measured_link("a", given, DeviceLink(rate_mbps=16, rtt_ms=1))
    assert stated is not None
    assert (stated.latency_ns, stated.up_ns, stated.down_ns) == (0.5 * MS, 1000 * MS, 0.5 * MS)
    assert measured_link("b", given, None) is None
    assert measured_link("a", given, DeviceLink(rtt_ms=1)) == probed  # no rate is stated
    assert not stated.shared
    assert measured_link("a", given, DeviceLink(rate_mbps=16, rtt_ms=1, shared=True)) == replace(
        stated, shared=True
    )


def test_a_records_network():
    seen = {
        "encode:a": [1, 1, 1],
        "transport:a": [12, 12, 12],
        "queue:a": [2, 2, 2],
        "compute:a": [5, -1, 9],
        "compute:f": [3, 3, 3],
    }
    given = samples(
        timeline={name: np.where(np.array(ns) < 0, -1, np.array(ns) * MS) for name, ns in seen.items()},
        traffic={"input_bytes": 100, "feature_bytes": 8, "sent_bytes:a": 100, "received_bytes:a": 8},
        links={"rtt:a": 2 * MS, "up:a": 10 * MS, "down:a": 4 * MS},
        outcome=np.array([0, 1, 0], np.int8),
        missed={"a": 1},
        window_ns=100 * MS,
    )
    parts = graph(("a", ("image",)), ("f", ("a",)))
    network = network_of(given, parts, {"a": 1, "f": 0}, 0, ["here", "there"], {})
    a = network.parts["a"]
    assert (a.compute_ms, a.encode_ms, a.queue_ms, a.device) == (7, 1, 2, "there")
    # one way is 1 + 8 ms, the other 1 + 2 ms
    assert (a.send_ms, a.return_ms) == (9, 3)
    assert (a.sent_bytes, a.received_bytes, a.link) == (100, 8, "probe")
    assert network.critical_path_ms == 9 + 7 + 3 + 3
    shares = {share.name: (share.compute_share, share.wait_share) for share in network.devices}
    assert shares == {"here": (0.09, 0.91), "there": (pytest.approx(0.14), pytest.approx(0.86))}
    assert network.queries == Queries(whole=2, substituted=1, unanswered=0)
    assert network.missed == {"a": 1}


def test_on_one_device_there_is_none():
    assert network_of(samples(), STAR, {"a": 0, "b": 0, "f": 0}, 0, ["here"], {}).empty
