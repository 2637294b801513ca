"""The backends for boards over the network: ``raspberry-pi``, ``jetson`` and ``agent``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from harness.hookspecs import hookimpl
from harness.types import BackendEntry
from harness_remote.inventory.boards import BoardParams, GpuBoardParams, describe, open_board, probe

__all__ = ["harness_backends"]

_BACKENDS = {
    "raspberry-pi": ("a Raspberry Pi that runs the agent", BoardParams),
    "jetson": ("an NVIDIA Jetson that runs the agent", GpuBoardParams),
    "agent": ("any other Linux machine that runs the agent", GpuBoardParams),
}


@hookimpl
def harness_backends() -> Iterable[BackendEntry]:
    """Yield the backends ``raspberry-pi``, ``jetson`` and ``agent``. They differ in summary and parameters."""
    for name, (summary, params) in _BACKENDS.items():
        yield BackendEntry(
            name=name,
            summary=summary,
            params=params,
            requires=("grpc",),
            extra="agent",
            probe=partial(probe, name),
            describe=describe,
            open=open_board,
        )
