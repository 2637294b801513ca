"""Plugins for tests of contracts: entries that are right, and functions that break the rules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.hookspecs import hookimpl
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.suite.loading import load_suite
from harness.types import (
    BackendEntry,
    CompressorEntry,
    DataInfo,
    DatasetEntry,
    DeviceInfo,
    MeterEntry,
    MeterInfo,
    ModelEntry,
    ModuleSpec,
    PartitionerEntry,
    PartSketch,
    PlacerEntry,
    RuntimeEntry,
)
from harness.types.plan import PrepareHost

NAMED = "plugin broken ((not installed) ): "


KINDS = {
    ModelEntry: "models",
    CompressorEntry: "compressors",
    PartitionerEntry: "partitioners",
    PlacerEntry: "placers",
    DatasetEntry: "datasets",
    BackendEntry: "backends",
    RuntimeEntry: "runtimes",
    MeterEntry: "meters",
}


def plugin(*entries: Any) -> SimpleNamespace:
    """Return a plugin that gives these entries."""
    made = SimpleNamespace()
    for kind, name in KINDS.items():
        own = [entry for entry in entries if isinstance(entry, kind)]
        if own:
            hook = f"harness_{name}"
            setattr(made, hook, hookimpl(lambda own=own: own, specname=hook))
    return made


def nothing(*arguments: Any) -> None:
    """Return None, as a function of an entry that is not called here."""


def load(artifact: Any, options: Any) -> None:
    """Load nothing. It is at the top level, so that another process can import it."""


def fails(*arguments: Any) -> None:
    raise KeyError("no such file")


def leaves(*arguments: Any) -> None:
    raise SystemExit(3)


def interrupts(*arguments: Any) -> None:
    raise KeyboardInterrupt


RUNTIME = RuntimeEntry(
    name="other", summary="", export=nothing, load=load, precision=nothing, tolerance=nothing
)


METER = MeterEntry(name="other", summary="", probe=nothing, open=load)


SUITE = """
suite: mine
data: {name: digits, image_size: 16}
defaults: {train: {epochs: 1}}
methods:
  good: {build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}}
  bad: BAD
devices:
  here: {backend: cpu}
  pair: {fleet: [here, here]}
  toy: {backend: toy-board}
run:
  - {methods: all, devices: [here, pair]}
  - {methods: [good], devices: [toy]}
"""


OWN = "{build: toy}"


def spec(**changes: Any):
    def describe(*arguments):
        return ModuleSpec(**{"factory": "somewhere:build", **changes})

    return describe


PART = PartSketch(name="whole", inputs=("image",), params=1, macs=1, weight_bytes=4, output_bytes=4)


BUILD = ModelEntry(name="toy", summary="", build=nothing)


SPLITTER = PartitionerEntry(name="toy-split", summary="", sketch=nothing, partition=nothing)


PLACER = PlacerEntry(name="toy-place", summary="", place=nothing)


INFO = DataInfo(
    name="toy",
    shape=(1, 16, 16),
    class_names=("a", "b"),
    sizes={"train": 8, "test": 8},
    mean=(0.5,),
    std=(0.5,),
    fingerprint="toy",
)


DATASET = DatasetEntry(name="toy", summary="", describe=lambda params: INFO, load=nothing)


DEVICE = DeviceInfo(name="toy", backend="toy-board", model="Toy", kind="cpu", cores=1, memory_bytes=1)


BACKEND = BackendEntry(
    name="toy-board", summary="", probe=lambda: [DEVICE], describe=lambda spec: DEVICE, open=nothing
)


def giving(answer):
    return lambda *arguments: answer


def planned(tmp_path, method, *entries):
    """Return the cells of a plan by method and device. The plugin ``broken`` gives the entries."""
    given = {
        (type(entry), entry.name): entry for entry in (BUILD, SPLITTER, PLACER, DATASET, BACKEND, *entries)
    }
    plugins = load_plugins(extra={"broken": plugin(*given.values())})
    assert plugins.problems == ()
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE.replace("BAD", method))
    made = make_plan(load_suite(path), plugins, PrepareHost(torch="1")).plan
    return {(cell.method, cell.task.device): cell for cell in made.cells}


POWER = MeterInfo(
    name="toy", scope="board", watches="board", provenance="measured", quantity="power", period_s=0.1
)
