"""NVIDIA GPUs of this machine, listed through NVML without torch."""

from __future__ import annotations

from typing import Any

import psutil

from harness.devices import install_command
from harness.types import DeviceInfo, Unavailable

__all__ = ["gpus"]


def gpus(name: str = "cuda") -> list[DeviceInfo | Unavailable]:
    """Return all GPUs under the device name ``name``, or one :class:`Unavailable` with the reason why there is none."""
    try:
        import pynvml
    except ImportError:
        return [Unavailable(name=name, reason="nvidia-ml-py is not installed", fix=install_command("nvidia"))]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [
            Unavailable(
                name=name,
                reason=f"no NVIDIA driver answers ({type(error).__name__[10:]})",
                fix="needs an NVIDIA GPU and its driver; `nvidia-smi` shows whether they work",
            )
        ]
    try:
        devices: list[DeviceInfo | Unavailable] = [
            _gpu(pynvml, name, index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    finally:
        pynvml.nvmlShutdown()
    return devices or [Unavailable(name=name, reason="the NVIDIA driver lists no GPU", fix="")]


def _gpu(pynvml: Any, name: str, index: int) -> DeviceInfo:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    details: dict[str, Any] = {
        "index": index,
        "uuid": uuid,
        "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
    }
    try:
        memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError_NotSupported:  # a Jetson: the GPU has no memory of its own
        memory = psutil.virtual_memory().total
        details["shared_memory"] = True
    return DeviceInfo(
        name=name,
        backend="cuda",
        model=_text(pynvml.nvmlDeviceGetName(handle)),
        kind="cuda",
        cores=0,
        memory_bytes=memory,
        watched_as=uuid,
        details=details,
    )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
