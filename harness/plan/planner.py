"""Suite + plugins -> plan: a DAG of preparing nodes, with cells as its measuring leaves.

Pure: reads no data and trains nothing. Nodes that several methods share have one key and stand once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import SuiteError, nearest
from harness.machine.environment import is_board
from harness.plan.resolve import ChosenData, ResolvedMethod, Resolver
from harness.plan.targets import Target
from harness.plugins import Origin, Plugins
from harness.store.hashing import core_hash, digest, files_hash
from harness.suite.suite import Measure, Suite
from harness.suite.validate import validated
from harness.types import Params, RuntimeEntry, Sketch
from harness.types.columns import check_rank
from harness.types.plan import Cell, Node, Plan, PrepareHost
from harness.worker.loadgen import mlperf as loadgen

__all__ = ["make_plan"]

TRAINING = ("train", "prepare", "data", "store/saved.py", "types/recipe.py")
"""Packages and files of the core whose code makes trained weights and the record of their training."""
EXPORTING = ("prepare", "train/counting", "data", "store/saved.py")
"""Those whose code makes an export."""
MEASURING = ("measure", "worker", "machine", "data", "stats.py", "types/record.py")
"""Those whose code makes a cell's figures."""


def make_plan(suite: Suite, plugins: Plugins, host: PrepareHost, only: str | None = None) -> Plan:
    """Plan every cell of ``suite``; ``only`` keeps the methods that match a pattern.

    Raises:
        SuiteError: something in the suite is unknown, ill-typed or cannot be built; one line.
    """
    return _Planner(suite, plugins, host).plan(only)


@dataclass(frozen=True)
class _Link:
    """A step and its task but for the seed; ``fixed`` is the digest of what no seed or input changes."""

    stage: str
    entry: str
    plugin: str
    task: Mapping[str, Any]
    fixed: str


