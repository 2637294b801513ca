"""What the machine is, and what it did while a window was open.

Signals that cannot be read are absent; none is guessed. Files are read below ``root``, so that tests can
put a tree of their own in its place.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from harness.artifacts import default_cache
from harness.errors import StorageError
from harness.types import Samples

__all__ = ["FLAGS", "Window", "cpu_capability", "cpu_model", "flags", "host", "machine_id"]

FLAGS = ("throttled", "contended", "unsteady", "swapped", "short")

PACKAGES = (
    "edge-harness", "numpy", "torch", "timm", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript",
    "safetensors", "pillow", "pyarrow", "scikit-learn", "nvidia-ml-py",
)  # fmt: skip

ROOT = Path("/")
TICK = os.sysconf("SC_CLK_TCK")

FOREIGN_SHARE = 0.1
DELAY_SHARE = 0.05
DRIFT = 0.1


# --- static facts -------------------------------------------------------------------------------


def host() -> dict[str, Any]:
    """Facts of this machine and interpreter that do not change during a run. No name, no user, no path."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "machine_id": machine_id(),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(logical=True),
        "memory_bytes": memory.total,
        "cpu_capability": cpu_capability(),
        "governor": governor(),
        "virtualised": virtualised(),
        "versions": _versions(),
    }


def machine_id(root: Path = ROOT) -> str:
    """16 hex digits that stay the same on one installation and say nothing else of it.

    A salted hash of ``/etc/machine-id`` (man 5 machine-id asks not to show it); where there is none, a
    random one kept in the harness's cache folder.

    Raises:
        StorageError: there is no ``/etc/machine-id``, and the cache folder cannot be written.
    """
    own = _text(root / "etc/machine-id")
    if own is None or len(own) != 32:
        own = _kept_id(default_cache() / "machine-id")
    return hashlib.sha256(f"edge-harness machine {own}".encode()).hexdigest()[:16]


def _kept_id(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"machine-id.{os.getpid()}")
        new.write_text(uuid.uuid4().hex)
        try:
            os.link(new, path)  # whole or not at all, and the first of two wins
        except FileExistsError:
            pass
        finally:
            new.unlink()
        return path.read_text()
    except OSError as error:
        raise StorageError(f"cannot keep this machine's id in {path}: {error.strerror or error}") from None


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name; on a board the board's, which Arm's ``cpuinfo`` lacks."""
    board = _text(root / "proc/device-tree/model")
    return board or _cpuinfo(root).get("model name") or platform.processor() or platform.machine()


def cpu_capability(root: Path = ROOT) -> str:
    """The vector extension that decides results and speed: avx512, avx2, sve, neon or default.

    As torch chooses its kernels, ``ATEN_CPU_CAPABILITY`` included; that can only lower it.
    """
    info = _cpuinfo(root)
    names = set((info.get("flags") or info.get("Features") or "").split())
    if "sve" in names:
        return "sve"
    if "asimd" in names:
        return "neon"
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "")
    wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"} <= names
    if wide and asked not in ("avx2", "default"):
        return "avx512"
    if {"avx2", "fma"} <= names and asked != "default":
        return "avx2"
    return "default"


def governor(root: Path = ROOT) -> str | None:
    """The CPU frequency governor, several joined with ``+``; ``None`` where the kernel shows none."""
    found = {_text(path) for path in _each(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    return "+".join(sorted(name for name in found if name)) or None


def virtualised(root: Path = ROOT) -> bool | None:
    """Whether a hypervisor is below; ``None`` where that can't be told."""
    if "flags" in _cpuinfo(root):
        return "hypervisor" in _cpuinfo(root)["flags"].split()
    if (root / "proc/device-tree").is_dir():
        return (root / "proc/device-tree/hypervisor").exists()
    return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# --- a window -----------------------------------------------------------------------------------


