"""The state of the machine while a window is open.

Counters are read before and after the window (:class:`Window`). The sampler also reads temperatures, clocks and
causes of throttling within the window (:func:`watch`, :func:`over_time`). A signal that cannot be read is absent. No
signal is guessed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.machine import sysfs
from harness.machine.environment import governor
from harness.types import Watch
from harness.types.json import Signals

__all__ = ["Window", "over_time", "watch"]

TICK = os.sysconf("SC_CLK_TCK")
CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
THERMAL_EVENTS = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
ZONES = "sys/class/thermal/thermal_zone*/temp"


# --- within a window -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LinuxState:
    """The present state of this machine, as far as Linux shows it. A value that it does not show is None.

    It has the hottest zone, the mean and the slowest clock, the governor, and the causes that lower the clock.
    """

    temperature_c: float | None
    mhz: float | None
    mhz_slowest: float | None
    governor: str | None
    throttle: list[str] | None

    @classmethod
    def read(cls, root: Path) -> _LinuxState:
        zones, clocks, cooling = sysfs.numbers(root, ZONES), sysfs.numbers(root, CLOCKS), _cooling(root)
        return cls(
            temperature_c=max(zones) / 1000 if zones else None,
            mhz=sum(clocks) / len(clocks) / 1000 if clocks else None,
            mhz_slowest=min(clocks) / 1000 if clocks else None,
            governor=governor(root),
            throttle=(["cooling device"] if any(cooling) else []) if cooling else None,
        )

    def signals(self) -> Signals:
        return {name: value for name, value in asdict(self).items() if value is not None}


def watch() -> Watch | None:
    """Return a :data:`~harness.types.Watch` of this machine's state in Linux, or None if Linux shows nothing."""
    root = sysfs.root()
    return (lambda: _LinuxState.read(root).signals()) if _LinuxState.read(root).signals() else None


def _cooling(root: Path) -> list[float]:
    """Return a number for each cooling device of the processor: 1 if it lowers the clock now, else 0."""
    acts = []
    for folder in sysfs.each(root, "sys/class/thermal/cooling_device*"):
        kind, state = (sysfs.text(folder / "type") or "").lower(), sysfs.text(folder / "cur_state")
        if state and state.isdecimal() and ("cpufreq" in kind or kind == "processor"):
            acts.append(float(state != "0"))
    return acts


def over_time(states: Sequence[tuple[int, str, Signals]], begin_ns: int, end_ns: int) -> dict[str, Signals]:
    """Return the signals of each source over a window, by source.

    A number has its values before and after the window, and its least and greatest value in it. Lists are joined. A
    switch becomes the share of samples in which it was true. Of other signals the last value is taken.

    ``states`` are (monotonic nanoseconds, source, signals). Extremes, lists and shares cover the samples from
    ``begin_ns`` to ``end_ns``. If there is no sample in that span, they cover the samples next to it.
    """
    seen: dict[str, Signals] = {}
    for source in dict.fromkeys(name for _, name, _ in states):
        own = [(ns, signals) for ns, name, signals in states if name == source]
        inside = [signals for ns, signals in own if begin_ns <= ns <= end_ns]
        before = [signals for ns, signals in own if ns < begin_ns][-1:]
        after = [signals for ns, signals in own if ns > end_ns][:1]
        around = [*before, *inside, *after]
        summaries = []
        for key in dict.fromkeys(key for signals in around for key in signals):
            values = [signals[key] for signals in (inside or around) if key in signals]
            edges = [signals[key] for signals in around if key in signals]
            summaries.append(_summary(key, values or edges, edges))
        seen[source] = dict(summaries)
    return seen


def _summary(key: str, values: Sequence[Any], edges: Sequence[Any]) -> tuple[str, Any]:
    """Return the name and the value that a record has for the values of one signal."""
    if isinstance(edges[0], bool):
        return f"{key}_share", sum(map(bool, values)) / len(values)
    if isinstance(edges[0], int | float):
        return key, {"before": edges[0], "after": edges[-1], "least": min(values), "most": max(values)}
    if isinstance(edges[0], list):
        return key, sorted({item for value in values for item in value})
    return key, edges[-1]


