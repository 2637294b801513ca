"""Compute the ``latency`` block of a record from raw latencies."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from harness import stats
from harness.measure.undisturbed import undisturbed
from harness.types.figures import Bounds, Latency, Sustained

if TYPE_CHECKING:
    from harness.types import Samples

__all__ = ["latency_of", "latency_summary"]


def latency_of(samples: Samples, preprocess_ms: float | None) -> Latency:
    """Return the whole ``latency`` block.

    It has the summary, the queue of a server, the sustained load, and LoadGen's figures. ``preprocess_ms`` is the
    time to decode and preprocess one image in milliseconds, or None if it was not measured.
    """
    blocks = undisturbed(samples)
    return latency_summary(samples, preprocess_ms).model_copy(
        update={
            **_queue(samples),
            **({} if blocks is None else {"undisturbed": blocks}),
            "sustained": Sustained.model_validate(asdict(samples.sustained) if samples.sustained else {}),
            "reference": dict(samples.trace.reference),
        }
    )


def latency_summary(samples: Samples, preprocess_ms: float | None = None) -> Latency:
    """Return latencies in milliseconds per query, and inferences per second.

    A percentile is null if there are fewer queries than LoadGen's early-stopping minimum for it. ``bounds`` holds
    LoadGen's conservative estimates (confidence 0.99). ``std_ms`` is the sample standard deviation. It is null for a
    single query. ``throughput_ips`` counts images over the whole window.
    """
    latency = sorted(samples.trace.latency_ns.tolist())
    n = len(latency)

    def percentile(q: float) -> float | None:
        return _ms(stats.percentile(latency, q)) if n >= stats.EARLY_STOPPING_MIN[q] else None

    def bound(q: float) -> float | None:
        return _ms(stats.early_stopping_bound(latency, q))

    return Latency(
        n=n,
        p50_ms=percentile(50),
        p90_ms=percentile(90),
        p95_ms=percentile(95),
        p97_ms=percentile(97),
        p99_ms=percentile(99),
        p999_ms=percentile(99.9),
        mean_ms=_ms(fmean(latency)) if n else None,
        std_ms=_ms(stdev(latency)) if n > 1 else None,
        first_ms=_ms(samples.first_ns),
        throughput_ips=n * samples.batch / (samples.trace.window_ns / 1e9)
        if n and samples.trace.window_ns
        else None,
        preprocess_ms=preprocess_ms,
        bounds=Bounds(
            p50_ms=bound(50),
            p90_ms=bound(90),
            p95_ms=bound(95),
            p97_ms=bound(97),
            p99_ms=bound(99),
            p999_ms=bound(99.9),
        ),
    )


def _queue(samples: Samples) -> dict[str, float]:
    """Return how long the queries of a server waited, and its utilisation. The result is empty in other scenarios."""
    if samples.trace.queue_ns is None or samples.trace.late_ns is None or samples.target_qps is None:
        return {}
    service_s = float((samples.trace.latency_ns - samples.trace.queue_ns).mean()) / 1e9
    return {
        "achieved_qps": len(samples.trace.latency_ns) / (samples.trace.window_ns / 1e9),
        "queue_mean_ms": float(samples.trace.queue_ns.mean()) / 1e6,
        "late_max_ms": float(samples.trace.late_ns.max()) / 1e6,
        "utilisation": service_s * samples.target_qps,
    }


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
