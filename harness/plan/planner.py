"""Suite + plugins -> plan: a DAG of preparing nodes, with cells as its measuring leaves.

Pure: reads no data and trains nothing. Nodes that several methods share have one key and stand once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from harness.errors import SuiteError, nearest
from harness.machine.environment import is_board
from harness.plan.chains import Chains
from harness.plan.identity import MEASURING
from harness.plan.origins import code_that_measures, origins_of
from harness.plan.resolve import ResolvedMethod, Resolver
from harness.plan.targets import Target
from harness.plugins import Plugins
from harness.registry import Origin
from harness.store.hashing import core_hash, digest
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.types import Params, RuntimeEntry
from harness.types.columns import check_rank
from harness.types.measure import Measure
from harness.types.origin import EntryOrigin
from harness.types.plain import to_json
from harness.types.plan import Cell, CellTask, DataFacts, DatasetRef, DeviceRef, Plan, PrepareHost, RuntimeRef
from harness.worker.loadgen import mlperf as loadgen

__all__ = ["make_plan"]

BESIDE_IDENTITY = ("monitors", "no_meter")
"""Fields of a cell's task that are not in its identity.

Of ``monitors`` only the meters' names are: a meter's details change with what is found of it, and records of one
cell would part. ``no_meter`` is a message.
"""


def make_plan(suite: Suite, plugins: Plugins, host: PrepareHost, only: str | None = None) -> Plan:
    """Plan every cell of ``suite``; ``only`` keeps the methods that match a pattern.

    Raises:
        SuiteError: something in the suite is unknown, ill-typed or cannot be built; one line.
    """
    return _Planner(suite, plugins, host).plan(only)


class _Planner:
    def __init__(self, suite: Suite, plugins: Plugins, host: PrepareHost) -> None:
        self.suite = suite
        self.source = suite.source
        self.plugins = plugins
        self.host = host
        self.resolver = Resolver(suite, plugins)
        self.chains = Chains(suite.prepare, host, plugins)
        self.warnings: list[str] = []

    def plan(self, only: str | None) -> Plan:
        check_rank(self.suite.rank_by, self.source.where("rank_by"))
        for name in self.suite.methods:  # a mistake in a method that no run block uses is still a mistake
            self.resolver.method(name)
        cells = self.cells(only)
        needed = {cell.export for cell in cells if cell.impossible is None}
        return Plan(
            suite=self.suite.suite,
            host=self.host,
            nodes=self.chains.reachable(needed),
            cells=tuple(cells),
            warnings=tuple(self.warnings),
            missing_data=tuple(self.resolver.missing_data),
            missing_extras=tuple(self.resolver.missing_extras),
            baseline=self.suite.baseline,
            rank_by=self.suite.rank_by,
        )

    # --- cells ---

    def cells(self, only: str | None) -> list[Cell]:
        rounds: dict[tuple[int, int], list[Cell]] = {}
        seen: set[str] = set()
        for index, item in enumerate(self.suite.run):
            path = ("run", index)
            overrides = dict(item.measure or {})
            measure: Measure = self.suite.measure
            if overrides:
                merged = {**measure.model_dump(exclude_unset=True), **overrides}
                measure = validated(Measure, merged, self.source, (*path, "measure"))
            self._check_generator(measure, index)
            self._check_cool_down(measure, item.devices, index)
            self._check_energy(measure, item.devices, index)
            for name in self.selected(item.methods, path, only):
                refs = item.runtimes or (self.suite.methods[name].runtime or self._runtime_of(name),)
                for ref in refs:
                    for device in item.devices:
                        for cell in self._cells_of(name, ref, device, measure, index):
                            if cell.id not in seen:
                                seen.add(cell.id)
                                order = (cell.repeat, self.suite.seeds.index(cell.seed))
                                rounds.setdefault(order, []).append(cell)
        # every method once, then every method again: slow drift of the machine meets all alike
        return [cell for order in sorted(rounds) for cell in rounds[order]]

    def _runtime_of(self, name: str) -> Any:
        parent = self.suite.methods[name].from_
        while parent is not None:
            if self.suite.methods[parent].runtime is not None:
                return self.suite.methods[parent].runtime
            parent = self.suite.methods[parent].from_
        return self.suite.defaults.runtime

    def _check_energy(self, measure: Measure, devices: Sequence[str], index: int) -> None:
        if measure.energy != "require":
            return
        for device in devices:
            target = self.resolver.target(device, self.suite.defaults.threads)
            monitors, why = self.resolver.monitors.of(target, measure)
            if not any(monitor.meters for monitor in monitors):
                where = self._measure_key("energy", index)
                raise SuiteError(f"{where}: require, but on {device} {why}; see `harness devices list`")

    def _check_generator(self, measure: Measure, index: int) -> None:
        if measure.generator == "loadgen" and (lacking := loadgen.needs()) is not None:
            raise SuiteError(f"{self._measure_key('generator', index)}: {lacking}")

    def _check_cool_down(self, measure: Measure, devices: Sequence[str], index: int) -> None:
        """The central device waits, so its machine must tell a temperature."""
        if measure.cool_down is None:
            return
        for device in devices:
            target = self.resolver.target(device, self.suite.defaults.threads)
            central = None if target.unavailable else target.infos[target.central]
            machine = "this machine"
            told = self.resolver.monitors.meters.tells_temperature()
            if central is not None and is_board(central.details):
                machine, told = central.name, "temperature_c" in central.details.get("tells", ())
            if not told:
                where = self._measure_key("cool_down", index)
                raise SuiteError(f"{where}: nothing tells a temperature on {machine}; leave it out")

    def _measure_key(self, key: str, index: int) -> str:
        inside = key in (self.suite.run[index].measure or {})
        return self.source.where(*(("run", index, "measure", key) if inside else ("measure", key)))

    def selected(self, patterns: Any, path: tuple[str | int, ...], only: str | None) -> list[str]:
        names = list(self.suite.methods)
        if patterns != "all":
            chosen: dict[str, None] = {}
            for position, pattern in enumerate(patterns):
                matches = fnmatch.filter(names, pattern)
                if not matches:
                    where = self.source.where(*path, "methods", position)
                    raise SuiteError(f"{where}: no method {pattern!r}; {nearest(pattern, names)}")
                chosen.update(dict.fromkeys(matches))
            names = list(chosen)
        if only is not None:
            if not fnmatch.filter(self.suite.methods, only):
                raise SuiteError(f"--only {only}: no method matches; {nearest(only, self.suite.methods)}")
            names = fnmatch.filter(names, only)
        return names

    def _cells_of(self, name: str, ref: Any, device: str, measure: Measure, index: int) -> Iterable[Cell]:
        method = self.suite.methods[name]
        resolved = self.resolver.method(name)
        threads = method.threads or self.suite.defaults.threads
        target = self.resolver.target(device, threads)
        runtime = self.resolver.runtime(ref, self._runtime_path(name, ref, index))
        impossible = self._impossible(resolved, target, runtime[0])
        sketch = placement = None
        if impossible is None and resolved.partition is not None:
            sketch = self.resolver.sketch(name, resolved, target)
            placement = self.resolver.place(name, sketch, target)
        monitors, no_meter = self.resolver.monitors.of(target, measure)
        data = resolved.data
        task = CellTask(
            device=device,
            specs=tuple(
                DeviceRef(
                    name=spec.name,
                    backend=spec.backend,
                    params=spec.params.model_dump(mode="json"),
                    threads=spec.threads,
                )
                for spec in target.specs
            ),
            infos=target.infos,
            central=target.central,
            fleet=target.fleet,
            input=self.suite.devices[device].input,
            placement=dict(placement.device_of) if placement else None,
            runtime=RuntimeRef(name=runtime[0].name, params=runtime[2].model_dump(mode="json")),
            measure=measure,
            threads=threads,
            data=DataFacts(
                name=data.info.name,
                classes=data.info.classes,
                shape=data.info.shape,
                mean=data.info.mean,
                std=data.info.std,
                fingerprint=data.info.fingerprint,
                note=data.info.note,
                choice=data.ref.choice,
                dataset=DatasetRef(entry=data.ref.entry, params=data.ref.params),
            ),
            monitors=monitors,
            no_meter=no_meter,
        )
        method_key = _method_key(name, resolved, runtime, threads)
        placer = self.resolver.placer(name) if sketch and target.fleet and not sketch.placement else None
        origins = origins_of(self.plugins, resolved, runtime[0].name, target, monitors, placer)
        fixed = _identity(task, method_key, origins)
        links = self.chains.links(resolved, sketch)
        exporting = self.chains.exporting(runtime, data)
        for seed in self.suite.seeds:
            export = ""
            if impossible is None:
                export = self.chains.export(exporting, name, seed, self.chains.chain(links, name, seed))
            repeats = measure.repeats if seed == self.suite.seeds[0] else 1
            for repeat in range(repeats):
                yield Cell(
                    id=digest([fixed, seed, repeat, export]),
                    method=name,
                    method_key=method_key,
                    seed=seed,
                    repeat=repeat,
                    export=export,
                    data=data.key,
                    task=task,
                    impossible=impossible,
                    origins=origins,
                )

    def _runtime_path(self, name: str, ref: Any, index: int) -> tuple[str | int, ...]:
        if self.suite.run[index].runtimes is not None and ref in (self.suite.run[index].runtimes or ()):
            return ("run", index, "runtimes", (self.suite.run[index].runtimes or ()).index(ref))
        holder: str | None = name
        while holder is not None:
            if self.suite.methods[holder].runtime is not None:
                return ("methods", holder, "runtime")
            holder = self.suite.methods[holder].from_
        return ("defaults", "runtime")

    def _impossible(self, resolved: ResolvedMethod, target: Target, runtime: RuntimeEntry) -> str | None:
        if target.unavailable:
            return target.unavailable
        kinds = {info.kind for info in target.infos} - set(runtime.devices)
        boards = [info.name for info in target.infos if is_board(info.details)]
        if boards and "onnx" not in runtime.requires:
            return f"{boards[0]} takes ONNX files only, which runtime {runtime.name} does not export"
        if kinds:
            return f"runtime {runtime.name} does not run on {', '.join(sorted(kinds))}"
        if target.fleet and resolved.partition is None:
            return f"{target.name} is a fleet, and this method is one whole model: only a split model uses it"
        return None


def _method_key(
    name: str, resolved: ResolvedMethod, runtime: tuple[RuntimeEntry, Origin, Params], threads: int
) -> str:
    """Return the key under which records of one method are compared over seeds and devices."""
    links = [
        (step.entry.name, step.params.model_dump(mode="json"), data.key, recipe.model_dump(mode="json"))
        for step, data, recipe in resolved.links
    ]
    entry, _, params = runtime
    used = (entry.name, params.model_dump(mode="json"))
    return digest({"method": name, "links": links, "runtime": used, "threads": threads})


def _identity(task: CellTask, method_key: str, origins: Iterable[EntryOrigin]) -> str:
    """Return the digest of all that a cell's figures depend on, but for seed, repeat and export."""
    content = {name: value for name, value in to_json(task).items() if name not in BESIDE_IDENTITY}
    meters = sorted(use.info.name for monitor in task.monitors for use in monitor.meters)
    return digest(
        {
            "task": content,
            "method_key": method_key,
            "code": code_that_measures(origins),
            "meters": meters,
            "core": core_hash(*MEASURING),
        }
    )