class Window:
    """Watches the machine while the block runs, by reading counters before and after; ``signals`` then holds

    - ``wall_s``; ``cpu_s`` of this process, threads included; ``cores`` that it may use,
    - ``foreign_cores``: mean number of those cores that other processes kept busy (``peers``, the process
      ids of workers that belong to the measurement, are not foreign), ``steal_cores`` the hypervisor's,
    - ``delay_s``: time that this process's threads could have run and had to wait for a core,
    - ``voluntary_switches``, ``involuntary_switches``, ``major_faults`` of this process,
    - ``swap_in_pages`` of the whole machine, ``thermal_events`` (x86 counters of thermal throttling),
      ``cooling`` (passive cooling devices at work at the end),
    - ``temperature_start_c``, ``temperature_end_c`` (hottest zone), ``mhz_start``, ``mhz_end`` (mean).

    Counters tick in 10 ms: windows below a second make ``foreign_cores`` coarse.
    """

    def __init__(self, peers: Sequence[int] = (), root: Path = ROOT) -> None:
        self.signals: dict[str, float] = {}
        self._root, self._peers = root, tuple(peers)
        self._cpus: set[int] = set()
        if hasattr(os, "sched_getaffinity"):
            for pid in (0, *self._peers):
                self._cpus |= os.sched_getaffinity(pid)

    def __enter__(self) -> Window:
        self._start = self._read()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall = time.perf_counter() - self._began
        start, end = self._start, self._read()
        change = {key: end[key] - start[key] for key in start.keys() & end.keys()}
        self.signals = {"wall_s": wall, "cpu_s": change["cpu_s"], "cores": float(len(self._cpus) or 1)}
        for key in ("voluntary_switches", "involuntary_switches", "major_faults", "swap_in_pages", "delay_s"):
            if key in change:
                self.signals[key] = change[key]
        if "thermal_events" in change:
            self.signals["thermal_events"] = change["thermal_events"]
        if "cooling" in end:
            self.signals["cooling"] = end["cooling"]
        if "busy_s" in change:
            own = change["cpu_s"] + change["peers_s"]
            self.signals["foreign_cores"] = max(0.0, (change["busy_s"] - own) / wall)
            self.signals["steal_cores"] = change["steal_s"] / wall
        for key in ("temperature_c", "mhz"):
            for moment, values in (("start", start), ("end", end)):
                if key in values:
                    name, _, unit = key.rpartition("_")
                    self.signals[f"{name}_{moment}_{unit}" if name else f"{key}_{moment}"] = values[key]

    def _read(self) -> dict[str, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        now: dict[str, float] = {
            "cpu_s": own.ru_utime + own.ru_stime,
            "voluntary_switches": own.ru_nvcsw,
            "involuntary_switches": own.ru_nivcsw,
            "major_faults": own.ru_majflt,
        }
        now.update(self._processors())
        # man 5 proc_schedstat: time on the CPU, time runnable but waiting for one, slices; per thread
        delays = [
            text.split()[1]
            for path in _each(self._root, "proc/self/task/*/schedstat")
            if (text := _text(path))
        ]
        now.update({"delay_s": sum(map(int, delays)) / 1e9} if delays else {})
        for line in (_text(self._root / "proc/vmstat") or "").splitlines():
            if line.startswith("pswpin "):
                now["swap_in_pages"] = float(line.split()[1])
        system = "sys/devices/system/cpu/cpu[0-9]*"
        readings = {
            "thermal_events": _numbers(self._root, f"{system}/thermal_throttle/core_throttle_count"),
            "cooling": self._cooling(),
            "temperature_c": [t / 1000 for t in _numbers(self._root, "sys/class/thermal/thermal_zone*/temp")],
            "mhz": [f / 1000 for f in _numbers(self._root, f"{system}/cpufreq/scaling_cur_freq")],
        }
        how: Mapping[str, Callable[[Sequence[float]], float]] = {
            "thermal_events": sum,
            "cooling": sum,
            "temperature_c": max,
            "mhz": _mean,
        }
        return now | {key: float(how[key](values)) for key, values in readings.items() if values}

    def _processors(self) -> dict[str, float]:
        """Busy and stolen seconds of the cores in use, and CPU seconds of the peers."""
        busy = steal = 0.0
        lines = (_text(self._root / "proc/stat") or "").splitlines()
        rows = [line.split() for line in lines if line.startswith("cpu")]
        rows = [row for row in rows if row[0] != "cpu" and int(row[0][3:]) in self._cpus]
        if not rows:
            return {}
        for _, user, nice, system, _idle, _iowait, irq, softirq, stolen, *_guest in rows:
            busy += sum(map(int, (user, nice, system, irq, softirq))) / TICK
            steal += int(stolen) / TICK
        peers = 0.0
        for pid in self._peers:
            stat = _text(self._root / f"proc/{pid}/stat")
            if stat:
                fields = stat.rpartition(")")[2].split()
                peers += (int(fields[11]) + int(fields[12])) / TICK
        return {"busy_s": busy, "steal_s": steal, "peers_s": peers}

    def _cooling(self) -> list[float]:
        """1 for each device that now holds the processor's clock down, 0 for each that could."""
        found = []
        for folder in _each(self._root, "sys/class/thermal/cooling_device*"):
            kind, state = (_text(folder / "type") or "").lower(), _text(folder / "cur_state")
            if state and state.isdecimal() and ("cpufreq" in kind or kind == "processor"):
                found.append(float(state != "0"))
        return found


def flags(samples: Samples) -> list[str]:
    """What disturbed a window, in the vocabulary and order of :data:`FLAGS`.

    ``throttled``: the kernel counted thermal throttling, or a cooling device held the clock at the end.
    ``contended``: others (foreign processes, the hypervisor) took over 10% of the cores in use *and* this
    process waited for a core over 5% of the time that it could have run (or the kernel doesn't tell that).
    Others' load on a core that this process left free is in the signals, and not flagged.
    ``unsteady``: warm-up met no steady state, or the medians of the window's halves differ by over 10%.
    ``swapped``: the machine read pages from swap while this process waited for pages.
    ``short``: the maximum time ended the window before both minima were met.
    """
    return [name for name, found in zip(FLAGS, _disturbances(samples), strict=True) if found]


def _disturbances(samples: Samples) -> Iterable[bool]:
    seen: Mapping[str, Any] = samples.environment
    yield bool(seen.get("thermal_events", 0) or seen.get("cooling", 0))
    yield _contended(seen)
    yield not samples.steady or _drifts(samples.latency_ns)
    yield bool(seen.get("swap_in_pages", 0) and seen.get("major_faults", 0))
    yield not samples.reached


def _contended(seen: Mapping[str, Any]) -> bool:
    if "foreign_cores" not in seen:
        return False
    if "delay_s" in seen:
        waited = seen["delay_s"] + seen["steal_cores"] * seen["wall_s"]
        if waited <= DELAY_SHARE * (seen["cpu_s"] + waited):
            return False
    return bool(seen["foreign_cores"] + seen["steal_cores"] > FOREIGN_SHARE * seen["cores"])


def _drifts(latency_ns: np.ndarray[Any, np.dtype[np.int64]]) -> bool:
    if len(latency_ns) < 20:
        return False
    half = len(latency_ns) // 2
    early, late = float(np.median(latency_ns[:half])), float(np.median(latency_ns[-half:]))
    return abs(late - early) > DRIFT * min(early, late)


# --- small files --------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def _each(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


def _numbers(root: Path, pattern: str) -> list[float]:
    found = []
    for path in _each(root, pattern):
        text = _text(path)
        if text and text.lstrip("-").isdecimal():
            found.append(float(text))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries of ``/proc/cpuinfo``."""
    found: dict[str, str] = {}
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
