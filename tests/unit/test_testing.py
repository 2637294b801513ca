"""Tests of ``harness.testing``: its checks accept entries that keep the contracts, and name the broken contract."""

from __future__ import annotations

import dataclasses
import sys
import textwrap

import numpy as np
import pytest

from harness import testing
from harness.plugins import load_plugins
from harness.testing import checks
from harness.types import Context, DataInfo, Dataset, DatasetEntry, Params

torch = pytest.importorskip("torch", reason="needs the extra [bench]")

FAKE = """
from dataclasses import replace
from harness.hookspecs import hookimpl
from harness.types import *

class Small(Params):
    width: int = 4

def describe(params, data):
    return ModuleSpec(factory="{name}:net", params={{"shape": list(data.shape), "classes": data.classes,
                                                   "width": params.width}})

def heavy_describe(params, data):
    import torch
    return describe(params, data)

def build(ctx, params):
    spec = describe(params, ctx.data.info)
    return Model(module=spec.build(), spec=spec, input=TensorSpec(shape=ctx.data.info.shape),
                 classes=ctx.data.info.classes)

def net(*, shape, classes, width, bias=True):
    import math
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU(),
                         nn.Linear(width, classes, bias=bias))

def narrow(ctx, model, params):
    spec = replace(model.spec, params={{**model.spec.params, "width": params.width}})
    module = spec.build()
    ctx.fit(module, name="narrow")
    step = Lineage(stage="compress", entry="narrow", params=params.model_dump())
    return replace(model, module=module, spec=spec, lineage=(*model.lineage, step))

def narrow_spec(spec, params, data):
    return replace(spec, params={{**spec.params, "width": params.width}})

def sketch(spec, params, fleet):
    if spec is None:
        raise ValueError("the shape is not known")
    inside = spec.params["shape"][0] * spec.params["shape"][1] * spec.params["shape"][2]
    width, classes = spec.params["width"], spec.params["classes"]
    front, back = (inside + 1) * width, (width + 1) * classes
    return Sketch(parts=(
        PartSketch(name="front", inputs=("image",), params=front, macs=inside * width, weight_bytes=4 * front,
                   output_bytes=4 * width),
        PartSketch(name="back", inputs=("front",), params=back, macs=width * classes, weight_bytes=4 * back,
                   output_bytes=4 * classes)))

def front(*, base):
    return ModuleSpec(**base).build()[:3]

def back(*, base):
    return ModuleSpec(**base).build()[3:]

def cut(ctx, model, params, sketch):
    base = {{"factory": model.spec.factory, "params": dict(model.spec.params)}}
    middle = TensorSpec(shape=(model.spec.params["width"],))
    parts = (
        Part(name="front", module=model.module[:3], spec=ModuleSpec(factory="{name}:front", params={{"base": base}}),
             inputs=(Edge(source=IMAGE, tensor=model.input),), output=middle),
        Part(name="back", module=model.module[3:], spec=ModuleSpec(factory="{name}:back", params={{"base": base}}),
             inputs=(Edge(source="front", tensor=middle),), output=TensorSpec(shape=(model.classes,))))
    step = Lineage(stage="partition", entry="cut", params={{}})
    return Partition(parts=parts, classes=model.classes, lineage=(*model.lineage, step))

@hookimpl
def harness_models():
    yield ModelEntry(name="small", summary="two layers", params=Small, build=build, describe=describe)

@hookimpl
def harness_compressors():
    yield CompressorEntry(name="narrow", summary="fewer neurons", params=Small, compress=narrow,
                          describe=narrow_spec)

@hookimpl
def harness_partitioners():
    yield PartitionerEntry(name="cut", summary="in two", params=Small, sketch=sketch, partition=cut)
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """A plugin's module that keeps every contract, importable from a folder of its own."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fake")
    (folder / "fake_kept.py").write_text(textwrap.dedent(FAKE.format(name="fake_kept")))
    (folder / "fake_heavy.py").write_text("import torch\n" + FAKE.format(name="fake_heavy"))
    sys.path.insert(0, str(folder))
    import fake_kept

    yield fake_kept
    sys.path.remove(str(folder))
    for name in ("fake_kept", "fake_heavy"):
        sys.modules.pop(name, None)


