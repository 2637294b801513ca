"""Tests of every runtime, exported and loaded as in a run, on small parts of each form."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.errors import DeviceError
from harness.measure.parity import compare
from harness.types import Artifact, Edge, ModuleSpec, Part, RuntimeEntry, SessionOptions, TensorSpec
from harness_runtimes import onnx_export, plugin

ENTRIES: dict[str, RuntimeEntry] = {entry.name: entry for entry in plugin.harness_runtimes()}
ONNX = ("onnxruntime", "onnxruntime-int8")
CPU = SessionOptions(threads=1)


class Fuse(torch.nn.Module):
    """Features of two sub-models, [n, 6] and [n, 4] -> logits [n, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(10, 5)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([left, right], dim=1))


class Mean(torch.nn.Module):
    """Logits of two sub-models, averaged: nothing to quantise, no weights."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left + right) / 2


class Back(torch.nn.Module):
    """The second half of a pipeline: tokens [n, 5, 32] -> logits [n, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.head = torch.nn.Linear(32, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(tokens)[:, 0])


class OneBatch(torch.nn.Module):
    """Works for two samples only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 5)


class Folds(torch.nn.Module):
    """Scales by exp of a parameter, which a converter computes beforehand: [n, 5] -> [n, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(5))
        self.linear = torch.nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale.exp()


class Counts(torch.nn.Module):
    """Adds an integer of its state: no weight, and yet part of the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor(0))
        self.linear = torch.nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.offset


class Normed(torch.nn.Module):
    """A BatchNorm behind a convolution, which swallows it: [n, 1, 4, 4] -> [n, 3, 2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3)
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Grouped(torch.nn.Module):
    """GroupNorm, whose weights become [3, 1, 1] in a graph: [n, 1, 4, 4] -> [n, 3, 2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3)
        self.norm = torch.nn.GroupNorm(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def part(name: str, factory: str, inputs: dict[str, tuple[int, ...]], **params: object) -> Part:
    spec = ModuleSpec(factory=factory, params=params)
    torch.manual_seed(0)
    return Part(
        name=name,
        module=spec.build().eval(),
        spec=spec,
        inputs=tuple(Edge(source=s, tensor=TensorSpec(shape=shape)) for s, shape in inputs.items()),
        output=TensorSpec(shape=(5,)),
    )


PARTS = {
    "vit": part(
        "vit",
        "timm.models.vision_transformer:VisionTransformer",
        {"image": (1, 16, 16)},
        img_size=16,
        patch_size=8,
        in_chans=1,
        num_classes=5,
        embed_dim=32,
        depth=2,
        num_heads=2,
    ),
    # Names that the exporter also gives to inner values.
    "fuse": part("cat", f"{__name__}:Fuse", {"linear": (6,), "left": (4,)}),
    "mean": part("mean", f"{__name__}:Mean", {"a": (5,), "b": (5,)}),
    "back": part("back", f"{__name__}:Back", {"front": (5, 32)}),
}


def samples(of: Part, n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, *edge.tensor.shape), dtype=np.float32) for edge in of.inputs]


def built(of: Part, inputs: list[np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        return of.module(*map(torch.from_numpy, inputs)).numpy()


Export = Callable[..., Artifact]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """``export(runtime, part name, **params)``, each once."""
    done: dict[str, Artifact] = {}

    def run(runtime: str, name: str, **params: object) -> Artifact:
        key = json.dumps([runtime, name, params])
        if key not in done:
            entry, workdir = ENTRIES[runtime], tmp_path_factory.mktemp("export")
            ctx = SimpleNamespace(workdir=workdir)
            done[key] = entry.export(ctx, PARTS[name], entry.params(**params))
        return done[key]

    return run


def parity(artifact: Artifact, name: str, batches: tuple[int, ...] = (1, 3, 7), **params: object) -> list:
    entry = ENTRIES[artifact.runtime]
    session = entry.load(artifact, CPU)
    inputs = [samples(PARTS[name], n, seed=n) for n in batches]
    outputs = [session.run(batch) for batch in inputs]
    session.close()
    assert all(output.dtype == np.float32 for output in outputs)
    tolerance = entry.tolerance(entry.params(**params))
    return [
        compare(built(PARTS[name], batch), output, tolerance)
        for batch, output in zip(inputs, outputs, strict=True)
    ]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("runtime", [*ONNX, "torch"])
def test_every_form_of_part_answers_as_built_at_any_batch(export: Export, runtime: str, name: str) -> None:
    artifact = export(runtime, name)
    assert artifact.runtime == runtime
    assert artifact.inputs == tuple(edge.tensor for edge in PARTS[name].inputs)
    assert artifact.output == PARTS[name].output
    json.dumps(dict(artifact.meta))
    for result in parity(artifact, name):
        assert result.ok, result


def with_weights(of: Part, name: str, fill: Callable[[torch.Tensor], object]) -> Part:
    """Return a part of the same structure with other weights, and with other names of itself and its inputs."""
    module = of.spec.build().eval()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            fill(tensor)
    inputs = tuple(replace(edge, source=f"{name}{i}") for i, edge in enumerate(of.inputs))
    return replace(of, name=name, module=module, inputs=inputs)


def randomise(tensor: torch.Tensor) -> None:
    tensor.copy_(torch.rand(tensor.shape) * 3 if tensor.is_floating_point() else tensor + 2)


@pytest.mark.parametrize(
    ("factory", "shape", "conversions"),
    [
        ("", (), 1),
        (f"{__name__}:Folds", (5,), 4),
        (f"{__name__}:Counts", (5,), 2),
        (f"{__name__}:Normed", (1, 4, 4), 3),
        (f"{__name__}:Grouped", (1, 4, 4), 1),
    ],
    ids=["vit", "folded parameter", "integer in the state", "batch norm", "group norm"],
)
def test_models_of_one_structure_share_a_conversion_where_that_is_safe(
    factory: str, shape: tuple[int, ...], conversions: int, tmp_path: Path
) -> None:
    calls = []

    def convert(module: torch.nn.Module, of: Part) -> object:
        calls.append(of)
        return onnx_export.convert(module, of)

    converter = onnx_export.Converter(convert)
    first = part("first", factory, {"image": shape}) if factory else PARTS["vit"]
    entry = ENTRIES["onnxruntime"]
    others = [with_weights(first, "random", randomise), with_weights(first, "zeros", torch.zero_)]
    for one in (first, *others):
        artifact = onnx_export.export(one, tmp_path, spinning=True, converter=converter)
        session, inputs = entry.load(artifact, CPU), samples(one, 4)
        np.testing.assert_allclose(session.run(inputs), built(one, inputs), rtol=1e-4, atol=1e-5)
        session.close()
    assert len(calls) == conversions


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_torch_runs_in_the_precision_asked_for(export: Export, precision: str) -> None:
    half, full = export("torch", "vit", precision=precision), export("torch", "vit")
    entry = ENTRIES["torch"]
    assert half.precision == entry.precision(entry.params(precision=precision)) == precision
    assert half.weight_bytes * 2 == full.weight_bytes
    session = entry.load(half, CPU)
    assert session.facts["precision"] == precision
    (low,) = parity(half, "vit", (7,), precision=precision)
    assert low.ok
    (exact,) = parity(full, "vit", (7,))
    assert low.max_rel > 10 * exact.max_rel


def test_int8_weights_are_stored_and_multiplied_as_int8(export: Export) -> None:
    artifact, full = export("onnxruntime-int8", "vit"), export("onnxruntime", "vit")
    session = ENTRIES["onnxruntime-int8"].load(artifact, CPU)
    assert session.facts["precision"] == "int8"
    assert session.facts["quantised"] == 9  # qkv, proj, fc1, fc2 of two blocks, and the head
    assert artifact.meta["batch_dependent"]
    parameters = sum(p.numel() for p in PARTS["vit"].module.parameters())
    assert full.weight_bytes == pytest.approx(4 * parameters, rel=0.05)
    assert artifact.weight_bytes < 0.4 * full.weight_bytes


def test_a_part_without_weights_passes_int8_as_float32_and_says_so(export: Export) -> None:
    artifact = export("onnxruntime-int8", "mean")
    session = ENTRIES["onnxruntime-int8"].load(artifact, CPU)
    assert artifact.precision == "int8"
    assert session.facts["precision"] == "float32"
    assert session.facts["quantised"] == 0
    assert not artifact.meta["batch_dependent"]


@pytest.mark.parametrize("params", [{"per_channel": True}, {"reduce_range": True}])
def test_int8_parameters_change_the_file_and_keep_parity(export: Export, params: dict[str, bool]) -> None:
    artifact, plain = export("onnxruntime-int8", "fuse", **params), export("onnxruntime-int8", "fuse")
    assert _bytes(artifact) != _bytes(plain)
    assert all(result.ok for result in parity(artifact, "fuse"))


@pytest.mark.parametrize("runtime", ONNX)
def test_onnx_files_keep_to_what_boards_can_load(export: Export, runtime: str) -> None:
    import onnx

    artifact = export(runtime, "vit")
    model = onnx.load_model(artifact.path / artifact.meta["file"])
    assert [(item.domain, item.version) for item in model.opset_import if item.domain == ""] == [("", 18)]
    assert model.ir_version == 8
    assert "ConvInteger" not in {node.op_type for node in model.graph.node}
    assert [item.name for item in model.graph.input] == ["in0/image"]
    assert [item.name for item in model.graph.output] == ["out/vit"]
    assert __file__.encode() not in _bytes(artifact)
    assert b"stack_trace" not in _bytes(artifact)


def test_onnx_facts_tell_how_it_runs(export: Export) -> None:
    import onnxruntime

    artifact = export("onnxruntime", "mean", spinning=False)
    facts = ENTRIES["onnxruntime"].load(artifact, SessionOptions(threads=2)).facts
    assert facts["precision"] == "float32"
    assert facts["provider"] == "CPUExecutionProvider"
    assert facts["version"] == onnxruntime.__version__
    assert (facts["threads"], facts["spinning"], facts["opset"]) == (2, False, 18)
    assert ENTRIES["onnxruntime"].load(export("onnxruntime", "mean"), CPU).facts["spinning"]


@pytest.mark.parametrize("runtime", [*ONNX, "torch"])
def test_exporting_twice_gives_the_same_bytes(export: Export, runtime: str, tmp_path: Path) -> None:
    entry = ENTRIES[runtime]
    again = entry.export(SimpleNamespace(workdir=tmp_path), PARTS["fuse"], entry.params())
    assert _bytes(again) == _bytes(export(runtime, "fuse"))


def test_export_leaves_the_module_and_the_generator_alone(tmp_path: Path) -> None:
    entry, mine = ENTRIES["torch"], PARTS["back"]
    mine.module.train()
    before, random = {k: v.clone() for k, v in mine.module.state_dict().items()}, torch.get_rng_state()
    entry.export(SimpleNamespace(workdir=tmp_path), mine, entry.params(precision="bfloat16"))
    assert torch.equal(random, torch.get_rng_state())
    assert mine.module.training
    assert all(torch.equal(before[k], v) for k, v in mine.module.state_dict().items())
    mine.module.eval()


def test_tampered_weights_fail_parity(export: Export, tmp_path: Path) -> None:
    import onnx

    artifact = export("onnxruntime", "vit")
    model = onnx.load_model(artifact.path / artifact.meta["file"])
    head = next(t for t in model.graph.initializer if t.name == "head.weight")
    weights = onnx.numpy_helper.to_array(head) * 1.01
    head.CopyFrom(onnx.numpy_helper.from_array(weights.astype(np.float32), head.name))
    onnx.save_model(model, tmp_path / artifact.meta["file"])
    (result,) = parity(replace(artifact, path=tmp_path), "vit", (7,))
    assert not result.ok
    assert result.max_rel == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("runtime", ONNX)
def test_an_onnx_worker_never_imports_torch(export: Export, runtime: str, tmp_path: Path) -> None:
    artifact = export(runtime, "fuse")
    inputs = samples(PARTS["fuse"], 3)
    np.savez(tmp_path / "in.npz", *inputs)
    script = """
import json, sys
from pathlib import Path
import numpy as np
from harness_runtimes import plugin
heavy = {"torch", "onnx", "timm"}
assert not heavy & set(sys.modules), "plugin"
assert "onnxruntime" not in sys.modules, "plugin"
from harness.types import Artifact, SessionOptions, TensorSpec
folder, meta, runtime, data = sys.argv[1:]
artifact = Artifact(path=Path(folder), runtime=runtime, precision="", weight_bytes=0, inputs=(),
                    output=TensorSpec(shape=(5,)), meta=json.loads(meta))
session = next(e for e in plugin.harness_runtimes() if e.name == runtime).load(artifact, SessionOptions())
output = session.run(list(np.load(data).values()))
session.close()
assert not heavy & set(sys.modules), "load and run"
print(json.dumps(output.tolist()))
"""
    meta = json.dumps(dict(artifact.meta))
    command = [sys.executable, "-c", script, str(artifact.path), meta, runtime, str(tmp_path / "in.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert compare(built(PARTS["fuse"], inputs), np.array(json.loads(done.stdout)), 0.05).ok


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_torch_compile_answers_as_built(export: Export) -> None:
    artifact = export("torch-compile", "fuse")
    assert ENTRIES["torch-compile"].load(artifact, CPU).facts["compile_mode"] == "default"
    for result in parity(artifact, "fuse", (1, 3)):
        assert result.ok, result


def test_torch_compile_without_a_compiler_says_so(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match=r"C\+\+ compiler.*no-such-compiler"):
        ENTRIES["torch-compile"].load(export("torch-compile", "fuse"), CPU)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", "torch-compile"])
def test_no_device_is_replaced_by_another(export: Export, runtime: str) -> None:
    artifact, load = export(runtime, "fuse"), ENTRIES[runtime].load
    with pytest.raises(DeviceError, match=r"unknown device 'tpu:0'; allowed: cpu, cuda:N"):
        load(artifact, SessionOptions(device="tpu:0"))
    with pytest.raises(DeviceError, match="cuda:99"):
        load(artifact, SessionOptions(device="cuda:99"))


def test_an_operation_that_the_device_lacks_is_one_line(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Fuse, *inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'\nmore")

    session = ENTRIES["torch"].load(export("torch", "fuse", precision="float16"), CPU)
    monkeypatch.setattr(Fuse, "forward", refuse)
    with pytest.raises(DeviceError, match=r"torch, float16 on cpu: .*not implemented for 'Half'$"):
        session.run(samples(PARTS["fuse"], 1))


def test_too_few_inputs_are_refused(export: Export) -> None:
    session = ENTRIES["onnxruntime"].load(export("onnxruntime", "fuse"), CPU)
    with pytest.raises(ValueError, match="shorter"):
        session.run(samples(PARTS["fuse"], 1)[:1])


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_spec_that_does_not_rebuild_the_module_is_refused(runtime: str, tmp_path: Path) -> None:
    entry = ENTRIES[runtime]
    wrong = replace(PARTS["fuse"], spec=ModuleSpec(factory=f"{__name__}:Back"))
    with pytest.raises(ValueError, match=r"part 'cat': .*:Back does not rebuild it"):
        entry.export(SimpleNamespace(workdir=tmp_path), wrong, entry.params())


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    fixed = part("fixed", f"{__name__}:OneBatch", {"image": (5,)})
    with pytest.raises(ValueError, match=r"part 'fixed': no ONNX export: .* one batch size"):
        ENTRIES["onnxruntime"].export(SimpleNamespace(workdir=tmp_path), fixed, plugin.OnnxParams())


def test_an_opset_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    converter = onnx_export.Converter(opset=99)
    with pytest.raises(ValueError, match="gave opset 18 where 99 was asked for"):
        onnx_export.export(PARTS["mean"], tmp_path, spinning=True, converter=converter)


def test_more_than_protobuf_holds_is_refused(tmp_path: Path) -> None:
    converter = onnx_export.Converter(max_bytes=100)
    with pytest.raises(ValueError, match=r"part 'cat': .* 2 GiB"):
        onnx_export.export(PARTS["fuse"], tmp_path, spinning=True, converter=converter)


def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"part '../cat': a part's name may hold"):
        ENTRIES["torch"].export(
            SimpleNamespace(workdir=tmp_path), replace(PARTS["fuse"], name="../cat"), plugin.TorchParams()
        )


def _bytes(artifact: Artifact) -> bytes:
    return (artifact.path / artifact.meta["file"]).read_bytes()


@pytest.mark.parametrize("integrated", [False, True])
def test_gpu_memory_is_read_from_torch_and_from_the_driver(monkeypatch, integrated):
    from harness_runtimes import torch_runtime

    def on(value):
        return lambda device: {torch.device("cuda:1"): value}[device]

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", on(10))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", on(20))
    monkeypatch.setattr(torch.cuda, "get_device_properties", on(SimpleNamespace(is_integrated=integrated)))
    monkeypatch.setattr(torch_runtime, "on_gpu", lambda *, integrated: {"shared": int(integrated)})
    expected = {"allocated_peak": 10, "reserved_peak": 20, "shared": int(integrated)}
    assert torch_runtime.gpu_memory(torch.device("cuda:1")) == expected
