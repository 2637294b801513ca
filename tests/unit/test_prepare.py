"""Tests of preparing nodes: shared results, the cost of each part, and the plugin that is blamed for a failure."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import CellError, StorageError
from harness.hookspecs import hookimpl
from harness.plan import chains
from harness.plan.planner import make_plan
from harness.plugins import Plugins, load_plugins
from harness.prepare.context import PrepareContext
from harness.prepare.nodes import failure, run_node
from harness.prepare.start import check_head, start_notes
from harness.store.artifacts import Store
from harness.store.saved import load_any
from harness.suite.loading import load_suite
from harness.types import (
    IMAGE,
    CompressorEntry,
    DataInfo,
    Edge,
    Lineage,
    Model,
    ModelEntry,
    ModuleSpec,
    Part,
    Partition,
    PartitionerEntry,
    PartSketch,
    Preprocessing,
    Sketch,
    StartingWeights,
    TensorSpec,
)
from harness.types.data import DataChoice
from harness.types.plan import DataRef, ExportTask, PrepareHost

SUITE = """\
suite: mine
data: {name: synthetic, num_classes: 3, size: 8, channels: 1, train: 30, test: 6}
defaults: {train: {epochs: 0}}
methods:
  whole: {build: taught}
  split: {from: whole, partition: twins}
  trimmed: {from: split, compress: [{trim: {}, each_part: true}]}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


def joined(inputs):
    """Return a linear layer over all inputs, flattened, with three outputs."""
    import torch

    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(inputs, 3)

        def forward(self, *values):
            return self.linear(torch.cat([value.flatten(1) for value in values], 1))

    return Joined()


SPEC = ModuleSpec(factory=f"{__name__}:joined", params={"inputs": 64})
FUSION = ModuleSpec(factory=f"{__name__}:joined", params={"inputs": 6})
IMAGES, ANSWER = TensorSpec(shape=(1, 8, 8)), TensorSpec(shape=(3,))
INPUTS = {"left": (IMAGE,), "right": (IMAGE,), "fusion": ("left", "right")}


class Plugin:
    """A builder that asks for a shared teacher, a split in two and a fusion, a compressor of 5 image passes."""

    def __init__(self):
        self.taught = 0

    def teacher(self):
        self.taught += 1
        return Model(module=SPEC.build(), spec=SPEC, input=IMAGES, classes=3)

    def partition(self, ctx, model, params, sketch):
        def part(name, inputs):
            edges = tuple(Edge(source=s, tensor=IMAGES if s == IMAGE else ANSWER) for s in inputs)
            spec = SPEC if inputs == (IMAGE,) else FUSION
            return Part(name=name, module=spec.build(), spec=spec, inputs=edges, output=ANSWER)

        step = Lineage(stage="partition", entry="twins", params={}, image_passes=1)
        return Partition(parts=tuple(part(*item) for item in INPUTS.items()), classes=3, lineage=(step,))

    def trim(self, ctx, model, params):
        step = Lineage(stage="compress", entry="trim", params={}, image_passes=5, train_macs=50, train_s=0.5)
        return replace(model, lineage=(*model.lineage, step))

    @hookimpl
    def harness_models(self):
        yield ModelEntry(
            name="taught", summary="for tests", build=lambda ctx, params: ctx.once("teacher", self.teacher)
        )

    @hookimpl
    def harness_partitioners(self):
        parts = [
            PartSketch(name=name, inputs=inputs, params=1, macs=1, weight_bytes=4, output_bytes=4)
            for name, inputs in INPUTS.items()
        ]
        sketch = Sketch(parts=tuple(parts))
        yield PartitionerEntry(
            name="twins", summary="for tests", sketch=lambda *about: sketch, partition=self.partition
        )

    @hookimpl
    def harness_compressors(self):
        yield CompressorEntry(name="trim", summary="for tests", compress=self.trim)


@pytest.fixture
def prepared(tmp_path):
    """Return a function that trains the suite's models in this process, and returns the plugin and the results."""
    plugin, store = Plugin(), Store(tmp_path / "cache")
    plugins = load_plugins(extra={"mine": plugin})
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)

    def prepare():
        plan = make_plan(load_suite(path), plugins, PrepareHost(torch="1")).plan
        for node in plan.nodes.values():
            if node.stage in ("build", "partition", "compress"):
                run_node(node, plugins, store)
        model = {cell.method: plan.nodes[cell.export].inputs[0] for cell in plan.cells}
        return plugin, {method: load_any(store.folder(key)) for method, key in model.items()}

    return prepare


@pytest.mark.parametrize(("owner", "source"), [(Plugins, "source_of"), (chains, "core_hash")])
def test_what_is_shared_is_made_again_when_its_code_changes(prepared, monkeypatch, owner, source):
    assert prepared()[0].taught == 1
    assert prepared()[0].taught == 1
    monkeypatch.setattr(owner, source, lambda *names: "changed")
    assert prepared()[0].taught == 2


def test_what_compressing_each_part_cost_is_in_the_lineage(prepared):
    _, made = prepared()
    costs = [
        (step.entry, step.image_passes, step.train_macs, step.train_s) for step in made["trimmed"].lineage
    ]
    assert costs == [("twins", 1, 0, 0.0), ("trim", 5, 50, 0.5), ("trim", 5, 50, 0.5)]