@pytest.fixture
def entries(fake):
    return {
        e.name: e
        for hook in ("models", "compressors", "partitioners")
        for e in getattr(fake, f"harness_{hook}")()
    }


@pytest.fixture
def model(entries, tmp_path):
    return testing.make_model(testing.make_context(tmp_path), entries["small"], {"width": 8})


# --- the context ----------------------------------------------------------------------------------


def test_a_context_has_what_the_contract_says(tmp_path):
    ctx = testing.make_context(tmp_path, classes=4, shape=(3, 8, 12), train=40, test=12, seed=5)
    assert {*Context.__annotations__, "data", "fit", "evaluate", "once", "progress"} <= set(dir(ctx))
    assert (ctx.seed, ctx.device) == (5, "cpu")
    assert ctx.data.info.shape == (3, 8, 12)
    assert ctx.data.info.classes == 4
    assert len(ctx.data.train) + len(ctx.data.validation) == 40
    batch = ctx.data.test.batch(np.arange(12))
    assert batch.shape == (12, 3, 8, 12)
    assert batch.dtype == np.float32
    assert ctx.workdir.is_relative_to(tmp_path)


def test_contexts_alike_have_the_same_data_and_other_seeds_too(tmp_path):
    first, second = (testing.make_context(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert (first.data.train.batch([0, 5]) == second.data.train.batch([0, 5])).all()


def test_the_classes_can_be_learnt(tmp_path, entries):
    ctx = testing.make_context(tmp_path, recipe={"epochs": 5, "lr": 1e-2})
    model = testing.make_model(ctx, entries["small"], {"width": 16})
    assert ctx.evaluate(model.module).top1 > 80
    (step,) = model.lineage
    assert step.image_passes == 5 * len(ctx.data.train)
    assert step.params == {"width": 16}


def test_once_is_computed_once(tmp_path, entries):
    ctx = testing.make_context(tmp_path)
    calls = []

    def teacher():
        calls.append(1)
        return testing.make_model(testing.make_context(tmp_path / "teacher"), entries["small"])

    first, second = ctx.once("teacher", teacher), ctx.once("teacher", teacher)
    assert len(calls) == 1
    assert torch.equal(first.module[1].weight, second.module[1].weight)


# --- what keeps the contracts ---------------------------------------------------------------------


def test_a_good_model_passes(entries):
    testing.check_model(entries["small"], {"width": 3}, shape=(3, 8, 8), classes=5)


def test_a_good_compressor_passes(entries, model):
    testing.check_compressor(entries["narrow"], {"width": 2}, model)


def test_a_good_partitioner_passes(entries, model):
    testing.check_partitioner(entries["cut"], model=model)


def test_a_good_plugin_passes(fake):
    testing.check_plugin(fake)
    testing.check_plugin("fake_kept")


@pytest.mark.parametrize("name", ["timm", "edgevit", "baselines", "runtimes", "local", "data"])
def test_the_plugins_in_the_box_pass(name):
    testing.check_plugin(name)


def test_the_embedded_data_pass():
    testing.check_dataset(load_plugins().datasets.get("digits").entry)
    testing.check_dataset(load_plugins().datasets.get("synthetic").entry, {"train": 20, "test": 10})


def test_a_runtime_in_the_box_passes(model):
    testing.check_runtime(load_plugins().runtimes.get("torch").entry, {"precision": "bfloat16"}, model)


# --- what breaks them -----------------------------------------------------------------------------


def change(value, **fields):
    return dataclasses.replace(value, **fields)


def fails(text):
    return pytest.raises(AssertionError, match=text)


def test_wrong_parameters_are_named(entries):
    with fails("'small': widht: Extra inputs"):
        testing.check_model(entries["small"], {"widht": 3})


def test_a_spec_that_does_not_rebuild_is_named(entries, fake):
    def build(ctx, params):
        model = fake.build(ctx, params)
        return change(model, spec=change(model.spec, params={**model.spec.params, "width": 5}))

    with fails(r"model 'small': cannot be saved and rebuilt: .*size mismatch.* \(contract: ModuleSpec\)"):
        testing.check_model(change(entries["small"], build=build, describe=None))


def test_a_spec_that_is_no_json_is_named(entries, fake):
    def build(ctx, params):
        model = fake.build(ctx, params)
        return change(model, spec=change(model.spec, params={**model.spec.params, "width": np.int64(4)}))

    with fails("build gave params that are not JSON"):
        testing.check_model(change(entries["small"], build=build, describe=None))


def test_a_factory_with_a_mind_of_its_own_is_named(entries, fake):
    """The state dict fits, but the rebuilt module computes something else."""

    def build(ctx, params):
        model = fake.build(ctx, params)
        model.module[2] = torch.nn.Tanh()
        return model

    with fails("rebuilt from its spec it computes something else"):
        testing.check_model(change(entries["small"], build=build))


def test_weights_that_no_seed_determines_are_named(entries, fake):
    generator = torch.Generator().manual_seed(0)

    def build(ctx, params):
        model = fake.build(ctx, params)
        torch.nn.init.normal_(model.module[1].weight, generator=generator)
        return model

    with fails("the same seed gave other weights: .*1.weight"):
        testing.check_model(change(entries["small"], build=build))


def test_a_wrong_description_is_named(entries, fake):
    def build(ctx, params):
        return fake.build(ctx, fake.Small(width=params.width + 1))

    with fails("describe gave .*'width': 4.* the model has .*'width': 5"):
        testing.check_model(change(entries["small"], build=build))


def test_a_description_that_imports_torch_is_named(entries, fake):
    with fails("model 'small': heavy_describe imports torch at planning time"):
        testing.check_model(change(entries["small"], describe=fake.heavy_describe))


def test_a_description_that_cannot_be_called_elsewhere_is_named(entries):
    with fails("cannot be called in a new process, where it, .* must be importable"):
        testing.check_model(change(entries["small"], describe=lambda params, data: None))


def test_another_class_count_is_named(entries, fake):
    def build(ctx, params):
        return change(fake.build(ctx, params), classes=7)

    with fails("gives 7 classes"):
        testing.check_model(change(entries["small"], build=build))


def test_an_answer_that_depends_on_the_batch_is_named(entries, fake):
    class Centred(torch.nn.Linear):
        def forward(self, x):
            x = super().forward(x)
            return x - x.mean(dim=0)

    def build(ctx, params):
        model = fake.build(ctx, params)
        inside = model.module[3]
        model.module[3] = Centred(inside.in_features, inside.out_features)
        return model

    with fails("computes something else|alone and among three"):
        testing.check_model(change(entries["small"], build=build))


def test_a_compressor_without_lineage_is_named(entries, fake, model):
    def compress(ctx, source, params):
        return change(fake.narrow(ctx, source, params), lineage=source.lineage)

    with fails(r"no Lineage\(stage='compress', entry='narrow'\)"):
        testing.check_compressor(change(entries["narrow"], compress=compress), {"width": 2}, model)


def test_an_undeclared_change_is_named(entries, fake, model):
    def compress(ctx, source, params):
        made = fake.narrow(ctx, source, params)
        return change(made, input=change(made.input, shape=(1, 16, 17)))

    with fails(r"made input .*17.* undeclared \(contract: CompressorEntry.changes\)"):
        testing.check_compressor(change(entries["narrow"], compress=compress), {"width": 2}, model)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"params": 1}, "sketched"),
        ({"name": "forward"}, "part 'back' has the inputs .'front',"),
        ({"inputs": ("image", "back")}, "part 'front' has the inputs .'image', 'back'"),
    ],
)
def test_a_sketch_that_is_not_true_is_named(entries, fake, model, monkeypatch, fields, said):
    def partition(ctx, source, params, sketch):
        return fake.cut(ctx, source, params, sketch)

    true = fake.sketch(model.spec, fake.Small(), None)
    wrong = change(true, parts=(change(true.parts[0], **fields), true.parts[1]))
    monkeypatch.setattr(checks, "in_new_process", lambda *arguments, **options: wrong)
    with fails(said):
        testing.check_partitioner(change(entries["cut"], partition=partition), model=model)


