"""A suite with every name looked up in the plugins and every parameter checked.

Errors name file, line, key, what is allowed and the nearest match. No data and no torch are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.contracts.planning import check_placement, check_sketch, check_spec
from harness.contracts.runtimes import check_settings
from harness.errors import BrokenContract, SuiteError
from harness.plan.datasets import ChosenData, Datasets
from harness.plan.entries import ChosenEntry, Entries
from harness.plan.monitors import Monitors
from harness.plan.profiles.stored import profiled
from harness.plan.starts import Start, preprocessing_of, start_of
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

    ``data`` is that of the last step. ``spec`` says how the module is built before a partition. It is None if planning
    does not know that. ``partition`` is the step that splits the model, or None. ``start`` is what planning knows of
    the method's pretrained weights. ``broken`` says in one line which plugin's code failed, or is None.
    The cells of a broken method cannot be measured. Other methods are not affected.
    """

    links: tuple[ChainLink, ...]
    data: ChosenData
    spec: ModuleSpec | None
    partition: MethodStep | None
    start: Start
    broken: str | None = None

    @property
    def datasets(self) -> list[ChosenData]:
        """Return the data sets that the method needs: those of its steps, and that on which it is measured."""
        return list({data.key: data for data in (*(link.data for link in self.links), self.data)}.values())


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

    def broken_runtime(self, runtime: ChosenEntry[RuntimeEntry]) -> str | None:
        """Return why a runtime states no precision or tolerance, in one line, or None."""
        entry, runtimes = runtime.entry, self.plugins.runtimes
        try:
            with runtimes.calling(entry.name, "precision or tolerance", may_refuse=False):
                precision, tolerance = entry.precision(runtime.params), entry.tolerance(runtime.params)
            check_settings(runtimes.need(entry.name), precision, tolerance)
        except BrokenContract as error:
            return str(error)
        return None

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
        start, broken = (parent.start, parent.broken) if parent else (Start(), None)
        if method.build is not None:
            try:
                step = next(iter(self._steps(method, path)))
                start = Start(
                    preprocessing_of(self.plugins.models, step.name, step.chosen.params, self._where(step))
                )
            except BrokenContract as error:
                broken = str(error)
        if method.data is None and parent is not None:
            data = parent.data
        else:
            data = self.datasets.choose(method.data, (*path, "data"), start.preprocessing)
        links = list(parent.links) if parent else []
        spec = parent.spec if parent else None
        partition = parent.partition if parent else None
        broken = broken or data.broken

        try:
            for step in self._steps(method, path):
                where = self._where(step)
                if step.stage == "partition":
                    if partition is not None:
                        raise SuiteError(f"{where}: {method.from_!r} is split already")
                    partition = step
                elif step.stage == "compress" and partition is not None and not step.each_part:
                    raise SuiteError(
                        f"{where}: the model is split; add each_part: true to compress every part"
                    )
                elif step.stage == "compress" and partition is None and step.each_part:
                    raise SuiteError(f"{where}: each_part needs a split model")
                links.append(ChainLink(step, data, recipe))
                if broken is not None:
                    continue
                self._check_change(step, links[:-1], data, where)
                if step.stage != "partition" and not step.each_part:
                    spec = self._describe(step, spec, data, where)
                if step.stage == "build":
                    start = start_of(self.plugins.models, step.name, step.chosen.params, start, data, where)
            if method.runtime is not None:
                self.runtime(method.runtime, (*path, "runtime"))
            if method.place is not None:
                if partition is None:
                    raise SuiteError(f"{self.source.where(*path, 'place')}: only a split model is placed")
                self.entries.choose(self.plugins.placers, method.place, (*path, "place"))
        except BrokenContract as error:
            broken = broken or str(error)
        if parent is not None and not (method.compress or method.partition) and (method.train or method.data):
            key = "train" if method.train else "data"
            raise SuiteError(
                f"{self.source.where(*path, key)}: has no effect, because {name} only inherits {method.from_}; "
                "add compress: or partition:"
            )
        return ResolvedMethod(tuple(links), data, None if broken else spec, partition, start, broken)

    def _where(self, step: MethodStep) -> str:
        return self.source.where(*step.path, step.name)

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

    def _describe(
        self, step: MethodStep, spec: ModuleSpec | None, data: ChosenData, where: str
    ) -> ModuleSpec | None:
        """Return how the module is built after ``step``, or None if planning does not know it.

        Raises:
            SuiteError: the module cannot be built.
            BrokenContract: the plugin's function failed.
        """
        describe, params = step.chosen.entry.describe, step.chosen.params
        if describe is None or (step.stage != "build" and spec is None):
            return None
        registry = self.plugins.models if step.stage == "build" else self.plugins.compressors
        arguments = (params, data.info) if step.stage == "build" else (spec, params, data.info)
        try:
            with registry.calling(step.name, "describe"):
                described = describe(*arguments)
        except ValueError as error:
            raise SuiteError(f"{where}: {error}") from None
        check_spec(registry.need(step.name), described, "describe")
        return described  # type: ignore[no-any-return]

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
            BrokenContract: the partitioner failed, or its sketch is wrong.
        """
        step = resolved.partition
        assert step is not None
        memo = (name, target.name)
        if memo not in self._sketches:
            entry, partitioners = step.chosen.entry, self.plugins.partitioners
            try:
                with partitioners.calling(step.name, "sketch"):
                    sketch = entry.sketch(resolved.spec, step.chosen.params, _fleet(target))
            except ValueError as error:
                raise SuiteError(f"{self.source.where(*step.path, step.name)}: {error}") from None
            check_sketch(partitioners.need(step.name), sketch, len(target.specs))
            self._sketches[memo] = sketch
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
            SuiteError: the placer refuses.
            BrokenContract: the placer failed, or its placement is wrong.
        """
        if not target.fleet:
            return Placement(device_of={part.name: 0 for part in sketch.parts})
        if sketch.placement is not None:
            return sketch.placement
        path = ("methods", name, "place")
        chosen = self._placer(name)
        placer, placers = chosen.entry, self.plugins.placers
        try:
            with placers.calling(placer.name, "place"):
                placement = placer.place(sketch, _fleet(target), chosen.params)
        except ValueError as error:
            raise SuiteError(f"{self.source.where(*path)}: {error}") from None
        names = [part.name for part in sketch.parts]
        check_placement(placers.need(placer.name), placement, names, len(target.specs))
        return placement


def _fleet(target: Target) -> Fleet:
    return Fleet(devices=profiled(target.specs, target.infos), central=target.central)
