"""Memory of this process, as the kernel and the GPU's driver count it. In bytes; what cannot be had is absent.

The peak is ``VmHWM`` after a reset through ``/proc/self/clear_refs``, not ``ru_maxrss``, which a child
inherits through fork and exec. Linux only (man 5 proc).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.machine import sysfs

__all__ = [
    "available",
    "baseline",
    "gpu_process_bytes",
    "mark_baseline",
    "model_loaded",
    "on_gpu",
    "peak",
    "reset_peak",
    "usage",
]

_KEYS = {"VmRSS": "rss", "VmHWM": "peak", "RssAnon": "anonymous", "RssFile": "file", "VmSwap": "swap"}
_baseline: dict[str, int] = {}
_loaded: list[int | None] = []


def usage(status: Path = Path("/proc/self/status")) -> dict[str, int]:
    """``rss``, its ``peak`` since the last reset, its ``anonymous`` and ``file`` pages, and ``swap``."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return {}
    found = (line.partition(":") for line in lines)
    return {_KEYS[key]: int(value.split()[0]) * 1024 for key, _, value in found if key in _KEYS}


def reset_peak() -> bool:
    """Let the peak begin anew at the present size; ``False`` where the kernel does not admit it.

    What the process has freed goes back to the system first: receiving images leaves holes of many
    megabytes in the heap, more or less of them each time, which are no model's.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc has it, musl has not
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def mark_baseline() -> None:
    """Take the process's size here as its baseline, and let the peak begin; nothing once a model is loaded.

    The worker calls this before it loads the first model. A runtime calls it once more inside ``load``,
    when its library is imported (and has run something small of the same kind, if it allocates at first
    use) and before it reads the model; so the baseline holds the framework, and no model.
    """
    if _loaded:
        return
    reset_peak()
    now = usage()
    _baseline.clear()
    _baseline.update({key: now[key] for key in ("rss", "anonymous", "file") if key in now})
    if (free := available()) is not None:
        _baseline["available"] = free


def model_loaded() -> None:
    """From here on the process holds a model: the baseline stays, and loading's peak is kept."""
    _loaded.append(usage().get("peak"))


def peak(inputs: int) -> int | None:
    """The greatest size since :func:`mark_baseline`: while models loaded, or since :func:`reset_peak`.

    ``inputs`` bytes of images, which the load generator held all the time since then, are not the model's
    and not counted. ``None`` where the kernel does not tell.
    """
    peaks = [*_loaded, usage().get("peak")]
    if None in peaks:
        return None
    *loading, running = (size for size in peaks if size is not None)
    return max([*loading, running - inputs])


def baseline() -> Mapping[str, int]:
    """What :func:`mark_baseline` read last: ``rss``, ``anonymous``, ``file``, and the system's ``available``."""
    return dict(_baseline)


def available() -> int | None:
    """Bytes that the whole system could still give (``MemAvailable``); ``None`` where it does not tell."""
    lines = (sysfs.text(sysfs.root() / "proc/meminfo") or "").splitlines()
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def on_gpu(*, integrated: bool = False) -> dict[str, int]:
    """What the driver and the system know of this process's GPU memory now, for a session on a GPU.

    ``process``: as :func:`gpu_process_bytes`. ``shared``: where CPU and GPU share memory, on a Jetson or if
    ``integrated``, by how much the system's available memory fell since :func:`mark_baseline`; it holds CPU
    memory too, and what other processes took or gave back, and is negative where they gave more.
    """
    found = {}
    if (process := gpu_process_bytes()) is not None:
        found["process"] = process
    before, now = _baseline.get("available"), available()
    if before is not None and now is not None and (integrated or _is_tegra()):
        found["shared"] = before - now
    return found


def gpu_process_bytes() -> int | None:
    """GPU memory of this process on all GPUs by NVML: allocations, context and kernels; ``None`` if it can't tell.

    It cannot where a GPU has no such figure (Jetson), and often not in a container: NVML knows processes
    by the host's numbers, or lists them with 0 bytes.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        used = [_own_bytes(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return None if None in used else sum(size for size in used if size is not None) or None


def _own_bytes(pynvml: Any, index: int) -> int | None:
    """On one GPU; 0 where this process does not use it."""
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetHandleByIndex(index))
    own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return None if None in own or 0 in own else sum(own)


def _is_tegra() -> bool:
    """On a Jetson, by its device tree."""
    return "nvidia,tegra" in (sysfs.text(sysfs.root() / "proc/device-tree/compatible") or "")
