"""What the samples of a fleet say of its network: where the time of a query went, bytes, and a lower bound.

Pure: raw samples and a graph in, JSON out. Times are medians over the window's queries, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.types import IMAGE, Graph, Samples

__all__ = ["Link", "critical_path_ns", "link_of", "network_of"]


@dataclass(frozen=True, kw_only=True)
class Link:
    """Between the central node and a part's device: ``latency_ns`` one way, and how long the part's bytes are sent.

    ``shared``: all of the central node's links pass one port of its own. ``source``: ``stated`` by the device (an
    emulated link's rate and round trip), or ``probe``.
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
    stated: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """A record's ``network``: bytes, and of each part and device where its time went.

    ``places`` maps parts to devices, whose ``names`` are in the fleet's order; ``stated`` maps a device to the
    ``rate_mbps``, ``rtt_ms`` and ``ports`` (``shared``) of its link, where it tells them.
    """
    if not any(index != central for index in places.values()):
        return {}
    links = {
        part.name: link_of(part.name, samples, stated.get(places[part.name]))
        for part in graph.parts
        if places[part.name] != central
    }
    compute = {part.name: _median(samples, "compute", part.name) for part in graph.parts}
    bound = critical_path_ns(graph, places, central, compute, links)
    return {
        **{key: samples.network[key] for key in ("input_bytes", "feature_bytes") if key in samples.network},
        "parts": {
            part.name: _part(part.name, samples, links.get(part.name), compute[part.name])
            | {"device": names[places[part.name]]}
            for part in graph.parts
        },
        "fuse_ms": _ms(compute[graph.parts[-1].name]),
        "devices": _devices(samples, places, names),
        "critical_path_ms": _ms(bound),
        **_outcomes(samples),
    }


def link_of(part: str, samples: Samples, stated: Mapping[str, Any] | None) -> Link | None:
    """The link that a part's bytes pass; ``None`` where nothing tells of it.

    A probe's ``rtt`` is a few bytes there and back; ``up`` and ``down`` are longer by the time in which the
    query's bytes are sent.
    """
    sent, received = (samples.network.get(f"{way}_bytes:{part}") for way in ("sent", "received"))
    if stated and sent is not None and received is not None:
        per_byte = 8e3 / stated["rate_mbps"]
        return Link(
            latency_ns=stated["rtt_ms"] * 1e6 / 2,
            up_ns=sent * per_byte,
            down_ns=received * per_byte,
            source="stated",
            shared=stated.get("ports") == "shared",
        )
    probed = [samples.links.get(f"{way}:{part}") for way in ("rtt", "up", "down")]
    if None in probed:
        return None
    rtt, up, down = (float(ns) for ns in probed if ns is not None)
    return Link(latency_ns=rtt / 2, up_ns=max(0.0, up - rtt), down_ns=max(0.0, down - rtt), source="probe")


def critical_path_ns(
    graph: Graph,
    places: Mapping[str, int],
    central: int,
    compute: Mapping[str, float | None],
    links: Mapping[str, Link | None],
) -> float | None:
    """The earliest end of a query: every part's compute, its bytes over its link, and nothing else.

    All values pass the central node. A device does one part at a time, in the graph's order, and each way of
    its link (of the central node's port, where that is shared) sends one after another. ``None`` where a part's
    compute or link is not known.
    """
    free: dict[tuple[str, int], float] = {}

    def occupy(what: str, device: int, ready: float, spent: float) -> float:
        end = max(ready, free.get((what, device), 0.0)) + spent
        free[what, device] = end
        return end

    at: dict[str, float] = {IMAGE: 0.0}  # when a value is at the central node
    for part in graph.parts:
        device, spent, link = places[part.name], compute[part.name], links.get(part.name)
        if spent is None or (device != central and link is None):
            return None
        ready = max(at[source] for source in part.inputs)
        if link is not None:
            ready = occupy("up", central if link.shared else device, ready, link.up_ns) + link.latency_ns
        done = occupy("compute", device, ready, spent)
        if link is not None:
            done = occupy("down", central if link.shared else device, done, link.down_ns) + link.latency_ns
        at[part.name] = done
    return at[graph.parts[-1].name]


def _part(name: str, samples: Samples, link: Link | None, compute: float | None) -> dict[str, Any]:
    """Where a part's time goes; transport is split as its link would carry the bytes of either way."""
    found: dict[str, Any] = {"compute_ms": _ms(compute)}
    transport = _median(samples, "transport", name)
    if transport is None:
        return found
    found |= {f"{kind}_ms": _ms(_median(samples, kind, name)) for kind in ("encode", "queue")}
    found["transport_ms"] = _ms(transport)
    found |= {f"{way}_bytes": samples.network.get(f"{way}_bytes:{name}") for way in ("sent", "received")}
    if link is not None:
        there, back = link.latency_ns + link.up_ns, link.latency_ns + link.down_ns
        share = there / (there + back) if there + back else 0.5
        found |= {
            "send_ms": _ms(transport * share),
            "return_ms": _ms(transport * (1 - share)),
            "link_there_ms": _ms(there),
            "link_back_ms": _ms(back),
            "link": link.source,
        }
    return found


def _devices(samples: Samples, places: Mapping[str, int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each device's time in the window the share in which it computed; else it waited."""
    found = []
    for index in sorted(set(places.values())):
        own = [part for part, place in places.items() if place == index]
        busy = sum(float(_known(samples, "compute", part).sum()) for part in own)
        share = busy / samples.window_ns if samples.window_ns else None
        found.append(
            {
                "name": names[index],
                "parts": own,
                "compute_share": share,
                "wait_share": None if share is None else 1 - share,
            }
        )
    return found


def _outcomes(samples: Samples) -> dict[str, Any]:
    """Queries by what became of them, where something may stand in for a part."""
    if samples.outcome is None:
        return {}
    count = np.bincount(samples.outcome.astype(np.int64), minlength=3)
    names = ("whole", "substituted", "unanswered")
    told = dict(zip(names, count.tolist(), strict=False))
    return {"queries": told, "missed": dict(samples.missed)}


def _median(samples: Samples, kind: str, part: str) -> float | None:
    values = _known(samples, kind, part)
    return float(np.median(values)) if len(values) else None


def _known(samples: Samples, kind: str, part: str) -> Any:
    """A part's times in the window; -1 stands for a query that it did not answer."""
    values = samples.timeline.get(f"{kind}:{part}", np.zeros(0, np.int64))
    return values[values >= 0]


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
