"""What the machine did while a window was open.

Counters are read before and after the window (:class:`Window`). Temperatures, clocks and causes of throttling are also
read within it, by the sampler (:func:`watch`, :func:`over_time`). A signal that cannot be read is absent; none is
guessed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.machine import sysfs
from harness.machine.environment import governor
from harness.types import Watch
from harness.types.json import JsonObject, Signals

__all__ = ["Window", "over_time", "watch"]

TICK = os.sysconf("SC_CLK_TCK")
CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
THERMAL_EVENTS = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
ZONES = "sys/class/thermal/thermal_zone*/temp"


# --- within a window -----------------------------------------------------------------------------------


def watch() -> Watch | None:
    """Return a :data:`~harness.types.Watch` of what Linux says of this machine, or None where it says nothing."""
    root = sysfs.root()
    return (lambda: _linux(root)) if _linux(root) else None


def _linux(root: Path) -> JsonObject:
    """Return the hottest zone, the mean and the slowest clock, the governor, and whether a cooling device acts."""
    zones, clocks = sysfs.numbers(root, ZONES), sysfs.numbers(root, CLOCKS)
    cooling = _cooling(root)
    state: JsonObject = {}
    if zones:
        state["temperature_c"] = max(zones) / 1000
    if clocks:
        state |= {"mhz": sum(clocks) / len(clocks) / 1000, "mhz_slowest": min(clocks) / 1000}
    if name := governor(root):
        state["governor"] = name
    if cooling:
        state["throttle"] = ["cooling device"] if any(cooling) else []
    return state


def _cooling(root: Path) -> list[float]:
    """Return 1 for each device that now lowers the processor's clock, 0 for each that could."""
    acts = []
    for folder in sysfs.each(root, "sys/class/thermal/cooling_device*"):
        kind, state = (sysfs.text(folder / "type") or "").lower(), sysfs.text(folder / "cur_state")
        if state and state.isdecimal() and ("cpufreq" in kind or kind == "processor"):
            acts.append(float(state != "0"))
    return acts


def over_time(
    states: Sequence[tuple[int, str, Signals]], begin_ns: int, end_ns: int
) -> dict[str, JsonObject]:
    """Return what each source saw: of a number its values before, after, least and most; lists joined; else the last value.

    ``states`` are (monotonic nanoseconds, source, signals). Extremes, ``throttle`` and ``power_cap`` are those
    between ``begin_ns`` and ``end_ns``, or of the samples next to that span where none is inside. ``power_cap`` is the
    share of samples in which it was true.
    """
    seen: dict[str, JsonObject] = {}
    for source in dict.fromkeys(name for _, name, _ in states):
        own = [(ns, signals) for ns, name, signals in states if name == source]
        inside = [signals for ns, signals in own if begin_ns <= ns <= end_ns]
        before = [signals for ns, signals in own if ns < begin_ns][-1:]
        after = [signals for ns, signals in own if ns > end_ns][:1]
        around = [*before, *inside, *after]
        seen[source] = {}
        for key in dict.fromkeys(key for signals in around for key in signals):
            values = [signals[key] for signals in (inside or around) if key in signals]
            edges = [signals[key] for signals in around if key in signals]
            seen[source] |= _summary(key, values or edges, edges)
    return seen


def _summary(key: str, values: Sequence[Any], edges: Sequence[Any]) -> JsonObject:
    if isinstance(edges[0], bool):
        return {f"{key}_share": sum(map(bool, values)) / len(values)}
    if isinstance(edges[0], int | float):
        return {key: {"before": edges[0], "after": edges[-1], "least": min(values), "most": max(values)}}
    if isinstance(edges[0], list):
        return {key: sorted({item for value in values for item in value})}
    return {key: edges[-1]}


# --- before and after ---------------------------------------------------------------------------


class Window:
    """Reads the machine's counters before and after a block; ``signals`` then holds

    - ``wall_s``; ``cpu_s`` of this process, threads included; ``cores`` that it may use,
    - ``foreign_cores``: mean number of those cores that other processes kept busy (``peers``, the process
      ids of workers that belong to the measurement, and ``helpers``, those of samplers, are not foreign),
      ``elsewhere_cores`` the same of the machine's other cores, ``steal_cores`` those that the hypervisor took,
    - ``delay_s``: time in which this process's threads could have run and waited for a core,
    - ``voluntary_switches``, ``involuntary_switches``, ``major_faults`` of this process,
    - ``swap_in_pages`` of the whole machine, ``thermal_events`` (x86 counters of thermal throttling).

    Counters tick in 10 ms: windows below a second make ``foreign_cores`` coarse.
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
        # man 5 proc_schedstat: time on the CPU, time runnable but waiting for one, slices; per thread
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
        """Return busy and stolen seconds of the cores in use, busy seconds of the others, CPU seconds of peers and helpers."""
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