def test_an_edge_of_another_shape_is_named(entries, fake, model):
    def partition(ctx, source, params, sketch):
        made = fake.cut(ctx, source, params, sketch)
        front, back = made.parts
        wide = change(back.inputs[0], tensor=change(back.inputs[0].tensor, shape=(9,)))
        return change(made, parts=(front, change(back, inputs=(wide,))))

    with fails(r"back: front is \(8,\), its edge says \(9,\)"):
        testing.check_partitioner(change(entries["cut"], partition=partition), model=model)


class Digits:
    """A data set of two images per split, to break."""

    labels = np.array([0, 1])

    def image(self, index: int):
        return np.full((4, 4, 1), 100 + index, np.uint8)

    def __len__(self) -> int:
        return 2


class Bytes(Digits):
    labels = np.array([0, 1], np.int32)


class Outside(Digits):
    labels = np.array([0, 2])


class Flat(Digits):
    def image(self, index: int):
        return np.zeros((4, 4), np.uint8)


class Moody(Digits):
    def image(self, index: int):
        return np.random.default_rng().integers(0, 255, (4, 4, 1)).astype(np.uint8)


INFO = DataInfo(
    name="two",
    shape=(1, 4, 4),
    class_names=("a", "b"),
    sizes={"train": 2, "test": 2},
    mean=(0.5,),
    std=(0.5,),
    fingerprint="two",
)


