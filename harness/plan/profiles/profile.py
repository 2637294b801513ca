"""What is known of a device's speed: measured points, and the line through them by which plans are estimated.

A profile is a JSON file: points (MACs, bytes, seconds), whose they are, how they were got. What a line says of
anything but its points is ``modelled``, and stands with the line's error. Pure but for the files; no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator

from harness.errors import HarnessError, StorageError, nearest
from harness.suite.suite import NAME, shipped_files
from harness.types import Params

if TYPE_CHECKING:
    from harness.types import DeviceInfo, DeviceSpec

__all__ = [
    "KINDS",
    "Line",
    "Link",
    "Point",
    "Profile",
    "ProfileError",
    "fit",
    "link_of",
    "load_profile",
    "names_of",
    "processor_of",
    "profile_of",
    "profiled",
    "profiles_folder",
    "read_profile",
    "stored_profile",
    "write_profile",
]

SUFFIX = ".profile.json"
MAX_BYTES = 2**20
LEAST = 3
"""Points that differ in size, below which no line has an error."""

Kind = Literal["model", "matmul", "attention", "mlp", "conv"]
KINDS: tuple[Kind, ...] = ("model", "matmul", "attention", "mlp", "conv")


class ProfileError(HarnessError):
    """A profile that cannot be read, or whose points make no line."""


# --- the line -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """``fixed + slope * x``, for ``low <= x <= high``.

    ``error`` is the root mean square, and ``worst`` the largest, of the points' leave-one-out errors: what a
    point lies beside the line through all others, as a share of what that line says.
    """

    fixed: float
    slope: float
    error: float
    worst: float
    low: float
    high: float
    points: int

    def at(self, x: float) -> float:
        return self.fixed + self.slope * x

    def covers(self, x: float) -> bool:
        """Whether points lie on both sides, within 1%; beyond them even the error is a guess."""
        return 0.99 * self.low <= x <= 1.01 * self.high


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line with the least sum of squared *relative* residuals, neither of whose terms is negative.

    Points of a profile are decades apart: in seconds the largest alone would make the line. An inference that
    costs less than nothing, or less the more it computes, is no model of anything. The error is by leaving
    each point out in turn (Stone, "Cross-validatory choice and assessment of statistical predictions", 1974).

    Raises:
        ValueError: fewer than three different ``xs``, a value that is not positive, or ``ys`` that do not rise.
    """
    if len(xs) != len(ys) or not all(0 < value < float("inf") for value in (*xs, *ys)):
        raise ValueError("a line needs positive, finite values")
    if len(set(xs)) < LEAST:
        raise ValueError(f"a line with an error needs {LEAST} points of different size, not {len(set(xs))}")
    fixed, slope = _least(xs, ys)
    if slope == 0:
        raise ValueError("the larger points take no longer: no line")
    shares = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        a, b = _least([*xs[:i], *xs[i + 1 :]], [*ys[:i], *ys[i + 1 :]])
        shares.append(abs(y / (a + b * x) - 1))
    rms = (sum(share**2 for share in shares) / len(shares)) ** 0.5
    return Line(fixed, slope, rms, max(shares), min(xs), max(xs), len(xs))


