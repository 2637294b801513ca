"""Memory of this process, as the kernel counts it. All figures in bytes; one that cannot be had is absent.

The peak is ``VmHWM`` after a reset through ``/proc/self/clear_refs``, not ``ru_maxrss``, which a child
inherits through fork and exec. Linux only (man 5 proc).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

__all__ = ["baseline", "mark_baseline", "model_loaded", "peak", "reset_peak", "usage"]

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
    """What :func:`mark_baseline` read last: ``rss``, ``anonymous``, ``file``."""
    return dict(_baseline)
