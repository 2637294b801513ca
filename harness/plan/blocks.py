"""Run blocks of a suite: the methods, devices, runtimes and measuring rules that each combines."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from harness.errors import SuiteError, nearest
from harness.plan.resolve import Resolved
from harness.suite.entry_ref import NamedEntry
from harness.suite.suite import RunItem, Suite
from harness.suite.validate import validated
from harness.suite.yamlfile import KeyPath
from harness.types.measure import Measure

__all__ = ["Setting", "settings"]


@dataclass(frozen=True)
class Setting:
    """One method on one device or fleet under one runtime.

    ``runtime_path`` is the place in the suite that names the runtime.
    """

    method: str
    device: str
    runtime: NamedEntry
    runtime_path: KeyPath
    measure: Measure


def settings(resolved: Resolved, only: Collection[str]) -> Iterator[Setting]:
    """Yield the settings of all run blocks, in the order of the suite.

    ``only`` are patterns. They keep the methods whose names match one of them; all if there are none.

    Raises:
        SuiteError: a block names something unknown, or its devices cannot give what it measures.
    """
    suite = resolved.suite
    for index, item in enumerate(suite.run):
        measure = _measure(suite, item, index)
        _check_generator(suite, measure, index)
        _check_cool_down(resolved, measure, index)
        _check_energy(resolved, measure, index)
        for method in _selected(suite, item, index, only):
            for runtime, path in _runtimes(suite, item, index, method):
                for device in item.devices:
                    yield Setting(method, device, runtime, path, measure)


def _measure(suite: Suite, item: RunItem, index: int) -> Measure:
    if not item.measure:
        return suite.measure
    merged = {**suite.measure.model_dump(exclude_unset=True), **item.measure}
    return validated(Measure, merged, suite.source, ("run", index, "measure"))


def _selected(suite: Suite, item: RunItem, index: int, only: Collection[str]) -> Sequence[str]:
    names = list(suite.methods)
    if item.methods != "all":
        chosen: dict[str, None] = {}
        for position, pattern in enumerate(item.methods):
            matches = fnmatch.filter(names, pattern)
            if not matches:
                where = suite.source.where("run", index, "methods", position)
                raise SuiteError(f"{where}: no method {pattern!r}; {nearest(pattern, names)}")
            chosen.update(dict.fromkeys(matches))
        names = list(chosen)
    for pattern in only:
        if not fnmatch.filter(suite.methods, pattern):
            raise SuiteError(f"--only {pattern}: no method matches; {nearest(pattern, suite.methods)}")
    return [name for name in names if not only or any(fnmatch.fnmatch(name, pattern) for pattern in only)]


def _runtimes(suite: Suite, item: RunItem, index: int, method: str) -> Sequence[tuple[NamedEntry, KeyPath]]:
    """Return the runtimes of the block.

    By default it is the runtime of the method, or of the nearest method before it.
    """
    if item.runtimes:
        return [(ref, ("run", index, "runtimes", i)) for i, ref in enumerate(item.runtimes)]
    holder: str | None = method
    while holder is not None:
        runtime = suite.methods[holder].runtime
        if runtime is not None:
            return [(runtime, ("methods", holder, "runtime"))]
        holder = suite.methods[holder].from_
    return [(suite.defaults.runtime, ("defaults", "runtime"))]


# --- checks ---------------------------------------------------------------------------------------


def _check_generator(suite: Suite, measure: Measure, index: int) -> None:
    if measure.generator != "loadgen":
        return
    from harness.worker.loadgen import mlperf  # imports numpy

    if (needs := mlperf.needs()) is not None:
        raise SuiteError(f"{_where(suite, 'generator', index)}: {needs}")


def _check_cool_down(resolved: Resolved, measure: Measure, index: int) -> None:
    """Refuse to wait for a temperature that nothing reads. The central device is the one that waits.

    Raises:
        SuiteError: no watch reads a temperature on that machine.
    """
    if measure.cool_down is None:
        return
    suite = resolved.suite
    for device in suite.run[index].devices:
        target = resolved.target(device, suite.defaults.threads)
        central = None if target.unavailable else target.infos[target.central]
        machine, known = "this machine", resolved.monitors.meters.tells_temperature()
        if central is not None and central.is_board:
            machine, known = central.name, "temperature_c" in central.signals
        if not known:
            where = _where(suite, "cool_down", index)
            raise SuiteError(f"{where}: no sensor gives a temperature on {machine}; remove the key")


def _check_energy(resolved: Resolved, measure: Measure, index: int) -> None:
    if measure.energy != "require":
        return
    suite = resolved.suite
    for device in suite.run[index].devices:
        target = resolved.target(device, suite.defaults.threads)
        monitors, why = resolved.monitors.of(target, measure)
        if not any(monitor.meters for monitor in monitors):
            where = _where(suite, "energy", index)
            raise SuiteError(
                f"{where}: require needs a meter, but on {device} {why}; see `harness devices list`"
            )


def _where(suite: Suite, key: str, index: int) -> str:
    inside = key in (suite.run[index].measure or {})
    return suite.source.where(*(("run", index, "measure", key) if inside else ("measure", key)))
