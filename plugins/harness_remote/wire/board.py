"""A board's description, and the version of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["PROTOCOL", "BoardDescription"]


PROTOCOL = 4
"""The version of the protocol. A change that an older client or agent does not understand increases it."""


@dataclass(frozen=True, kw_only=True)
class BoardDescription:
    """A board's description by its agent. A field whose value cannot be read is ``None`` or empty.

    ``model`` is the board's name in its device tree, else the processor's. ``product`` is the machine's name in its
    firmware (DMI). ``onnxruntime`` holds ``version``, ``providers``, highest ``opset`` and ``ir_version``, or the
    ``error`` with which it fails to start. ``jetpack`` holds ``l4t`` and ``release``. ``meters`` are the meters that
    answer, ``absent`` the others with reason and fix. ``state`` has the values of each of ``watches`` at the time of
    the description.
    """

    protocol: int
    harness: str
    model: str
    soc: str | None
    product: str | None
    kind: Literal["cpu", "cuda"]
    cores: int | None
    memory_bytes: int
    arch: str
    os: str
    kernel: str
    python: str
    cpu_capability: str
    governor: str | None
    virtualised: bool | None
    machine_id: str
    boot_id: str | None
    versions: Mapping[str, str]
    onnxruntime: Mapping[str, Any]
    jetpack: Mapping[str, str | None] = field(default_factory=dict)
    meters: Sequence[Mapping[str, Any]] = ()
    absent: Sequence[Mapping[str, Any]] = ()
    watches: Sequence[str] = ()
    state: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