def _least(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """(a, b) >= 0 with the least sum of ((a + b x) / y - 1)^2."""
    import numpy as np

    y = np.asarray(ys, float)
    rows = np.stack([1 / y, np.asarray(xs, float) / y], axis=1)
    scale = rows.max(axis=0)
    rows = rows / scale
    (a, b), *_ = np.linalg.lstsq(rows, np.ones(len(y)), rcond=None)
    if min(a, b) < 0:  # convex, so the best is on an edge: one term alone
        alone = rows.sum(axis=0) / (rows**2).sum(axis=0)
        left = [float(((rows[:, k] * alone[k] - 1) ** 2).sum()) for k in (0, 1)]
        a, b = (alone[0], 0.0) if left[0] < left[1] else (0.0, alone[1])
    return float(a / scale[0]), float(b / scale[1])


# --- the profile ----------------------------------------------------------------------------------


class Point(Params):
    """One thing that was timed, at batch 1."""

    what: str = Field(min_length=1, max_length=200)
    kind: Kind
    macs: int = Field(gt=0, description="all multiply-accumulates, attention's included")
    macs_linear: int = Field(
        ge=0, description="those of linear and convolution layers, and their biases (C1)"
    )
    bytes: int = Field(gt=0, description="weights, input and output: the least that it moves")
    seconds: float = Field(gt=0, lt=1e6, description="one inference, the median where there were several")
    weight_bytes: int | None = Field(None, ge=0)
    memory_bytes: int | None = Field(None, gt=0, description="the worker's greatest size")
    queries: int | None = Field(None, ge=1, description="inferences that were timed")
    flags: tuple[str, ...] = Field((), description="what disturbed them")
    source: str = Field("", max_length=500, description="where a published one is printed")


class Link(Params):
    """A device's link to the others: ``bytes`` take ``rtt / 2 + 8 * bytes / rate`` one way."""

    rate_mbps: float | None = Field(None, gt=0, le=1e6, description="10^6 bits per second; None: no limit")
    rtt_ms: float = Field(0.0, ge=0, le=1e6, description="round trip of a small message")
    origin: str = Field("", max_length=200)

    @property
    def latency(self) -> float:
        """Seconds that a message is on its way."""
        return self.rtt_ms / 2e3

    def occupied(self, sent: float) -> float:
        """Seconds for which bytes keep the link busy."""
        return 8 * sent / (self.rate_mbps * 1e6) if self.rate_mbps is not None else 0.0

    def seconds(self, sent: float) -> float:
        """One message, one way."""
        return self.latency + self.occupied(sent)

    def joined(self, other: Link) -> Link:
        """The link between two devices by those of each to the others: the slower of both."""
        rates = [one.rate_mbps for one in (self, other) if one.rate_mbps is not None]
        return Link(rate_mbps=min(rates, default=None), rtt_ms=max(self.rtt_ms, other.rtt_ms))


class Profile(Params):
    """A device's points under one runtime and number of threads."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME, max_length=80)
    device_model: str = Field(min_length=1, max_length=200)
    provenance: Literal["measured", "emulated", "published"]
    origin: str = Field(min_length=1, max_length=1000, description="command and versions, or the paper")
    made: str = Field("", max_length=40, description="when, in UTC")
    processor: str = Field(
        "", pattern=r"^[a-z0-9]*$", description="which of several, like cuda; empty: the CPU"
    )
    runtime: str | None = Field(None, description="None: not told")
    precision: str | None = None
    threads: int | None = Field(None, ge=1, description="None: not told")
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
        return f"{self.name} ({self.provenance})"

    @cached_property
    def line(self) -> Line:
        """Seconds of a part by its GMACs, from whole models.

        Raises:
            ProfileError: the points make no line.
        """
        return self.line_of("model")

    def line_of(self, kind: Kind) -> Line:
        """Seconds by GMACs, from the points of one kind.

        Raises:
            ProfileError: they make no line.
        """
        chosen = [point for point in self.points if point.kind == kind]
        try:
            return fit([point.macs / 1e9 for point in chosen], [point.seconds for point in chosen])
        except ValueError as error:
            raise ProfileError(f"profile {self.name}, {kind}: {error}") from None

    def memory(self) -> Line | None:
        """A worker's greatest size by its weights, in MiB; ``None`` where it was not read or makes no line."""
        known = [p for p in self.points if p.kind == "model" and p.memory_bytes and p.weight_bytes]
        mib = [[(getattr(p, key) or 0) / 2**20 for p in known] for key in ("weight_bytes", "memory_bytes")]
        try:
            return fit(*mib)
        except ValueError:
            return None

    def summary(self) -> dict[str, Any]:
        """What a placer or a sketch gets, as ``details["profile"]`` of a device."""
        line = self.line
        return {
            "name": self.name, "device_model": self.device_model, "provenance": self.provenance,
            "processor": self.processor, "runtime": self.runtime, "threads": self.threads, "fixed_s": line.fixed, "s_per_gmac": line.slope,
            "error": line.error, "worst": line.worst, "low_gmacs": line.low, "high_gmacs": line.high,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The file's content; ``lines`` are told for readers, and made anew when it is read."""
        told = {}
        for kind in KINDS:
            try:
                line = self.line_of(kind)
            except ProfileError:
                continue
            told[kind] = {
                "fixed_s": line.fixed, "s_per_gmac": line.slope, "error": line.error, "worst": line.worst,
                "low_gmacs": line.low, "high_gmacs": line.high, "points": line.points,
            }  # fmt: skip
        return {**self.model_dump(mode="json"), "lines": told}


# --- files ----------------------------------------------------------------------------------------


def profiles_folder() -> Path:
    """``$HARNESS_PROFILES``, else ``harness/profiles`` in the user's data folder."""
    own = os.environ.get("HARNESS_PROFILES")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "harness" / "profiles"


def read_profile(path: Path) -> Profile:
    """Read one file.

    Raises:
        ProfileError: it is no profile; one line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise ProfileError(f"{path}: larger than a profile may be: at most {MAX_BYTES:,} bytes")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ProfileError(f"{path}: no profile: expected an object")
    tree.pop("lines", None)
    try:
        profile = Profile.model_validate(tree)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ProfileError(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}") from None
    _ = profile.line  # refused here, not in the middle of a plan
    return profile


def write_profile(profile: Profile, path: Path | None = None) -> Path:
    """Keep a profile where plans look for it, or in ``path``; whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    about = (profile.name, profile.processor, profile.runtime or "any", f"{profile.threads or 'any'}.json")
    path = path or profiles_folder() / ".".join(filter(None, about))
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(profile.to_json(), indent=1) + "\n")
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def load_profile(name: str, threads: int | None = None, runtime: str | None = None) -> Profile:
    """A file, or the name of a profile that was measured here or is shipped; ``threads`` and ``runtime`` choose
    among several of one device.

    Raises:
        ProfileError: there is none, or it cannot be read.
    """
    path = Path(name)
    if path.is_file():
        return read_profile(path)
    found = stored_profile((name,), threads, runtime) or stored_profile((name,), None, None)
    if found is not None:
        return found
    shipped = {key.rpartition("/")[2]: path for key, path in shipped_files(SUFFIX).items()}
    if name in shipped:
        return read_profile(shipped[name])
    known = {*shipped, *(path.name.partition(".")[0] for path in _stored())}
    raise ProfileError(f"profile {name}: no such file or profile; {nearest(name, known)}")


def stored_profile(
    names: Iterable[str], threads: int | None, runtime: str | None, processor: str | None = None
) -> Profile | None:
    """The first of ``names`` that was measured so; ``None`` stands for any, the CPU and ONNX Runtime before others.

    Raises:
        ProfileError: its file cannot be read.
    """
    asked = {"threads": threads, "runtime": runtime, "processor": processor}
    for name in names:
        found = [
            _kept(path, path.stat().st_mtime_ns) for path in _stored() if path.name.partition(".")[0] == name
        ]
        matches = [
            profile
            for profile in found
            if all(value in (None, getattr(profile, key)) for key, value in asked.items())
        ]
        if matches:
            return min(
                matches, key=lambda one: (one.processor, one.runtime != "onnxruntime", one.threads or 0)
            )
    return None


def profile_of(spec: DeviceSpec, runtime: str | None = None) -> Profile | None:
    """What was measured of a suite's device, for its threads.

    Raises:
        ProfileError: its file cannot be read.
    """
    return stored_profile(names_of(spec), spec.threads, runtime, processor_of(spec))


def processor_of(spec: DeviceSpec) -> str:
    """What of a board computes (``device``, a parameter of boards with several processors); empty for its CPU."""
    return str(getattr(spec.params, "device", "cpu")).removeprefix("cpu")


def names_of(spec: DeviceSpec) -> tuple[str, ...]:
    """Under which names a device's profile may stand: the board's, the suite's, the backend's."""
    board = getattr(spec.params, "board", None)
    return tuple(dict.fromkeys(name for name in (board, spec.name, spec.backend) if name))


def profiled(specs: Sequence[DeviceSpec], infos: Sequence[DeviceInfo]) -> tuple[DeviceInfo, ...]:
    """``infos`` with ``profile`` and ``link`` in their details where a profile was measured: for placers and
    sketches alone, so that no cell's identity or record depends on it.

    Raises:
        ProfileError: a profile cannot be read.
    """
    from dataclasses import replace

    found = []
    for spec, info in zip(specs, infos, strict=True):
        profile = profile_of(spec)
        if profile is not None:
            details = {**info.details, "profile": profile.summary()}
            if profile.link is not None:
                details.setdefault("link", profile.link.model_dump())
            info = replace(info, details=details)
        found.append(info)
    return tuple(found)


def link_of(info: DeviceInfo) -> Link | None:
    """A device's link to the others, from its details."""
    told = info.details.get("link")
    if told is None:
        return None
    return Link(**{key: told[key] for key in Link.model_fields if key in told})


@lru_cache(maxsize=256)
def _kept(path: Path, changed_ns: int) -> Profile:
    return read_profile(path)


def _stored() -> list[Path]:
    return sorted(profiles_folder().glob("*.json"))
