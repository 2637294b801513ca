"""Backends for this machine: its CPU and its CUDA GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pydantic import Field

from harness.hookspecs import hookimpl
from harness.types import BackendEntry, Device, DeviceInfo, DeviceSpec, Params, SessionOptions, Unavailable

__all__ = ["CpuParams", "CudaParams", "harness_backends"]


class CpuParams(Params):
    """The cores on which the worker may run."""

    affinity: tuple[int, ...] | None = Field(None, description="cores that the worker may use, like [2, 3]")


class CudaParams(Params):
    """The GPU to use."""

    index: int = Field(0, ge=0, description="number of the GPU, as nvidia-smi counts")


def probe_cpu() -> Iterable[DeviceInfo]:
    """Yield this machine's CPU."""
    yield _cpu("cpu", None)


def describe_cpu(spec: DeviceSpec) -> DeviceInfo:
    """Return the CPU, with the cores that the worker may use.

    Raises:
        ValueError: this process may not use these cores.
    """
    assert isinstance(spec.params, CpuParams)
    wanted, usable = spec.params.affinity, sorted(os.sched_getaffinity(0))
    if wanted is not None:
        outside = sorted(set(wanted) - set(usable))
        if outside or not wanted:
            cores = ", ".join(map(str, usable))
            raise ValueError(
                f"affinity: no core {', '.join(map(str, outside)) or '(empty list)'}; allowed: {cores}"
            )
    return _cpu(spec.name, wanted)


def open_cpu(spec: DeviceSpec) -> Device:
    """Open a worker on the CPU, with the cores and threads of ``spec``."""
    assert isinstance(spec.params, CpuParams)
    return _open(spec, describe_cpu(spec), "cpu", spec.params.affinity or ())


def _open(spec: DeviceSpec, info: DeviceInfo, computes_on: str, affinity: tuple[int, ...] = ()) -> Device:
    """Open a worker on this machine. ``computes_on`` is the device on which its sessions run, like ``cuda:0``."""
    from harness.devices import LocalTransport, WorkerDevice

    forks = computes_on == "cpu"  # a forked process cannot use CUDA
    transport = LocalTransport(info.name, spec.monitor, forks=forks, affinity=affinity)
    return WorkerDevice(info, transport, SessionOptions(threads=spec.threads, device=computes_on))


def _cpu(name: str, affinity: tuple[int, ...] | None) -> DeviceInfo:
    import psutil

    from harness.devices import cpu_model

    return DeviceInfo(
        name=name,
        backend="cpu",
        model=cpu_model(),
        kind="cpu",
        cores=len(affinity or os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        details={"affinity": list(affinity)} if affinity else {},
    )


def probe_cuda() -> Iterable[DeviceInfo | Unavailable]:
    """Return all GPUs of this machine, or one reason why there is none."""
    from harness_local.nvidia import gpus

    return gpus()


def describe_cuda(spec: DeviceSpec) -> DeviceInfo | Unavailable:
    """Return the GPU of the given index, or the reason why no GPU can be used.

    Raises:
        ValueError: there is no GPU of this index.
    """
    from harness_local.nvidia import gpus

    assert isinstance(spec.params, CudaParams)
    devices = gpus(spec.name)
    unusable = [answer for answer in devices if isinstance(answer, Unavailable)]
    if unusable:
        return unusable[0]
    if spec.params.index >= len(devices):
        raise ValueError(f"index: no GPU {spec.params.index}; allowed: 0 to {len(devices) - 1}")
    return devices[spec.params.index]


def open_cuda(spec: DeviceSpec) -> Device:
    """Open a worker whose sessions run on the GPU.

    Raises:
        DeviceError: no GPU can be used.
    """
    from harness.errors import DeviceError

    assert isinstance(spec.params, CudaParams)
    info = describe_cuda(spec)
    if isinstance(info, Unavailable):
        raise DeviceError(f"{info.reason}; {info.fix}")
    return _open(spec, info, f"cuda:{spec.params.index}")


@hookimpl
def harness_backends() -> Iterable[BackendEntry]:
    """Yield the backends ``cpu`` and ``cuda``."""
    yield BackendEntry(
        name="cpu",
        summary="this machine's CPU",
        params=CpuParams,
        probe=probe_cpu,
        describe=describe_cpu,
        open=open_cpu,
    )
    yield BackendEntry(
        name="cuda",
        summary="an NVIDIA GPU of this machine",
        params=CudaParams,
        probe=probe_cuda,
        describe=describe_cuda,
        open=open_cuda,
    )
