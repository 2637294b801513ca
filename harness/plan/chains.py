"""Chains of preparing nodes: data, steps of a method, export. A node that several methods share stands once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from harness.plan.identity import EXPORTING, TRAINING
from harness.plan.resolve import ChosenData, ResolvedMethod
from harness.plugins import Plugins
from harness.registry import Origin
from harness.store.hashing import core_hash, digest, files_hash
from harness.suite.suite import Prepare
from harness.types import Params, RuntimeEntry, Sketch
from harness.types.plain import to_json
from harness.types.plan import ExportTask, Node, PrepareHost, StepTask

__all__ = ["Chains", "Link"]


@dataclass(frozen=True)
class Link:
    """A step or export before its seed is known.

    ``task``: its ``seed`` is replaced in each node. ``fixed``: digest of all that neither a seed nor the step
    before it changes.
    """

    plugin: str
    task: StepTask | ExportTask
    fixed: str


@dataclass
class Chains:
    """Adds the nodes of chains to ``nodes``, each after its inputs."""

    prepare: Prepare
    host: PrepareHost
    plugins: Plugins
    nodes: dict[str, Node] = field(default_factory=dict)
    _known: dict[tuple[tuple[str, ...], int], str] = field(default_factory=dict)

    def reachable(self, keys: Iterable[str]) -> dict[str, Node]:
        """Return the nodes of ``keys`` and all that they rest on, each after its inputs."""
        wanted: set[str] = set()
        stack = list(keys)
        while stack:
            key = stack.pop()
            if key not in wanted:
                wanted.add(key)
                stack += self.nodes[key].inputs
        return {key: node for key, node in self.nodes.items() if key in wanted}

    def data(self, data: ChosenData) -> str:
        """Add the node that decodes a test split; return its key."""
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

    def links(self, resolved: ResolvedMethod, sketch: Sketch | None) -> list[Link]:
        """Return a method's steps. ``sketch``: of its partition on the devices of a cell."""
        links = []
        for step, data, recipe in resolved.links:
            made_with = [
                to_json(self.host),
                self.plugins.code_of(step.entry, step.origin),
                core_hash(*TRAINING),
            ]
            if step.entry.files is not None:
                made_with.append(files_hash(step.entry.files(step.params)))
            task = StepTask(
                stage=step.stage,
                entry=step.entry.name,
                params=step.params.model_dump(mode="json"),
                each_part=step.each_part,
                data=data.ref,
                data_key=data.key,
                train=recipe,
                threads=self.prepare.threads,
                processes=self.prepare.processes,
                device=self.host.device,
                sketch=sketch if step.stage == "partition" else None,
                made_with=digest(made_with),
                seed=0,
            )
            links.append(Link(step.origin.plugin, task, digest(_without_seed(task))))
        return links

    def chain(self, links: Sequence[Link], name: str, seed: int) -> str:
        """Add the nodes of method ``name`` for one seed; return the key of the last."""
        memo = (tuple(link.fixed for link in links), seed)
        if memo in self._known:
            return self._known[memo]
        key = ""
        for link in links:
            inputs = (key,) if key else ()
            key = digest([link.fixed, seed, key])
            self._add(key, link, f"{name} seed {seed}", inputs, seed)
        self._known[memo] = key
        return key

    def exporting(self, runtime: tuple[RuntimeEntry, Origin, Params], data: ChosenData) -> Link:
        """Return the export of a model for a runtime; the node of its test split is added."""
        entry, origin, params = runtime
        task = ExportTask(
            entry=entry.name,
            params=params.model_dump(mode="json"),
            data=data.ref,
            data_key=self.data(data),
            threads=self.prepare.threads,
            device="cpu",
            seed=0,
        )
        content = [
            _without_seed(task),
            self.plugins.code_of(entry, origin),
            core_hash(*EXPORTING),
            self.host.torch,
        ]
        return Link(origin.plugin, task, digest(content))

    def export(self, link: Link, name: str, seed: int, model: str) -> str:
        """Add the node that exports the node ``model``; return its key."""
        key = digest([link.fixed, model])
        label = f"{name} seed {seed} for {link.task.entry}"
        self._add(key, link, label, (model, link.task.data_key), seed)
        return key

    def _add(self, key: str, link: Link, label: str, inputs: tuple[str, ...], seed: int) -> None:
        if key not in self.nodes:
            self.nodes[key] = Node(
                key=key,
                stage=link.task.stage,
                label=label,
                entry=link.task.entry,
                plugin=link.plugin,
                inputs=inputs,
                task=replace(link.task, seed=seed),
            )


def _without_seed(task: StepTask | ExportTask) -> dict[str, object]:
    """Return a task's content for its digest. The seed enters a node's key beside it."""
    return {name: value for name, value in to_json(task).items() if name != "seed"}
