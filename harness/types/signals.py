"""The blocks of a record about disturbances: the signals of its window, and the figures of its undisturbed parts."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from harness.types.blocks import Block, Number, known

__all__ = ["Figure", "Signal", "Undisturbed"]

Figure: TypeAlias = Literal["p50", "p90", "p99", "mean", "throughput", "energy", "memory"]
"""A figure that a disturbance can change."""


class Signal(Block):
    """One signal of a window, the limit that it was compared with, and the figures that it can change."""

    flag: str | None = known("the disturbance that the signal shows")
    name: str | None = known("name of the signal (measuring.md lists them)")
    value: Number | None = known("measured value")
    limit: Number | None = known("greatest value that counts as undisturbed")
    over: bool | None = known("whether the value is above the limit")
    figures: list[str] = Field(
        [],
        description="the figures that the disturbance can change: "
        "`p50`, `p90`, `p99`, `mean`, `throughput`, `energy`, `memory`",
    )


class Undisturbed(Block):
    """Latency in the blocks of the window in which the process had its CPU time."""

    blocks: int | None = known(
        "blocks in which it had at least 95% of its CPU time; a block lasts 0.1 s or one query"
    )
    of_blocks: int | None = known("all blocks of the window")
    queries: int | None = known("queries in these blocks; the figures below need a quarter of all queries")
    lost_s: Number | None = known("time of the window without CPU time: waiting for a core, or stopped")
    stopped_s: Number | None = known("the part of it in blocks that lack over a quarter of their CPU time")
    longest_s: Number | None = known("longest time without CPU time in one block")
    p50_ms: Number | None = known("median latency in these blocks")
    p90_ms: Number | None = known("90th percentile; null if there are fewer queries than LoadGen needs")
    p99_ms: Number | None = known("99th percentile; null in the same case")
    mean_ms: Number | None = known("mean latency")
    throughput_ips: Number | None = known("images per second; null for a server")
