"""Raw latencies -> the ``latency`` block of a record."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from harness import stats

if TYPE_CHECKING:
    from harness.types import Samples

__all__ = ["PERCENTILES", "latency_summary"]


PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p95_ms": 95, "p97_ms": 97, "p99_ms": 99, "p999_ms": 99.9}


def latency_summary(samples: Samples, preprocess_ms: float | None = None) -> dict[str, Any]:
    """A record's ``latency`` block from raw samples: milliseconds per query, inferences per second.

    A percentile is null where there are fewer queries than LoadGen's early-stopping minimum for it;
    ``bounds`` holds LoadGen's conservative estimates (confidence 0.99). ``std_ms`` is the sample
    standard deviation, null for one query. ``throughput_ips`` counts images over the whole window.
    """
    latency = sorted(samples.latency_ns.tolist())
    n = len(latency)
    empirical = {
        name: stats.percentile(latency, q) if n >= stats.EARLY_STOPPING_MIN[q] else None
        for name, q in PERCENTILES.items()
    }
    bounds = {name: stats.early_stopping_bound(latency, q) for name, q in PERCENTILES.items()}
    return {
        "n": n,
        **{name: _ms(value) for name, value in empirical.items()},
        "mean_ms": _ms(fmean(latency)) if n else None,
        "std_ms": _ms(stdev(latency)) if n > 1 else None,
        "first_ms": _ms(samples.first_ns),
        "throughput_ips": n * samples.batch / (samples.window_ns / 1e9) if n and samples.window_ns else None,
        "preprocess_ms": preprocess_ms,
        "bounds": {name: _ms(value) for name, value in bounds.items()},
    }


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6
