"""A suite with every name looked up in the plugins and every parameter checked.

Errors name file, line, key, what is allowed and the nearest match. No data and no torch are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import SuiteError
from harness.plan.datasets import ChosenData, Datasets
from harness.plan.entries import ChosenEntry, Entries
from harness.plan.monitors import Monitors
from harness.plan.profiles.stored import profiled
from harness.plan.targets import Target, Targets
from harness.plugins import Plugins
from harness.suite.entry_ref import NamedEntry
from harness.suite.suite import Method, Suite
from harness.suite.validate import validated
from harness.suite.yamlfile import KeyPath
from harness.types import Fleet, ModuleSpec, Placement, PlacerEntry, RuntimeEntry, Sketch
from harness.types.recipe import TrainRecipe

__all__ = ["ChainLink", "Resolved", "ResolvedMethod", "MethodStep"]

DEFAULT_PLACER = "round-robin"

Stage = Literal["build", "compress", "partition"]


@dataclass(frozen=True)
class MethodStep:
    """A checked step of a method's chain. ``path`` is the place in the suite that names its entry."""

    stage: Stage
    chosen: ChosenEntry[Any]
    each_part: bool
    path: KeyPath

    @property
    def name(self) -> str:
        """Return the name of the step's entry."""
        return str(self.chosen.entry.name)


@dataclass(frozen=True)
class ChainLink:
    """A step with the data and the recipe that it uses."""

    step: MethodStep
    data: ChosenData
    recipe: TrainRecipe


@dataclass(frozen=True)
class ResolvedMethod:
    """A method with its whole chain, beginning with the build.

    ``spec`` says how the module is built before a partition. It is None if planning does not know that. ``partition``
    is the step that splits the model, or None.
    """

    links: tuple[ChainLink, ...]
    spec: ModuleSpec | None
    partition: MethodStep | None

    @property
    def data(self) -> ChosenData:
        """Return the data of the last step."""
        return self.links[-1].data


