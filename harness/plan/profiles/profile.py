"""The profile of a device: measured points, and the line through them, which estimates use.

A profile is a JSON file with points (MACs, bytes, seconds), the device, and the origin of the points. Values of the
line are ``modelled`` and come with the line's error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from harness.errors import HarnessError
from harness.plan.profiles.line import LEAST, Line, fit
from harness.types import Params
from harness.types.fields import NAME
from harness.types.json import JsonObject

__all__ = ["KINDS", "Link", "Point", "Profile", "ProfileError", "ProfileSummary"]


Kind = Literal["model", "matmul", "attention", "mlp", "conv"]
KINDS: tuple[Kind, ...] = ("model", "matmul", "attention", "mlp", "conv")


class ProfileError(HarnessError):
    """A profile cannot be read, or no line fits its points."""


class Point(Params):
    """One model or operation that was timed, at batch 1."""

    what: str = Field(min_length=1, max_length=200)
    kind: Kind
    macs: int = Field(gt=0, description="all multiply-accumulates, with those of attention")
    macs_linear: int = Field(
        ge=0, description="those of linear and convolution layers, and their biases (C1)"
    )
    bytes: int = Field(
        gt=0, description="bytes of weights, input and output: the least that one inference moves"
    )
    seconds: float = Field(
        gt=0, lt=1e6, description="time of one inference; the median if several were timed"
    )
    weight_bytes: int | None = Field(None, ge=0)
    memory_bytes: int | None = Field(None, gt=0, description="greatest memory of the worker")
    queries: int | None = Field(None, ge=1, description="number of inferences that were timed")
    flags: tuple[str, ...] = Field((), description="what disturbed the inferences")
    source: str = Field("", max_length=500, description="place in the paper, for a published point")


class Link(Params):
    """The link of a device to the other devices. One way, ``bytes`` take ``rtt / 2 + 8 * bytes / rate``."""

    rate_mbps: float | None = Field(None, gt=0, le=1e6, description="10^6 bits per second; None: no limit")
    rtt_ms: float = Field(0.0, ge=0, le=1e6, description="round-trip time of a small message")
    origin: str = Field("", max_length=200)

    @property
    def latency(self) -> float:
        """Return the seconds that a message travels, one way."""
        return self.rtt_ms / 2e3

    def occupied(self, sent: float) -> float:
        """Return the seconds for which ``sent`` bytes keep the link busy."""
        return 8 * sent / (self.rate_mbps * 1e6) if self.rate_mbps is not None else 0.0

    def seconds(self, sent: float) -> float:
        """Return the seconds of one message of ``sent`` bytes, one way."""
        return self.latency + self.occupied(sent)

    def joined(self, other: Link) -> Link:
        """Return the link between two devices, from the link of each. It is as slow as the slower one."""
        rates = [link.rate_mbps for link in (self, other) if link.rate_mbps is not None]
        return Link(rate_mbps=min(rates, default=None), rtt_ms=max(self.rtt_ms, other.rtt_ms))


@dataclass(frozen=True, kw_only=True)
class ProfileSummary:
    """A profile as placers, sketches and estimates see it: its device, and its line over MACs.

    Seconds are ``fixed_s`` plus ``s_per_gmac`` for each 10^9 MACs. ``error`` and ``worst`` are relative
    (:class:`~harness.plan.profiles.line.Line`). The points are from ``low_gmacs`` to ``high_gmacs``.
    """

    name: str
    device_model: str
    provenance: Literal["measured", "emulated", "published"]
    processor: str
    runtime: str | None
    threads: int | None
    fixed_s: float
    s_per_gmac: float
    error: float
    worst: float
    low_gmacs: float
    high_gmacs: float


class Profile(Params):
    """The points of a device under one runtime and one number of threads."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME, max_length=80)
    device_model: str = Field(min_length=1, max_length=200)
    provenance: Literal["measured", "emulated", "published"]
    origin: str = Field(min_length=1, max_length=1000, description="command and versions, or the paper")
    made: str = Field("", max_length=40, description="time of the measurement, UTC")
    processor: str = Field(
        "", pattern=r"^[a-z0-9]*$", description="which device of several, like cuda; empty: the CPU"
    )
    runtime: str | None = Field(None, description="None: unknown")
    precision: str | None = None
    threads: int | None = Field(None, ge=1, description="None: unknown")
    link: Link | None = None
    note: str = Field("", max_length=4000)
    points: tuple[Point, ...] = Field(min_length=1, max_length=1000)

    @field_validator("points")
    @classmethod
    def _models(cls, points: tuple[Point, ...]) -> tuple[Point, ...]:
        if len({point.macs for point in points if point.kind == "model"}) < LEAST:
            raise ValueError(f"a profile needs {LEAST} points of kind model that differ in MACs")
        return points

    @property
    def label(self) -> str:
        """Return the name with the provenance, for messages."""
        return f"{self.name} ({self.provenance})"

    @cached_property
    def line(self) -> Line:
        """Return the line of a part's seconds over its GMACs, from the points of whole models.

        Raises:
            ProfileError: no line fits the points.
        """
        return self.line_of("model")

    def line_of(self, kind: Kind) -> Line:
        """Return the line of seconds over GMACs, from the points of one kind.

        Raises:
            ProfileError: no line fits the points.
        """
        chosen = [point for point in self.points if point.kind == kind]
        try:
            return fit([point.macs / 1e9 for point in chosen], [point.seconds for point in chosen])
        except ValueError as error:
            raise ProfileError(f"profile {self.name}, {kind}: {error}") from None

    def memory(self) -> Line | None:
        """Return the line of a worker's largest size over its weights, both in MiB.

        It is None if the size was not read, or if no line fits it.
        """
        known = [p for p in self.points if p.kind == "model" and p.memory_bytes and p.weight_bytes]
        mib = [[(getattr(p, key) or 0) / 2**20 for p in known] for key in ("weight_bytes", "memory_bytes")]
        try:
            return fit(*mib)
        except ValueError:
            return None

    def summary(self) -> ProfileSummary:
        """Return the summary. As JSON it is ``details["profile"]`` of a device, which placers and sketches read."""
        line = self.line
        return ProfileSummary(
            name=self.name,
            device_model=self.device_model,
            provenance=self.provenance,
            processor=self.processor,
            runtime=self.runtime,
            threads=self.threads,
            fixed_s=line.fixed,
            s_per_gmac=line.slope,
            error=line.error,
            worst=line.worst,
            low_gmacs=line.low,
            high_gmacs=line.high,
        )

    def to_json(self) -> JsonObject:
        """Return the content of the file. ``lines`` are for people; they are computed again when the file is read."""
        lines = {}
        for kind in KINDS:
            try:
                line = self.line_of(kind)
            except ProfileError:
                continue
            lines[kind] = {
                "fixed_s": line.fixed,
                "s_per_gmac": line.slope,
                "error": line.error,
                "worst": line.worst,
                "low_gmacs": line.low,
                "high_gmacs": line.high,
                "points": line.points,
            }
        return {**self.model_dump(mode="json"), "lines": lines}
