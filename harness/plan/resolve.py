"""What a suite's words come to: every name looked up in the plugins, every parameter checked.

Errors name file, line, key, what is allowed and the nearest match. Loads no data and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.data.choice import effective_info
from harness.errors import HarnessError, SuiteError, nearest
from harness.machine.environment import is_board
from harness.plan.identity import DATA
from harness.plan.monitors import Monitors
from harness.plan.profiles.stored import profiled
from harness.plan.targets import Target
from harness.plugins import Plugins
from harness.registry import Origin, Registered, Registry
from harness.store.hashing import core_hash, digest
from harness.suite.suite import DeviceChoice, Method, Suite
from harness.suite.validate import validated
from harness.types import (
    BackendEntry,
    DataInfo,
    DeviceInfo,
    DeviceSpec,
    Fleet,
    ModuleSpec,
    Params,
    Placement,
    RuntimeEntry,
    Sketch,
    Unavailable,
)
from harness.types.data import DataChoice
from harness.types.plain import to_json
from harness.types.plan import DataRef
from harness.types.recipe import TrainRecipe

__all__ = ["ChosenData", "ResolvedMethod", "Resolver", "Step"]

DEFAULT_PLACER = "round-robin"


@dataclass(frozen=True)
class Step:
    """A checked step of a method's chain."""

    stage: Literal["build", "compress", "partition"]
    entry: Any
    origin: Origin
    params: Params
    each_part: bool
    path: tuple[str | int, ...]


@dataclass(frozen=True)
class ChosenData:
    """A checked data set: what loads it, and its effective facts. ``key``: of its node."""

    ref: DataRef
    info: DataInfo
    origin: Origin
    key: str


@dataclass(frozen=True)
class ResolvedMethod:
    """A method with its whole chain: ``links`` are (step, data, recipe) from build to last."""

    links: tuple[tuple[Step, ChosenData, TrainRecipe], ...]
    spec: ModuleSpec | None
    partition: Step | None

    @property
    def data(self) -> ChosenData:
        return self.links[-1][1]


