"""Memory of this process, in bytes, as the kernel and the GPU's driver count it. An unknown figure is absent.

The peak is ``VmHWM`` after a reset through ``/proc/self/clear_refs``. It is not ``ru_maxrss``, which a child inherits
through fork and exec. Linux only (man 5 proc).
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
    """Return the memory of this process in bytes.

    The keys are ``rss``, its ``peak`` since the last reset, its ``anonymous`` and ``file`` pages, and ``swap``. It is
    empty if the kernel does not give it.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return {}
    entries = (line.partition(":") for line in lines)
    return {_KEYS[key]: int(value.split()[0]) * 1024 for key, _, value in entries if key in _KEYS}


def reset_peak() -> bool:
    """Set the peak to the present size. Return ``False`` if the kernel does not allow it.

    Memory that the process has freed goes back to the system first. Receiving images leaves holes of many megabytes
    in the heap, of a different size each time, which do not belong to the model.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc has it, and musl does not
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
    """Return the bytes of this process on all GPUs by NVML: allocations, context and kernels; None if unknown.

    A Jetson's GPU has no such figure. In a container it is often unknown, since NVML knows processes by the numbers
    of the host, or lists them with 0 bytes.
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
    """Return this process's bytes on one GPU; 0 if it does not use the GPU."""
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetHandleByIndex(index))
    own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return None if None in own or 0 in own else sum(own)


def _is_tegra() -> bool:
    """Return whether this machine is a Jetson, according to its device tree."""
    return "nvidia,tegra" in (sysfs.text(sysfs.root() / "proc/device-tree/compatible") or "")


class ProcessMemory:
    """The memory of this process before and after it loads models: baseline and peak.

    ``free`` and ``gpu`` are functions that return what :func:`available` and :func:`gpu_process_bytes` return.
    """

    def __init__(
        self, free: Callable[[], int | None] = available, gpu: Callable[[], int | None] = gpu_process_bytes
    ) -> None:
        self._free, self._gpu = free, gpu
        self._baseline: dict[str, int] = {}
        self._loading_peaks: list[int | None] = []

    def mark_baseline(self) -> None:
        """Take the present size of the process as its baseline, and reset the peak.

        After a model is loaded, the call has no effect. The worker calls this before it loads the first model. A
        runtime calls it once more inside ``load``, after it imported its library and before it reads the model. A
        library that allocates at first use must have run something small of the same kind before. The baseline then
        contains the framework and no model.
        """
        if self._loading_peaks:
            return
        reset_peak()
        now = usage()
        self._baseline = {key: now[key] for key in ("rss", "anonymous", "file") if key in now}
        if (free := self._free()) is not None:
            self._baseline["available"] = free

    def model_loaded(self) -> None:
        """Note that the process now holds a model.

        The baseline does not change any more, and the peak of loading is kept.
        """
        self._loading_peaks.append(usage().get("peak"))

    def peak(self, inputs: int) -> int | None:
        """Return the largest size in bytes: while models were loaded, or since the last :func:`reset_peak`.

        ``inputs`` is the number of bytes of images that the load generator held since then. They do not belong to the
        model, so they are subtracted. The result is None if the kernel does not give the peak.
        """
        peaks = [*self._loading_peaks, usage().get("peak")]
        if None in peaks:
            return None
        *loading, running = (size for size in peaks if size is not None)
        return max([*loading, running - inputs])

    def baseline(self) -> Mapping[str, int]:
        """Return what :meth:`mark_baseline` read, in bytes.

        The keys are ``rss``, ``anonymous``, ``file``, and the system's ``available``.
        """
        return dict(self._baseline)

    def on_gpu(self, *, integrated: bool = False) -> dict[str, int]:
        """Return the GPU memory of this process now, in bytes, for a session on a GPU. An unknown figure is absent.

        ``process`` is the figure of :func:`gpu_process_bytes`. ``shared`` is given on a Jetson or if ``integrated``,
        where CPU and GPU share memory. It is the decrease of the system's available memory since
        :meth:`mark_baseline`. It includes CPU memory, and memory that other processes took or gave back. It is
        negative if they gave back more.
        """
        known = {}
        if (process := self._gpu()) is not None:
            known["process"] = process
        before, now = self._baseline.get("available"), self._free()
        if before is not None and now is not None and (integrated or _is_tegra()):
            known["shared"] = before - now
        return known


OWN = ProcessMemory()
"""The memory of this process. A runtime's ``load`` marks its baseline with :func:`mark_baseline`."""
mark_baseline = OWN.mark_baseline
on_gpu = OWN.on_gpu