@pytest.mark.parametrize(
    ("made", "info", "said"),
    [
        (Digits, INFO, None),
        (Bytes, INFO, r"train labels are int32 \[2\], not int64"),
        (Outside, INFO, "train image 1 has label 2 .contract: Dataset.labels: 0 to 1"),
        (Flat, INFO, r"image 0 is uint8 \[4, 4\], not uint8 \[height, width, 1\]"),
        (Moody, INFO, "image 0 differs when loaded again"),
        (Digits, change(INFO, sizes={"train": 3, "test": 2}), "train has 2 samples, said 3"),
        (
            Digits,
            change(INFO, mean=(0.5, 0.5)),
            "mean is .0.5, 0.5. .contract: DataInfo.mean: a number for each of the 1 channels",
        ),
        (Digits, change(INFO, fingerprint=""), "has no fingerprint"),
        (Digits, change(INFO, missing="no file; fetch it"), "cannot be read here: no file; fetch it"),
    ],
)
def test_data_that_break_their_contract_are_named(monkeypatch, made, info, said):
    def load(params: Params, split: str) -> Dataset:
        return made()

    entry = DatasetEntry(name="two", summary="two images", describe=lambda params: info, load=load)
    monkeypatch.setattr(checks, "in_new_process", lambda need, function, *given, **options: function(*given))
    if said is None:
        testing.check_dataset(entry)
    else:
        with fails(said):
            testing.check_dataset(entry)


def test_a_fingerprint_of_this_process_alone_is_named(fake, tmp_path, monkeypatch):
    (tmp_path / "moody_data.py").write_text(
        "from harness.types import DataInfo\n"
        "def describe(params):\n"
        "    return DataInfo(name='m', shape=(1, 2, 2), class_names=('a', 'b'), sizes={}, mean=(0,), std=(1,),\n"
        "                    fingerprint=str(object()))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import moody_data

    entry = DatasetEntry(
        name="m", summary="m", describe=moody_data.describe, load=lambda params, split: Digits()
    )
    with fails("describes itself differently in another process"):
        testing.check_dataset(entry)


def test_a_runtime_beyond_its_tolerance_is_named(model):
    entry = load_plugins().runtimes.get("torch").entry
    strict = change(entry, tolerance=lambda params: 1e-9)
    with fails(r"runtime 'torch': batch 1: relative difference .* exceeds 1e-09"):
        testing.check_runtime(strict, {"precision": "bfloat16"}, model)


def test_a_plugin_that_imports_torch_is_named(fake):
    with fails("plugin 'fake_heavy': call_hooks imports torch"):
        testing.check_plugin("fake_heavy")


def test_a_plugin_with_a_broken_hook_is_named(fake, monkeypatch):
    monkeypatch.setattr(fake, "harness_models", fake.hookimpl(lambda: [{}]))
    with fails("harness_models: gave dict, not ModelEntry"):
        testing.check_plugin(fake)


def test_a_plugin_that_gives_nothing_is_named():
    with fails("gives nothing: is @hookimpl missing"):
        testing.check_plugin("textwrap")


def test_a_name_that_no_suite_can_write_is_named(fake, entries, monkeypatch):
    monkeypatch.setattr(fake, "harness_models", fake.hookimpl(lambda: [change(entries["small"], name="a b")]))
    with fails("its name is 'a b' .contract: name: letters, digits"):
        testing.check_plugin(fake)
