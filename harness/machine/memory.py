"""Memory of this process, as the kernel and the GPU's driver count it. In bytes; a figure that is unknown is absent.

The peak is ``VmHWM`` after a reset through ``/proc/self/clear_refs``, not ``ru_maxrss``, which a child
inherits through fork and exec. Linux only (man 5 proc).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.machine import sysfs

__all__ = [
    "OWN",
    "ProcessMemory",
    "available",
    "gpu_process_bytes",
    "mark_baseline",
    "on_gpu",
    "reset_peak",
    "usage",
]

_KEYS = {"VmRSS": "rss", "VmHWM": "peak", "RssAnon": "anonymous", "RssFile": "file", "VmSwap": "swap"}


def usage(status: Path = Path("/proc/self/status")) -> dict[str, int]:
    """Return ``rss``, its ``peak`` since the last reset, its ``anonymous`` and ``file`` pages, and ``swap``."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return {}
    entries = (line.partition(":") for line in lines)
    return {_KEYS[key]: int(value.split()[0]) * 1024 for key, _, value in entries if key in _KEYS}


def reset_peak() -> bool:
    """Let the peak begin again at the present size. Return ``False`` where the kernel does not allow it.

    Memory that the process has freed goes back to the system first: receiving images leaves holes of many
    megabytes in the heap, a different number each time, which are not the model's.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc has it, musl has not
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available() -> int | None:
    """Return the bytes that the whole system can still give (``MemAvailable``), or None if that is unknown."""
    lines = (sysfs.text(sysfs.root() / "proc/meminfo") or "").splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def gpu_process_bytes() -> int | None:
    """Return this process's memory on all GPUs by NVML: allocations, context and kernels; None if it is unknown.

    It is unknown where a GPU has no such figure (Jetson), and often in a container: NVML knows processes
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
    """Return this process's bytes on one GPU; 0 where it does not use the GPU."""
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetHandleByIndex(index))
    own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return None if None in own or 0 in own else sum(own)


def _is_tegra() -> bool:
    """Return whether this is a Jetson, by its device tree."""
    return "nvidia,tegra" in (sysfs.text(sysfs.root() / "proc/device-tree/compatible") or "")


class ProcessMemory:
    """A process's memory before and after it loads models: baseline and peak.

    ``free`` and ``gpu`` say what :func:`available` and :func:`gpu_process_bytes` say.
    """

    def __init__(
        self, free: Callable[[], int | None] = available, gpu: Callable[[], int | None] = gpu_process_bytes
    ) -> None:
        self._free, self._gpu = free, gpu
        self._baseline: dict[str, int] = {}
        self._loading_peaks: list[int | None] = []

    def mark_baseline(self) -> None:
        """Take the process's present size as its baseline, and let the peak begin. Once a model is loaded, do nothing.

        The worker calls this before it loads the first model. A runtime calls it once more inside ``load``,
        when its library is imported (and has run something small of the same kind, if it allocates at first
        use) and before it reads the model; so the baseline holds the framework, and no model.
        """
        if self._loading_peaks:
            return
        reset_peak()
        now = usage()
        self._baseline = {key: now[key] for key in ("rss", "anonymous", "file") if key in now}
        if (free := self._free()) is not None:
            self._baseline["available"] = free

    def model_loaded(self) -> None:
        """Record that the process now holds a model: the baseline stays, and loading's peak is kept."""
        self._loading_peaks.append(usage().get("peak"))

    def peak(self, inputs: int) -> int | None:
        """Return the greatest size since :meth:`mark_baseline`: while models loaded, or since :func:`reset_peak`.

        ``inputs`` bytes of images, which the load generator held since then, are not the model's
        and not counted. None where the kernel does not say.
        """
        peaks = [*self._loading_peaks, usage().get("peak")]
        if None in peaks:
            return None
        *loading, running = (size for size in peaks if size is not None)
        return max([*loading, running - inputs])

    def baseline(self) -> Mapping[str, int]:
        """Return what :meth:`mark_baseline` read last: ``rss``, ``anonymous``, ``file``, and the system's ``available``."""
        return dict(self._baseline)

    def on_gpu(self, *, integrated: bool = False) -> dict[str, int]:
        """Return what the driver and the system know of this process's GPU memory now, for a session on a GPU.

        ``process``: as :func:`gpu_process_bytes`. ``shared``: where CPU and GPU share memory, on a Jetson or if
        ``integrated``, by how much the system's available memory fell since :meth:`mark_baseline`. It holds CPU
        memory too, and what other processes took or gave back; it is negative where they gave more.
        """
        known = {}
        if (process := self._gpu()) is not None:
            known["process"] = process
        before, now = self._baseline.get("available"), self._free()
        if before is not None and now is not None and (integrated or _is_tegra()):
            known["shared"] = before - now
        return known


OWN = ProcessMemory()
"""The memory of this process, which a runtime's ``load`` marks by :func:`mark_baseline`."""
mark_baseline = OWN.mark_baseline
on_gpu = OWN.on_gpu