class Resolver:
    """Looks things up once each, and remembers them."""

    def __init__(self, suite: Suite, plugins: Plugins) -> None:
        self.suite = suite
        self.source = suite.source
        self.plugins = plugins
        self.missing_data: dict[str, None] = {}
        self.missing_extras: dict[str, None] = {}
        self._methods: dict[str, ResolvedMethod] = {}
        self._targets: dict[tuple[str, int], Target] = {}
        self._devices: dict[tuple[str, int], DeviceInfo | Unavailable] = {}
        self._datasets: dict[str, ChosenData] = {}
        self._sketches: dict[tuple[str, str], Sketch] = {}
        self.monitors = Monitors(suite, plugins)

    # --- entries, data, devices ---

    def entry(
        self, registry: Registry[Any], ref: Any, path: tuple[str | int, ...]
    ) -> tuple[Any, Origin, Params]:
        """An entry and its checked parameters, for a reference that stands at ``path``."""
        found = registry.get(ref.name, self.source.where(*path))
        params = validated(found.entry.params, ref.params, self.source, (*path, ref.name))
        if found.missing:
            self.missing_extras.setdefault(found.missing)
        return found.entry, found.origin, params

    def dataset(self, own: Mapping[str, Any] | None, path: tuple[str | int, ...]) -> ChosenData:
        base = dict(self.suite.data)
        if own is not None and "name" in own and own["name"] != base.get("name"):
            base = {}
        merged = {**base, **(own or {})}
        where = path if own is not None else ("data",)
        memo = digest(merged)
        if memo in self._datasets:
            return self._datasets[memo]

        def place(key: str) -> tuple[str | int, ...]:
            return (*where, key) if own is not None and key in own else ("data", key)

        name = merged.get("name")
        if not isinstance(name, str):
            raise SuiteError(f"{self.source.where(*where)}: name: missing; which data set?")
        found = self.plugins.datasets.get(name, self.source.where(*place("name")))
        common = {key: value for key, value in merged.items() if key in DataChoice.model_fields}
        rest = {key: value for key, value in merged.items() if key not in common}
        for key in rest:
            if key not in found.entry.params.model_fields:
                allowed = [*DataChoice.model_fields, *found.entry.params.model_fields]
                raise SuiteError(f"{self.source.where(*place(key))}: unknown key; {nearest(key, allowed)}")
        choice = validated(DataChoice, common, self.source, where)
        params = validated(found.entry.params, rest, self.source, where)
        if found.missing:
            self.missing_extras.setdefault(found.missing)
        try:
            info = effective_info(found.entry.describe(params), choice)
        except (ValueError, HarnessError) as error:
            raise SuiteError(f"{self.source.where(*where)}: {error}") from None
        if info.missing:
            self.missing_data.setdefault(f"{self.source.where(*where)}: {info.missing}")
        ref = DataRef(entry=name, params=params.model_dump(mode="json"), choice=choice)
        content = {
            "stage": "data",
            **to_json(ref),
            "fingerprint": info.fingerprint,
            "source": self.plugins.code_of(found.entry, found.origin),
            "core": core_hash(*DATA),
        }
        data = ChosenData(ref, info, found.origin, digest(content))
        self._datasets[memo] = data
        return data

    def target(self, name: str, threads: int) -> Target:
        if (name, threads) not in self._targets:
            choice = self.suite.devices[name]
            members = choice.fleet if choice.fleet is not None else (name,)
            described = {member: self.device(member, threads) for member in dict.fromkeys(members)}
            problems = [
                f"{m}: {d.reason}" + (f" ({d.fix})" if d.fix else "")
                for m, (_, d) in described.items()
                if isinstance(d, Unavailable)
            ]
            self._check_boards(name, members, described)
            central = choice.central or members[0]
            self._targets[name, threads] = Target(
                name=name,
                specs=tuple(described[member][0] for member in members),
                infos=tuple(d for m in members if isinstance(d := described[m][1], DeviceInfo)),
                central=members.index(central),
                fleet=choice.fleet is not None,
                unavailable="; ".join(problems) or None,
            )
        return self._targets[name, threads]

    def _check_boards(
        self,
        name: str,
        members: Sequence[str],
        described: Mapping[str, tuple[DeviceSpec, DeviceInfo | Unavailable]],
    ) -> None:
        """A board is one device; a machine without an agent may stand in for several.

        Raises:
            SuiteError: a fleet has a board twice, under one name or two.
        """
        seen: dict[str, str] = {}
        for index, member in enumerate(members):
            spec, info = described[member]
            if not (isinstance(info, DeviceInfo) and is_board(info.details)):
                continue
            board = getattr(spec.params, "board", None) or spec.name
            if board in seen:
                where = self.source.where("devices", name, "fleet", index)
                raise SuiteError(
                    f"{where}: {member!r} is the same board as {seen[board]!r}: one holds it at a time"
                )
            seen[board] = member

    def device(self, name: str, threads: int) -> tuple[DeviceSpec, DeviceInfo | Unavailable]:
        choice: DeviceChoice = self.suite.devices[name]
        path = ("devices", name)
        assert choice.backend is not None
        found: Registered[BackendEntry] = self.plugins.backends.get(
            choice.backend, self.source.where(*path, "backend")
        )
        for key in choice.model_extra or {}:
            if key not in found.entry.params.model_fields:
                allowed = ["backend", "threads", "meters", *found.entry.params.model_fields]
                raise SuiteError(f"{self.source.where(*path, key)}: unknown key; {nearest(key, allowed)}")
        params = validated(found.entry.params, dict(choice.model_extra or {}), self.source, path)
        spec = DeviceSpec(name=name, backend=choice.backend, params=params, threads=choice.threads or threads)
        try:
            if (name, spec.threads) not in self._devices:  # a board is asked once, whatever fleets it is in
                self._devices[name, spec.threads] = found.entry.describe(spec)
        except ValueError as error:
            raise SuiteError(f"{self.source.where(*path)}: {error}") from None
        return spec, self._devices[name, spec.threads]

    def runtime(self, ref: Any, path: tuple[str | int, ...]) -> tuple[RuntimeEntry, Origin, Params]:
        return self.entry(self.plugins.runtimes, ref, path)

    # --- methods ---

    def method(self, name: str) -> ResolvedMethod:
        if name not in self._methods:
            self._methods[name] = self._resolve(name)
        return self._methods[name]

    def _resolve(self, name: str) -> ResolvedMethod:
        method: Method = self.suite.methods[name]
        path = ("methods", name)
        recipe = self.recipe(method, path)
        parent = self.method(method.from_) if method.from_ else None
        own_data = method.data
        if own_data is None and parent is not None:
            data = parent.data
        else:
            data = self.dataset(own_data, (*path, "data"))
        links = list(parent.links) if parent else []
        spec = parent.spec if parent else None
        partition = parent.partition if parent else None

        for step in self.steps(method, path):
            where = self.source.where(*step.path, step.entry.name)
            if step.stage == "partition":
                if partition is not None:
                    raise SuiteError(f"{where}: {method.from_!r} is split already")
                partition = step
            elif step.stage == "compress" and partition is not None and not step.each_part:
                raise SuiteError(f"{where}: the model is split; add each_part: true to compress every part")
            elif step.stage == "compress" and partition is None and step.each_part:
                raise SuiteError(f"{where}: each_part needs a split model")
            self._check_change(step, links, data, where)
            if step.stage != "partition" and not step.each_part:
                spec = self._describe(step, spec, data, where)
            links.append((step, data, recipe))
        if parent is not None and not (method.compress or method.partition) and (method.train or own_data):
            key = "train" if method.train else "data"
            raise SuiteError(
                f"{self.source.where(*path, key)}: has no effect: {name} only inherits {method.from_}; "
                "add compress: or partition:"
            )
        if method.runtime is not None:
            self.runtime(method.runtime, (*path, "runtime"))
        if method.place is not None:
            if partition is None:
                raise SuiteError(f"{self.source.where(*path, 'place')}: only a split model is placed")
            self.entry(self.plugins.placers, method.place, (*path, "place"))
        return ResolvedMethod(tuple(links), spec, partition)

    def steps(self, method: Method, path: tuple[str, str]) -> Iterable[Step]:
        if method.build is not None:
            entry, origin, params = self.entry(self.plugins.models, method.build, (*path, "build"))
            yield Step("build", entry, origin, params, False, (*path, "build"))
        for index, ref in enumerate(method.compress):
            where = (*path, "compress", index)
            entry, origin, params = self.entry(self.plugins.compressors, ref, where)
            yield Step("compress", entry, origin, params, ref.each_part, where)
        if method.partition is not None:
            entry, origin, params = self.entry(
                self.plugins.partitioners, method.partition, (*path, "partition")
            )
            yield Step("partition", entry, origin, params, False, (*path, "partition"))

    def recipe(self, method: Method, path: tuple[str, str]) -> TrainRecipe:
        defaults = self.suite.defaults.train
        own = method.train or {}
        checked: TrainRecipe = validated(TrainRecipe, defaults, self.source, ("defaults", "train"))
        if not own:
            return checked
        return validated(TrainRecipe, {**defaults, **own}, self.source, (*path, "train"))  # type: ignore[no-any-return]

    def _check_change(
        self, step: Step, links: list[tuple[Step, ChosenData, TrainRecipe]], data: ChosenData, where: str
    ) -> None:
        """Only what declares a change of data, classes or input may meet one."""
        if not links or links[-1][1].key == data.key:
            return
        before, after = links[-1][1].info, data.info
        changes: frozenset[str] = getattr(step.entry, "changes", frozenset())
        if "data" not in changes:
            able = [r.entry.name for r in self.plugins.compressors if "data" in r.entry.changes]
            raise SuiteError(
                f"{where}: cannot move to another data set; compressors that can: {', '.join(able) or 'none'}"
            )
        if before.class_names != after.class_names and "classes" not in changes:
            raise SuiteError(
                f"{where}: cannot change the classes ({before.classes} of {before.name} to {after.classes} of {after.name})"
            )
        if before.shape != after.shape and "input" not in changes:
            raise SuiteError(f"{where}: cannot change the input from {before.shape} to {after.shape}")

    def _describe(
        self, step: Step, spec: ModuleSpec | None, data: ChosenData, where: str
    ) -> ModuleSpec | None:
        describe = step.entry.describe
        if describe is None:
            return None
        try:
            if step.stage == "build":
                return describe(step.params, data.info)  # type: ignore[no-any-return]
            return describe(spec, step.params, data.info) if spec is not None else None
        except ValueError as error:
            raise SuiteError(f"{where}: {error}") from None

    def sketch(self, name: str, resolved: ResolvedMethod, target: Target) -> Sketch:
        step = resolved.partition
        assert step is not None
        memo = (name, target.name)
        if memo not in self._sketches:
            fleet = Fleet(devices=profiled(target.specs, target.infos), central=target.central)
            try:
                self._sketches[memo] = step.entry.sketch(resolved.spec, step.params, fleet)
            except ValueError as error:
                where = self.source.where(*step.path, step.entry.name)
                raise SuiteError(f"{where}: {error}") from None
        return self._sketches[memo]

    def placer(self, name: str) -> str:
        """Return the name of the placer of a method whose partitioner does not place its parts."""
        ref = self.suite.methods[name].place
        return DEFAULT_PLACER if ref is None else ref.name

    def place(self, name: str, sketch: Sketch, target: Target) -> Placement:
        if not target.fleet:
            return Placement(device_of={part.name: 0 for part in sketch.parts})
        if sketch.placement is not None:
            return sketch.placement
        method = self.suite.methods[name]
        ref = method.place
        path: tuple[str | int, ...] = ("methods", name, "place")
        if ref is None:
            registered = self.plugins.placers.get(DEFAULT_PLACER, self.source.where("methods", name))
            entry, params = registered.entry, registered.entry.params()
        else:
            entry, _, params = self.entry(self.plugins.placers, ref, path)
        fleet = Fleet(devices=profiled(target.specs, target.infos), central=target.central)
        try:
            placement = entry.place(sketch, fleet, params)
        except ValueError as error:
            raise SuiteError(f"{self.source.where(*path)}: {error}") from None
        lost = [part.name for part in sketch.parts if part.name not in placement.device_of]
        if lost:
            raise SuiteError(f"{self.source.where(*path)}: placer {entry.name!r} left out {', '.join(lost)}")
        return placement
