"""Make a plan from a suite: the nodes to prepare and the cells to measure.

No data is read and nothing is trained. A node that several methods share has one key and occurs once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from harness.errors import BrokenContract, SuiteError
from harness.plan.blocks import Setting, settings
from harness.plan.chains import Chains, NodeTemplate
from harness.plan.datasets import ChosenData
from harness.plan.identity import MEASURING
from harness.plan.origins import origins_of
from harness.plan.resolve import Resolved, ResolvedMethod
from harness.plan.starts import Start, start_warnings
from harness.plan.targets import Target
from harness.plugins import Plugins
from harness.store.hashing import core_hash, digest
from harness.suite.suite import Suite
from harness.types import Monitor, RuntimeEntry
from harness.types.column_names import check_rank
from harness.types.origin import EntryOrigin, code_that_measures
from harness.types.plain import to_json
from harness.types.plan import Cell, CellTask, DataFacts, DatasetRef, DeviceRef, Plan, PrepareHost, RuntimeRef

__all__ = ["BESIDE_IDENTITY", "Planned", "make_plan"]

BESIDE_IDENTITY = ("monitors", "no_meter")
"""Fields of a cell's task that are not in its identity.

The names of the meters in ``monitors`` are part of the identity. Their details are not, since details may differ each
time a meter is looked up. ``no_meter`` is a message.
"""


@dataclass(frozen=True)
class Planned:
    """A plan, and the suite from which it was made, with all names looked up."""

    plan: Plan
    resolved: Resolved


def make_plan(suite: Suite, plugins: Plugins, host: PrepareHost, only: Collection[str] = ()) -> Planned:
    """Plan every cell of ``suite``. ``only`` are patterns that keep the methods whose names match one of them; empty for all.

    Raises:
        SuiteError: something in the suite is unknown, has a wrong type, or cannot be built.
        PluginError: the code of a plugin failed, or its source cannot be hashed.
    """
    with plugins.blaming():
        return _make_plan(suite, plugins, host, only)


def _make_plan(suite: Suite, plugins: Plugins, host: PrepareHost, only: Collection[str]) -> Planned:
    rank_by = check_rank(suite.rank_by, suite.source.where("rank_by"))
    resolved = Resolved(suite, plugins)
    for name in suite.methods:  # a mistake in a method that no run block uses is still a mistake
        resolved.method(name)
    chains = Chains(suite.prepare, host, plugins)
    starts: dict[str, tuple[Start, ChosenData]] = {}
    rounds: dict[tuple[int, int], dict[str, Cell]] = {}
    for setting in settings(resolved, only):
        method = resolved.method(setting.method)
        _check_head(setting.method, method, resolved)
        starts.setdefault(setting.method, (method.start, method.data))
        for cell in _cells(setting, resolved, chains):
            order = (cell.repeat, suite.seeds.index(cell.seed))
            rounds.setdefault(order, {}).setdefault(cell.id, cell)
    # All methods run once before any method repeats, so that slow drift of the machine affects all alike.
    cells = [cell for order in sorted(rounds) for cell in rounds[order].values()]
    plan = Plan(
        suite=suite.suite,
        host=host,
        nodes=chains.reachable({cell.export for cell in cells if cell.impossible is None}),
        cells=tuple(cells),
        warnings=tuple(start_warnings(starts)),
        missing_data=_missing_data(cells, resolved),
        missing_extras=resolved.entries.missing_extras,
        baseline=suite.baseline,
        rank_by=rank_by,
    )
    return Planned(plan, resolved)


def _cells(setting: Setting, resolved: Resolved, chains: Chains) -> Iterable[Cell]:
    """Yield the cells of a setting for each seed and repeat, and add the nodes that they depend on to ``chains``."""
    suite, name = resolved.suite, setting.method
    method = resolved.method(name)
    threads = suite.methods[name].threads or suite.defaults.threads
    target = resolved.target(setting.device, threads)
    runtime = resolved.runtime(setting.runtime, setting.runtime_path)
    impossible = _impossible(method, target, runtime.entry) or resolved.broken_runtime(runtime)
    sketch = placement = placer = None
    steps: list[NodeTemplate] = []
    if impossible is None:
        try:
            if method.partition is not None:
                sketch = resolved.sketch(name, method, target)
                placement = resolved.place(name, sketch, target).device_of
                placer = resolved.placer(name, sketch, target)
            steps = chains.steps(method, sketch)
        except BrokenContract as error:
            impossible, placement, placer = str(error), None, None
    monitors, no_meter = resolved.monitors.of(target, setting.measure)
    task = CellTask(
        device=setting.device,
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
        input=suite.devices[setting.device].input,
        placement=placement,
        runtime=RuntimeRef(name=runtime.entry.name, params=runtime.params.model_dump(mode="json")),
        measure=setting.measure,
        threads=threads,
        data=_facts(method),
        monitors=monitors,
        no_meter=no_meter,
    )
    method_key = _method_key(name, method, task)
    origins = origins_of(resolved.plugins, method, runtime.entry.name, target, monitors, placer)
    fixed = _identity(task, method_key, origins)
    absent = "; ".join(dict.fromkeys(filter(None, (data.info.missing for data in method.datasets)))) or None
    exporting = chains.exporting(runtime, method.data) if impossible is None else None
    for seed in suite.seeds:
        export = ""
        if exporting is not None:
            export = chains.export(exporting, name, seed, chains.chain(steps, name, seed))
        repeats = setting.measure.repeats if seed == suite.seeds[0] else 1
        for repeat in range(repeats):
            yield Cell(
                id=digest([fixed, seed, repeat, export]),
                method=name,
                method_key=method_key,
                seed=seed,
                repeat=repeat,
                export=export,
                data=method.data.key,
                task=task,
                impossible=impossible,
                absent=absent,
                origins=origins,
            )


def _missing_data(cells: Iterable[Cell], resolved: Resolved) -> tuple[str, ...]:
    """Return the data that cells need and that are not here, each with its first place in the suite and how to get it."""
    methods = dict.fromkeys(cell.method for cell in cells if cell.impossible is None and cell.absent)
    reasons: dict[str, str] = {}
    for name in methods:
        for data in resolved.method(name).datasets:
            if data.info.missing:
                reasons.setdefault(data.info.missing, f"{data.where}: {data.info.missing}")
    return tuple(reasons.values())


def _check_head(name: str, method: ResolvedMethod, resolved: Resolved) -> None:
    """Refuse to measure a model with a new head that nothing trains.

    Raises:
        SuiteError: the method's pretrained weights have no head for its data, and no step has epochs.
    """
    weights = method.start.weights
    if weights is None or not weights.new_head or any(link.recipe.epochs for link in method.links):
        return
    own = resolved.suite.methods[name].train or {}
    path = ("methods", name, "train", "epochs") if "epochs" in own else ("defaults", "train", "epochs")
    raise SuiteError(
        f"{resolved.source.where(*path)}: 0 leaves the head of {name} random: it is {weights.head}; "
        "train it, or declare by head: which rows of the weights are the classes"
    )


def _facts(method: ResolvedMethod) -> DataFacts:
    info, ref = method.data.info, method.data.ref
    return DataFacts(
        name=info.name,
        classes=info.classes,
        shape=info.shape,
        mean=info.mean,
        std=info.std,
        fingerprint=info.fingerprint,
        note=info.note,
        choice=ref.choice,
        dataset=DatasetRef(entry=ref.entry, params=ref.params),
    )


def _impossible(method: ResolvedMethod, target: Target, runtime: RuntimeEntry) -> str | None:
    """Return why a method cannot be measured on a target under a runtime, or None."""
    if method.broken:
        return method.broken
    if target.unavailable:
        return target.unavailable
    kinds = {info.kind for info in target.infos} - set(runtime.devices)
    for info in target.infos:
        if info.formats and runtime.artifact_format not in info.formats:
            takes = " and ".join(name.upper() for name in info.formats)
            return f"{info.name} takes {takes} files only, which runtime {runtime.name} does not export"
    if kinds:
        return f"runtime {runtime.name} does not run on {', '.join(sorted(kinds))}"
    if target.fleet and method.partition is None:
        return f"{target.name} is a fleet, and this method is one whole model: only a split model uses it"
    return None


# --- identities -----------------------------------------------------------------------------------


def _method_key(name: str, method: ResolvedMethod, task: CellTask) -> str:
    """Return the key under which records of one method are compared over seeds and devices."""
    links = [
        (
            link.step.name,
            link.step.chosen.params.model_dump(mode="json"),
            link.data.key,
            link.recipe.model_dump(mode="json"),
        )
        for link in method.links
    ]
    runtime = (task.runtime.name, task.runtime.params)
    return digest({"method": name, "links": links, "runtime": runtime, "threads": task.threads})


def _identity(task: CellTask, method_key: str, origins: Iterable[EntryOrigin]) -> str:
    """Return the digest of everything that a cell's figures depend on, except seed, repeat and export.

    The note of the data is not in it: a file that is passed over changes the note and no figure.
    """
    silent = replace(task, data=replace(task.data, note=""))
    return digest(
        {
            "task": {name: value for name, value in to_json(silent).items() if name not in BESIDE_IDENTITY},
            "meters": _meter_names(task.monitors),
            "method_key": method_key,
            "code": code_that_measures(origins),
            "core": core_hash(*MEASURING),
        }
    )


def _meter_names(monitors: Iterable[Monitor]) -> list[str]:
    return sorted(use.info.name for monitor in monitors for use in monitor.meters)