# --- before and after ---------------------------------------------------------------------------


class Window:
    """Read the machine's counters before and after a block. After the block, ``signals`` contains:

    - ``wall_s``; ``cpu_s`` of this process, threads included; ``cores`` that it may use,
    - ``foreign_cores``: mean number of those cores that other processes kept busy (``peers``, the process ids of
      workers that belong to the measurement, and ``helpers``, those of samplers, are not foreign),
    - ``elsewhere_cores``: mean number of the machine's other cores that were busy,
    - ``steal_cores``: mean number of the cores in use that the hypervisor took,
    - ``delay_s``: time in which this process's threads could have run but waited for a core,
    - ``voluntary_switches``, ``involuntary_switches``, ``major_faults`` of this process,
    - ``swap_in_pages`` of the whole machine, ``thermal_events`` (x86 counters of thermal throttling).

    Counters have a resolution of 10 ms, so ``foreign_cores`` is coarse for windows below one second.
    """

    def __init__(
        self, peers: Sequence[int] = (), helpers: Sequence[int] = (), root: Path | None = None
    ) -> None:
        self.signals: dict[str, float] = {}
        self._root, self._own = root or sysfs.root(), (*peers, *helpers)
        self._cpus: set[int] = set()
        if hasattr(os, "sched_getaffinity"):
            for pid in (0, *peers):
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
        for key in (
            "voluntary_switches",
            "involuntary_switches",
            "major_faults",
            "swap_in_pages",
            "delay_s",
            "thermal_events",
        ):
            if key in change:
                self.signals[key] = change[key]
        if "busy_s" in change:
            own = change["cpu_s"] + change["others_s"]
            self.signals["foreign_cores"] = max(0.0, (change["busy_s"] - own) / wall)
            self.signals["elsewhere_cores"] = change["elsewhere_s"] / wall
            self.signals["steal_cores"] = change["steal_s"] / wall

    def _read(self) -> dict[str, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        now: dict[str, float] = {
            "cpu_s": own.ru_utime + own.ru_stime,
            "voluntary_switches": own.ru_nvcsw,
            "involuntary_switches": own.ru_nivcsw,
            "major_faults": own.ru_majflt,
        }
        now.update(self._processors())
        # Man 5 proc_schedstat gives per thread: time on a CPU, time spent waiting for a CPU, and slices.
        delays = [
            text.split()[1]
            for path in sysfs.each(self._root, "proc/self/task/*/schedstat")
            if (text := sysfs.text(path))
        ]
        now.update({"delay_s": sum(map(int, delays)) / 1e9} if delays else {})
        for line in (sysfs.text(self._root / "proc/vmstat") or "").splitlines():
            if line.startswith("pswpin "):
                now["swap_in_pages"] = float(line.split()[1])
        events = sysfs.numbers(self._root, THERMAL_EVENTS)
        return now | ({"thermal_events": sum(events)} if events else {})

    def _processors(self) -> dict[str, float]:
        """Return counters in seconds.

        ``busy_s`` and ``steal_s`` are of the cores in use, ``elsewhere_s`` is the busy time of the other cores, and
        ``others_s`` is the CPU time of peers and helpers.
        """
        busy = steal = 0.0
        lines = (sysfs.text(self._root / "proc/stat") or "").splitlines()
        rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
        if not rows:
            return {}
        elsewhere = 0.0
        for name, user, nice, system, _idle, _iowait, irq, softirq, stolen, *_guest in rows:
            spent = sum(map(int, (user, nice, system, irq, softirq))) / TICK
            if int(name[3:]) in self._cpus:
                busy += spent
                steal += int(stolen) / TICK
            else:
                elsewhere += spent
        others = 0.0
        for pid in self._own:
            stat = sysfs.text(self._root / f"proc/{pid}/stat")
            if stat:
                fields = stat.rpartition(")")[2].split()
                others += (int(fields[11]) + int(fields[12])) / TICK
        return {"busy_s": busy, "elsewhere_s": elsewhere, "steal_s": steal, "others_s": others}
