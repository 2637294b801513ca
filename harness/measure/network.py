"""The network of a fleet, computed from its samples: times of a query's steps, bytes, and a lower bound of latency.

Times are medians over the queries of the window, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.types import IMAGE, DeviceLink, Graph, Samples
from harness.types.figures import DeviceShares, Network, PartTimes, Queries
from harness.worker.timeline import Step, ends

__all__ = ["MeasuredLink", "critical_path_ns", "measured_link", "network_of"]


@dataclass(frozen=True, kw_only=True)
class MeasuredLink:
    """The measured link between the central node and the device of a part.

    ``latency_ns``: latency of one way. ``up_ns``, ``down_ns``: time to send the bytes of one query to the device and
    back. ``source``: ``stated`` by the device (rate and round trip of an emulated link), or ``probe``. ``shared``:
    all links of the central node pass through one port.
    """

    latency_ns: float
    up_ns: float
    down_ns: float
    source: str
    shared: bool = False


def network_of(
    samples: Samples,
    graph: Graph,
    places: Mapping[str, int],
    central: int,
    names: Sequence[str],
    stated: Mapping[int, DeviceLink],
) -> Network:
    """Return bytes, the times of each part and device, and the lower bound; empty for a single device.

    Args:
        samples: the samples of the central node.
        graph: the graph of the parts.
        places: part -> index of its device.
        central: index of the central device.
        names: names of the devices, in the fleet's order.
        stated: index of a device -> its link, if the device states it.
    """
    if not any(index != central for index in places.values()):
        return Network()
    links = {
        part.name: measured_link(part.name, samples, stated.get(places[part.name]))
        for part in graph.parts
        if places[part.name] != central
    }
    compute = {part.name: _median(samples, "compute", part.name) for part in graph.parts}
    bound = critical_path_ns(graph, places, central, compute, links)
    sent = {
        key: samples.parts.traffic[key]
        for key in ("input_bytes", "feature_bytes")
        if key in samples.parts.traffic
    }
    network = Network(
        **sent,
        parts={
            name: _part(name, samples, links.get(name), compute[name], names[place])
            for name, place in places.items()
        },
        fuse_ms=_ms(compute[graph.parts[-1].name]),
        devices=_devices(samples, places, names),
        critical_path_ms=_ms(bound),
    )
    outcome = samples.parts.outcome
    if outcome is None:  # an absent part ends the measurement in this case
        return network
    whole, substituted, unanswered, *_ = np.bincount(outcome.astype(np.int64), minlength=3).tolist()
    queries = Queries(whole=whole, substituted=substituted, unanswered=unanswered)
    return network.model_copy(update={"queries": queries, "missed": dict(samples.parts.missed)})


def measured_link(part: str, samples: Samples, stated: DeviceLink | None) -> MeasuredLink | None:
    """Return the link that the bytes of a part cross, or ``None`` if it is neither stated nor probed.

    The ``rtt`` of a probe is the time of a few bytes there and back. ``up`` and ``down`` are longer by the time to
    send the bytes of one query.
    """
    sent, received = (samples.parts.traffic.get(f"{way}_bytes:{part}") for way in ("sent", "received"))
    if stated is not None and stated.rate_mbps and sent is not None and received is not None:
        per_byte = 8e3 / stated.rate_mbps
        return MeasuredLink(
            latency_ns=stated.rtt_ms * 1e6 / 2,
            up_ns=sent * per_byte,
            down_ns=received * per_byte,
            source="stated",
            shared=stated.shared,
        )
    probed = [samples.parts.links.get(f"{way}:{part}") for way in ("rtt", "up", "down")]
    if None in probed:
        return None
    rtt, up, down = (float(ns) for ns in probed if ns is not None)
    return MeasuredLink(
        latency_ns=rtt / 2, up_ns=max(0.0, up - rtt), down_ns=max(0.0, down - rtt), source="probe"
    )


def critical_path_ns(
    graph: Graph,
    places: Mapping[str, int],
    central: int,
    compute: Mapping[str, float | None],
    links: Mapping[str, MeasuredLink | None],
) -> float | None:
    """Return a lower bound of a query's latency in nanoseconds. It counts only computing and transfer times.

    All values pass through the central node. A device computes one part at a time, in the order of the graph. Each
    direction of its link sends one value after another. If the links share the central node's port, each direction of
    the port does so.

    Args:
        graph: the graph of the parts.
        places: part -> index of its device.
        central: index of the central device.
        compute: part -> its computing time in nanoseconds.
        links: part -> its link; only for parts on other devices.

    Returns:
        The bound, or ``None`` if the computing time or the link of a part is not known.
    """
    steps = [Step(IMAGE, IMAGE, (), 0.0)]
    for part in graph.parts:
        device, spent, link = places[part.name], compute[part.name], links.get(part.name)
        if spent is None or (device != central and link is None):
            return None
        if link is None:
            steps.append(Step(part.name, ("compute", device), part.sources, spent))
            continue
        port = central if link.shared else device
        sent, computed = ("sent", part.name), ("computed", part.name)
        steps.append(Step(sent, ("up", port), part.sources, link.up_ns, link.latency_ns))
        steps.append(Step(computed, ("compute", device), (sent,), spent))
        steps.append(Step(part.name, ("down", port), (computed,), link.down_ns, link.latency_ns))
    return ends(steps)[graph.parts[-1].name]


def _part(
    name: str, samples: Samples, link: MeasuredLink | None, compute: float | None, device: str
) -> PartTimes:
    """Return the times of a part. Transport is divided in proportion to the time of the link in each direction."""
    transport = _median(samples, "transport", name)
    if transport is None:
        return PartTimes(compute_ms=_ms(compute), device=device)
    times = PartTimes(
        compute_ms=_ms(compute),
        encode_ms=_ms(_median(samples, "encode", name)),
        queue_ms=_ms(_median(samples, "queue", name)),
        transport_ms=_ms(transport),
        sent_bytes=samples.parts.traffic.get(f"sent_bytes:{name}"),
        received_bytes=samples.parts.traffic.get(f"received_bytes:{name}"),
        device=device,
    )
    if link is None:
        return times
    there, back = link.latency_ns + link.up_ns, link.latency_ns + link.down_ns
    share = there / (there + back) if there + back else 0.5
    return times.model_copy(
        update={
            "send_ms": _ms(transport * share),
            "return_ms": _ms(transport * (1 - share)),
            "link_there_ms": _ms(there),
            "link_back_ms": _ms(back),
            "link": link.source,
        }
    )


def _devices(samples: Samples, places: Mapping[str, int], names: Sequence[str]) -> list[DeviceShares]:
    """Return the share of the window in which each device computed. In the rest it waited."""
    shares = []
    for index in sorted(set(places.values())):
        own = [part for part, place in places.items() if place == index]
        busy = sum(float(_known(samples, "compute", part).sum()) for part in own)
        share = busy / samples.trace.window_ns if samples.trace.window_ns else None
        shares.append(
            DeviceShares(
                name=names[index],
                parts=own,
                compute_share=share,
                wait_share=None if share is None else 1 - share,
            )
        )
    return shares


def _median(samples: Samples, kind: str, part: str) -> float | None:
    values = _known(samples, kind, part)
    return float(np.median(values)) if len(values) else None


def _known(samples: Samples, kind: str, part: str) -> Any:
    """Return the times of a part in the window, in nanoseconds, without queries that it did not answer (-1)."""
    values = samples.parts.timeline.get(f"{kind}:{part}", np.zeros(0, np.int64))
    return values[values >= 0]


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
