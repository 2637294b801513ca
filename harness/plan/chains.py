"""Chains of preparing nodes: data, the steps of a method, export.

Methods that share a node share its key, so the plan has the node once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.plan.datasets import ChosenData
from harness.plan.entries import ChosenEntry
from harness.plan.identity import EXPORTING, TRAINING
from harness.plan.resolve import MethodStep, ResolvedMethod
from harness.plugins import Plugins
from harness.registry import Registry
from harness.store.hashing import core_hash, digest, files_hash
from harness.suite.suite import Prepare
from harness.types import RuntimeEntry, Sketch
from harness.types.plain import to_json
from harness.types.plan import ExportTask, Node, PrepareHost, StepTask

__all__ = ["Chains", "NodeTemplate"]


@dataclass(frozen=True)
class NodeTemplate:
    """A step or export before its seed is known.

    ``task``: its ``seed`` is replaced in each node. ``fixed``: digest of the content that depends neither on a seed
    nor on the step before.
    """

    plugin: str
    task: StepTask | ExportTask
    fixed: str


@dataclass
class Chains:
    """The nodes of all chains of a plan. Its methods add to ``nodes``, each node after its inputs."""

    prepare: Prepare
    host: PrepareHost
    plugins: Plugins
    nodes: dict[str, Node] = field(default_factory=dict)
    _known: dict[tuple[tuple[str, ...], int], str] = field(default_factory=dict)

    def reachable(self, keys: Iterable[str]) -> dict[str, Node]:
        """Return the nodes of ``keys`` and all nodes that they depend on, each after its inputs."""
        wanted: set[str] = set()
        stack = list(keys)
        while stack:
            key = stack.pop()
            if key not in wanted:
                wanted.add(key)
                stack += self.nodes[key].inputs
        return {key: node for key, node in self.nodes.items() if key in wanted}

    def data(self, data: ChosenData) -> str:
        """Add the node that decodes a test split. Return its key."""
        if data.key not in self.nodes:
            self.nodes[data.key] = Node(
                key=data.key,
                stage="data",
                label=f"data {data.ref.entry}",
                entry=data.ref.entry,
                plugin=data.origin.plugin,
                inputs=(),
                task=data.ref,
            )
        return data.key

    def steps(self, method: ResolvedMethod, sketch: Sketch | None) -> list[NodeTemplate]:
        """Return the steps of a method. ``sketch`` is that of its partition on the devices of a cell.

        Raises:
            BrokenContract: the code of a step failed when it named its files.
        """
        templates = []
        for link in method.links:
            step, entry, params = link.step, link.step.chosen.entry, link.step.chosen.params
            origin = step.chosen.origin
            made_with = [to_json(self.host), self.plugins.code_of(entry, origin), core_hash(*TRAINING)]
            if entry.files is not None:
                with self._registry(step).calling(entry.name, "files", may_refuse=False):
                    made_with.append(files_hash(entry.files(params)))
            task = StepTask(
                stage=step.stage,
                entry=entry.name,
                params=params.model_dump(mode="json"),
                each_part=step.each_part,
                data=link.data.ref,
                data_key=link.data.key,
                train=link.recipe,
                threads=self.prepare.threads,
                processes=self.prepare.processes,
                device=self.host.device,
                sketch=sketch if step.stage == "partition" else None,
                made_with=digest(made_with),
                seed=0,
            )
            templates.append(NodeTemplate(origin.plugin, task, digest(_without_seed(task))))
        return templates

    def _registry(self, step: MethodStep) -> Registry[Any]:
        registries: dict[str, Registry[Any]] = {
            "build": self.plugins.models,
            "compress": self.plugins.compressors,
            "partition": self.plugins.partitioners,
        }
        return registries[step.stage]

    def chain(self, steps: Sequence[NodeTemplate], name: str, seed: int) -> str:
        """Add the nodes of method ``name`` for one seed. Return the key of the last one."""
        memo = (tuple(step.fixed for step in steps), seed)
        if memo not in self._known:
            key = ""
            for step in steps:
                inputs = (key,) if key else ()
                key = digest([step.fixed, seed, key])
                self._add(key, step, f"{name} seed {seed}", inputs, seed)
            self._known[memo] = key
        return self._known[memo]

    def exporting(self, runtime: ChosenEntry[RuntimeEntry], data: ChosenData) -> NodeTemplate:
        """Return the export of a model for a runtime, and add the node of its test split."""
        task = ExportTask(
            entry=runtime.entry.name,
            params=runtime.params.model_dump(mode="json"),
            data=data.ref,
            data_key=self.data(data),
            threads=self.prepare.threads,
            device="cpu",
            seed=0,
        )
        code = self.plugins.code_of(runtime.entry, runtime.origin)
        content = [_without_seed(task), code, core_hash(*EXPORTING), self.host.torch]
        return NodeTemplate(runtime.origin.plugin, task, digest(content))

    def export(self, template: NodeTemplate, name: str, seed: int, model: str) -> str:
        """Add the node that exports the node ``model``. Return its key."""
        key = digest([template.fixed, model])
        label = f"{name} seed {seed} for {template.task.entry}"
        self._add(key, template, label, (model, template.task.data_key), seed)
        return key

    def _add(self, key: str, template: NodeTemplate, label: str, inputs: tuple[str, ...], seed: int) -> None:
        if key not in self.nodes:
            task = template.task
            self.nodes[key] = Node(
                key=key,
                stage=task.stage,
                label=label,
                entry=task.entry,
                plugin=template.plugin,
                inputs=inputs,
                task=replace(task, seed=seed),
            )


def _without_seed(task: StepTask | ExportTask) -> dict[str, object]:
    """Return a task's content for its digest. The seed enters the key of a node separately."""
    return {name: value for name, value in to_json(task).items() if name != "seed"}