class _Planner:
    def __init__(self, suite: Suite, plugins: Plugins, host: PrepareHost) -> None:
        self.suite = suite
        self.source = suite.source
        self.plugins = plugins
        self.host = host
        self.resolver = Resolver(suite, plugins)
        self.nodes: dict[str, Node] = {}
        self.chains: dict[tuple[tuple[str, ...], int], str] = {}
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
            nodes=self._reachable(needed),
            cells=tuple(cells),
            warnings=tuple(self.warnings),
            missing_data=tuple(self.resolver.missing_data),
            missing_extras=tuple(self.resolver.missing_extras),
            baseline=self.suite.baseline,
            rank_by=self.suite.rank_by,
            origins=dict(sorted(self.resolver.origins.items())),
        )

    def _reachable(self, keys: Iterable[str]) -> dict[str, Node]:
        found: set[str] = set()
        stack = list(keys)
        while stack:
            key = stack.pop()
            if key not in found:
                found.add(key)
                stack += self.nodes[key].inputs
        return {key: node for key, node in self.nodes.items() if key in found}

    # --- nodes ---

    def data(self, data: ChosenData) -> str:
        """Add the node that decodes a test split; its key."""
        if data.key not in self.nodes:
            self.nodes[data.key] = Node(
                key=data.key,
                stage="data",
                label=f"data {data.entry}",
                entry=data.entry,
                plugin=data.origin.plugin,
                inputs=(),
                task={"entry": data.entry, "params": data.params, "choice": data.choice},
            )
        return data.key

    def links(self, resolved: ResolvedMethod, sketch: Sketch | None) -> list[_Link]:
        """A method's steps with all of their keys that no seed changes."""
        links = []
        for step, data, recipe in resolved.links:
            made_with = [
                asdict(self.host),
                self.plugins.code_of(step.entry, step.origin),
                core_hash(*TRAINING),
            ]
            if step.entry.files is not None:
                made_with.append(files_hash(step.entry.files(step.params)))
            task = {
                "stage": step.stage,
                "entry": step.entry.name,
                "params": step.params.model_dump(mode="json"),
                "each_part": step.each_part,
                "data": {"entry": data.entry, "params": data.params, "choice": data.choice},
                "data_key": data.key,
                "train": recipe.model_dump(mode="json"),
                "threads": self.suite.prepare.threads,
                "processes": self.suite.prepare.processes,
                "device": self.host.device,
                "sketch": asdict(sketch) if sketch is not None and step.stage == "partition" else None,
                "made_with": digest(made_with),
            }
            links.append(_Link(step.stage, step.entry.name, step.origin.plugin, task, digest(task)))
        return links

    def chain(self, links: Sequence[_Link], name: str, seed: int) -> str:
        """Add the nodes of a method's chain for one seed; the key of the last."""
        memo = (tuple(link.fixed for link in links), seed)
        if memo in self.chains:
            return self.chains[memo]
        key = ""
        for link in links:
            inputs = (key,) if key else ()
            key = digest([link.fixed, seed, key])
            if key not in self.nodes:
                self.nodes[key] = Node(
                    key=key,
                    stage=link.stage,
                    label=f"{name} seed {seed}",
                    entry=link.entry,
                    plugin=link.plugin,
                    inputs=inputs,
                    task={**link.task, "seed": seed},
                )
        self.chains[memo] = key
        return key

    def exporting(self, runtime: tuple[RuntimeEntry, Origin, Params], data: ChosenData) -> _Link:
        """The export of a model for a runtime, with all of its key that no model changes."""
        entry, origin, params = runtime
        task = {
            "stage": "export",
            "entry": entry.name,
            "params": params.model_dump(mode="json"),
            "data": {"entry": data.entry, "params": data.params, "choice": data.choice},
            "data_key": self.data(data),
            "threads": self.suite.prepare.threads,
            "device": "cpu",
        }
        content = [task, self.plugins.code_of(entry, origin), core_hash(*EXPORTING), self.host.torch]
        return _Link("export", entry.name, origin.plugin, task, digest(content))

    def export(self, link: _Link, name: str, seed: int, model: str) -> str:
        """Add the node that exports ``model``; its key."""
        key = digest([link.fixed, model])
        if key not in self.nodes:
            self.nodes[key] = Node(
                key=key,
                stage="export",
                label=f"{name} seed {seed} for {link.entry}",
                entry=link.entry,
                plugin=link.plugin,
                inputs=(model, link.task["data_key"]),
                task={**link.task, "seed": seed},
            )
        return key

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
        if measure.generator == "loadgen" and (lacking := loadgen.missing()) is not None:
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
        config = {
            "method": name,
            "links": [
                (
                    step.entry.name,
                    step.params.model_dump(mode="json"),
                    data.key,
                    recipe.model_dump(mode="json"),
                )
                for step, data, recipe in resolved.links
            ],
            "runtime": (runtime[0].name, runtime[2].model_dump(mode="json")),
            "threads": threads,
        }
        base = {
            "device": device,
            "specs": [
                {
                    "name": s.name,
                    "backend": s.backend,
                    "params": s.params.model_dump(mode="json"),
                    "threads": s.threads,
                }
                for s in target.specs
            ],
            "infos": [asdict(info) for info in target.infos],
            "central": target.central,
            "fleet": target.fleet,
            "input": self.suite.devices[device].input,
            "placement": dict(placement.device_of) if placement else None,
            "runtime": {"name": runtime[0].name, "params": runtime[2].model_dump(mode="json")},
            "measure": measure.model_dump(mode="json"),
            "threads": threads,
            "data": {
                "name": resolved.data.info.name,
                "classes": resolved.data.info.classes,
                "shape": list(resolved.data.info.shape),
                "mean": list(resolved.data.info.mean),
                "std": list(resolved.data.info.std),
                "fingerprint": resolved.data.info.fingerprint,
                "note": resolved.data.info.note,
                "choice": dict(resolved.data.choice),
                "dataset": {"entry": resolved.data.entry, "params": dict(resolved.data.params)},
            },
        }
        monitors, no_meter = self.resolver.monitors.of(target, measure)
        method_key = digest(config)
        fixed = digest(
            {"task": base, "method_key": method_key, "runtime": self.plugins.code_of(runtime[0], runtime[1])}
            | {"meters": sorted(use.info.name for monitor in monitors for use in monitor.meters)}
            | {"core": core_hash(*MEASURING)}
        )
        base["monitors"] = [
            {
                "meters": [{"info": asdict(use.info), "open": use.open} for use in monitor.meters],
                "watches": dict(monitor.watches),
            }
            for monitor in monitors
        ]
        base["no_meter"] = no_meter
        links = self.links(resolved, sketch)
        exporting = self.exporting(runtime, resolved.data)
        for seed in self.suite.seeds:
            export = ""
            if impossible is None:
                export = self.export(exporting, name, seed, self.chain(links, name, seed))
            repeats = measure.repeats if seed == self.suite.seeds[0] else 1
            for repeat in range(repeats):
                yield Cell(
                    id=digest([fixed, seed, repeat, export]),
                    method=name,
                    method_key=method_key,
                    seed=seed,
                    repeat=repeat,
                    export=export,
                    data=resolved.data.key,
                    task=base,
                    impossible=impossible,
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