class Resolved:
    """A suite with its names resolved. Each name is looked up once, at its first use."""

    def __init__(self, suite: Suite, plugins: Plugins) -> None:
        self.suite = suite
        self.source = suite.source
        self.plugins = plugins
        self.entries = Entries(suite.source)
        self.datasets = Datasets(suite, plugins, self.entries)
        self.targets = Targets(suite, plugins, self.entries)
        self.monitors = Monitors(suite, plugins, self.entries)
        self._methods: dict[str, ResolvedMethod] = {}
        self._sketches: dict[tuple[str, str], Sketch] = {}

    def runtime(self, ref: NamedEntry, path: KeyPath) -> ChosenEntry[RuntimeEntry]:
        """Return the runtime that is named at ``path``, with its checked parameters."""
        return self.entries.choose(self.plugins.runtimes, ref, path)

    def target(self, name: str, threads: int) -> Target:
        """Return device or fleet ``name``.

        ``threads`` is the number for each worker whose device does not set its own.
        """
        return self.targets.get(name, threads)

    # --- methods ---

    def method(self, name: str) -> ResolvedMethod:
        """Return a method of the suite, with the steps that it inherits.

        Raises:
            SuiteError: a step is unknown, has a wrong type, or does not fit the steps before it.
        """
        if name not in self._methods:
            self._methods[name] = self._resolve(name)
        return self._methods[name]

    def _resolve(self, name: str) -> ResolvedMethod:
        method, path = self.suite.methods[name], ("methods", name)
        recipe = self._recipe(method, path)
        parent = self.method(method.from_) if method.from_ else None
        inherits_data = method.data is None and parent is not None
        data = parent.data if inherits_data and parent else self.datasets.choose(method.data, (*path, "data"))
        links = list(parent.links) if parent else []
        spec = parent.spec if parent else None
        partition = parent.partition if parent else None

        for step in self._steps(method, path):
            where = self.source.where(*step.path, step.name)
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
                spec = _describe(step, spec, data, where)
            links.append(ChainLink(step, data, recipe))
        if parent is not None and not (method.compress or method.partition) and (method.train or method.data):
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
            self.entries.choose(self.plugins.placers, method.place, (*path, "place"))
        return ResolvedMethod(tuple(links), spec, partition)

    def _steps(self, method: Method, path: tuple[str, str]) -> Iterable[MethodStep]:
        choose, plugins = self.entries.choose, self.plugins
        if method.build is not None:
            where: KeyPath = (*path, "build")
            yield MethodStep("build", choose(plugins.models, method.build, where), False, where)
        for index, ref in enumerate(method.compress):
            where = (*path, "compress", index)
            yield MethodStep("compress", choose(plugins.compressors, ref, where), ref.each_part, where)
        if method.partition is not None:
            where = (*path, "partition")
            yield MethodStep("partition", choose(plugins.partitioners, method.partition, where), False, where)

    def _recipe(self, method: Method, path: tuple[str, str]) -> TrainRecipe:
        defaults = self.suite.defaults.train
        recipe = validated(TrainRecipe, defaults, self.source, ("defaults", "train"))
        if method.train:
            recipe = validated(TrainRecipe, {**defaults, **method.train}, self.source, (*path, "train"))
        return recipe

    def _check_change(
        self, step: MethodStep, links: Sequence[ChainLink], data: ChosenData, where: str
    ) -> None:
        """Refuse a step with other data, classes or input than the step before it.

        A step that declares the change is allowed.
        """
        if not links or links[-1].data.key == data.key:
            return
        before, after = links[-1].data.info, data.info
        changes: frozenset[str] = getattr(step.chosen.entry, "changes", frozenset())
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

    # --- split models ---

    def sketch(self, name: str, resolved: ResolvedMethod, target: Target) -> Sketch:
        """Return the sketch of method ``name``, which has a partition, for a target.

        Raises:
            SuiteError: the partitioner refuses the method or the target.
        """
        step = resolved.partition
        assert step is not None
        memo = (name, target.name)
        if memo not in self._sketches:
            sketch = step.chosen.entry.sketch
            try:
                self._sketches[memo] = sketch(resolved.spec, step.chosen.params, _fleet(target))
            except ValueError as error:
                raise SuiteError(f"{self.source.where(*step.path, step.name)}: {error}") from None
        return self._sketches[memo]

    def placer(self, name: str, sketch: Sketch, target: Target) -> str | None:
        """Return the name of the placer that places a method's parts on a target, or None if no placer is used."""
        if not target.fleet or sketch.placement is not None:
            return None
        return self._placer(name).entry.name

    def _placer(self, name: str) -> ChosenEntry[PlacerEntry]:
        ref = self.suite.methods[name].place
        if ref is not None:
            return self.entries.choose(self.plugins.placers, ref, ("methods", name, "place"))
        default = self.entries.get(self.plugins.placers, DEFAULT_PLACER, ("methods", name))
        return ChosenEntry(default.entry, default.origin, default.entry.params())

    def place(self, name: str, sketch: Sketch, target: Target) -> Placement:
        """Return the device of each part. The partition itself decides it, or else the method's placer.

        Raises:
            SuiteError: the placer refuses, or leaves a part out.
        """
        if not target.fleet:
            return Placement(device_of={part.name: 0 for part in sketch.parts})
        if sketch.placement is not None:
            return sketch.placement
        path = ("methods", name, "place")
        chosen = self._placer(name)
        placer = chosen.entry
        try:
            placement = placer.place(sketch, _fleet(target), chosen.params)
        except ValueError as error:
            raise SuiteError(f"{self.source.where(*path)}: {error}") from None
        left = [part.name for part in sketch.parts if part.name not in placement.device_of]
        if left:
            raise SuiteError(f"{self.source.where(*path)}: placer {placer.name!r} left out {', '.join(left)}")
        return placement


def _describe(step: MethodStep, spec: ModuleSpec | None, data: ChosenData, where: str) -> ModuleSpec | None:
    """Return how the module is built after ``step``, or None if planning does not know it."""
    describe, params = step.chosen.entry.describe, step.chosen.params
    if describe is None:
        return None
    try:
        if step.stage == "build":
            return describe(params, data.info)  # type: ignore[no-any-return]
        return describe(spec, params, data.info) if spec is not None else None
    except ValueError as error:
        raise SuiteError(f"{where}: {error}") from None


def _fleet(target: Target) -> Fleet:
    return Fleet(devices=profiled(target.specs, target.infos), central=target.central)