def test_a_file_that_a_plugin_does_not_find_is_no_fault_of_the_stores(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), Store(tmp_path).making("k"):
        Path("nowhere").read_text()


def test_what_a_killed_maker_left_goes_with_the_next_making(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from harness.store.artifacts import Store
with Store(Path({str(tmp_path)!r})).making("k") as folder:
    (folder / "half").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*/k.*/half"))) == 1
    store = Store(tmp_path)
    with store.making("other") as folder:  # by its lock it may still be at work
        (folder / "meta.json").write_text("{}")
    assert len(list(tmp_path.glob("*/k.*/half"))) == 1
    with store.making("k") as folder:
        (folder / "meta.json").write_text("{}")
    assert list(tmp_path.glob("*/k.*")) == []


@pytest.mark.parametrize("how", ["full", "gone"])
def test_an_artifact_that_cannot_be_written_is_one_line(tmp_path, how):
    def make():
        with Store(tmp_path).making("k") as folder:
            if how == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            shutil.rmtree(folder)
            (folder / "meta.json").write_text("")

    with pytest.raises(StorageError, match=r"cannot write .*artifacts/k: "):
        make()
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("what", ["weights", "arrays", "an archive"])
def test_a_disk_that_is_full_while_weights_are_saved_is_one_line(tmp_path, what):
    """safetensors reports the system's error in its text, and numpy not at all."""
    code = f"""
import resource
from pathlib import Path
import numpy as np
from harness.errors import StorageError
from harness.store.artifacts import Store
from harness.store.saved import save_model
from harness.types import Model, ModuleSpec, TensorSpec

spec = ModuleSpec(factory="torch.nn:Linear", params={{"in_features": 300, "out_features": 300}})
model = Model(module=spec.build(), spec=spec, input=TensorSpec(shape=(300,)), classes=300)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write = {{
    "weights": lambda folder: save_model(model, folder, {{}}),
    "arrays": lambda folder: np.save(folder / "images.npy", np.zeros(100_000)),
    "an archive": lambda folder: np.savez(folder / "evaluation.npz", x=np.zeros(100_000)),
}}
try:
    with Store(Path({str(tmp_path)!r})).making("k") as folder:
        write[{what!r}](folder)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    why = "not all bytes were written: is the disk full?" if what == "arrays" else "File too large"
    assert done.stdout == f"cannot write {tmp_path / 'artifacts/k'}: {why}\n"
    assert {path.name for path in tmp_path.rglob("*")} == {"artifacts", "work"}


def test_a_full_disk_is_no_fault_of_a_plugin():
    node = SimpleNamespace(stage="build", plugin="timm")
    failed = failure(node, StorageError("cannot write it: No space left on device"), load_plugins())
    assert (failed.stage, failed.plugin, failed.reason) == (
        "build",
        "",
        "cannot write it: No space left on device",
    )


def test_an_export_trains_nothing(tmp_path):
    plugins = load_plugins()
    data = DataRef(entry="digits", params={}, choice=DataChoice(name="digits"))
    task = ExportTask(entry="torch", params={}, data=data, data_key="", threads=1, device="cpu", seed=0)
    context = PrepareContext(task, plugins, Store(tmp_path / "other"), tmp_path, print, "runtimes")
    with pytest.raises(CellError, match=r"an export cannot use ctx\.once: it trains nothing"):
        context.once("teacher", lambda: None)
    with pytest.raises(CellError, match=r"an export cannot use ctx\.fit: it trains nothing"):
        context.fit(SPEC.build())


def test_a_new_head_that_no_step_trained_is_not_exported():
    new = Lineage(stage="build", entry="timm", params={}, notes={"head": "new: no names", "new_head": True})
    cut = Lineage(stage="partition", entry="pipeline", params={})
    with pytest.raises(
        CellError, match="the head is random: it is new: no names, and no step trained it"
    ) as caught:
        check_head((new, cut))
    assert caught.value.stage == "build"
    check_head((new, replace(cut, image_passes=10)))
    check_head((replace(new, notes={"head": "all", "new_head": False}),))
    check_head(())


def test_the_lineage_says_what_differs_from_the_weights():
    start = StartingWeights(source="w", head="new: x", new_head=True, adapted=("channels",))
    expected = Preprocessing(
        image_size=24, interpolation="bicubic", crop_pct=0.9, crop_mode="center", mean=(0.5,), std=(0.5,)
    )
    builder = ModelEntry(
        name="b",
        summary="",
        build=lambda c, p: None,
        weights=lambda p, d: start,
        preprocessing=lambda p: expected,
    )
    info = DataInfo(name="t", shape=(1, 8, 8), class_names=("a", "b"), sizes={}, mean=(0.5,), std=(0.5,))
    context = SimpleNamespace(data=SimpleNamespace(info=info))
    notes = start_notes(builder, builder.params(), context, DataChoice(name="t", image_size=8))
    assert notes == {
        "weights": "w",
        "head": "new: x",
        "new_head": True,
        "adapted": [
            "channels",
            "image_size 8, the weights expect 24",
            "resized by bilinear, the weights expect bicubic, crop 0.9",
        ],
    }
    assert start_notes(replace(builder, weights=lambda p, d: None), builder.params(), context, None) == {}
