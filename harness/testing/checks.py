"""For plugin authors: a context over small synthetic data, and checks of the contracts in ``harness.types``.

Each ``check_*`` raises ``AssertionError`` with one line: which entry, what is wrong, and which contract says
so. What planning calls is called in a new process too, so it must stand at the top level of a module.
``data`` are keywords of :func:`make_context`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.store.artifacts import Store
from harness.prepare.context import PrepareContext
from harness.hookspecs import COLLECTING, OBSERVERS, hookimpl
from harness.measure.parity import compare
from harness.plugins import GROUP, load_plugins
from harness.store.saved import load_any, save_partition
from harness.suite.suite import NAME
from harness.types import (
    IMAGE,
    CompressorEntry,
    Context,
    DataInfo,
    DatasetEntry,
    DeviceInfo,
    Edge,
    Fleet,
    Lineage,
    Model,
    ModelEntry,
    Params,
    Part,
    Partition,
    PartitionerEntry,
    RuntimeEntry,
    SessionOptions,
    TensorSpec,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = [
    "check_compressor",
    "check_dataset",
    "check_model",
    "check_partitioner",
    "check_plugin",
    "check_runtime",
    "make_context",
    "make_model",
]

HEAVY = ("torch", "timm", "onnx", "onnxruntime")
"""What a plugin's module and its planning functions must not import."""

RECIPE = {"epochs": 1, "batch_size": 16, "schedule": "none"}
TINY_VIT = {"patch_size": 4, "dim": 24, "depth": 3, "heads": 3}

ParamsLike = Params | Mapping[str, Any] | None
Need = Callable[[bool, str, str], None]


# --- a context ------------------------------------------------------------------------------------


class _Blobs:
    """Images of one split: a pattern per class, plus noise."""

    def __init__(self, info: DataInfo, n: int, seed: int) -> None:
        import numpy as np

        channels, height, width = info.shape
        size = (height, width, channels)
        patterns = np.random.RandomState(0).uniform(64, 192, (info.classes, *size))
        noise = np.random.RandomState(seed).normal(0, 16, (n, *size))
        self.labels = np.arange(n, dtype=np.int64) % info.classes
        self._images = np.clip(patterns[self.labels] + noise, 0, 255).astype(np.uint8)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._images[index]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.labels)


class _BlobsPlugin:
    """The synthetic data set as a plugin, so that a context reads it by the usual road."""

    def __init__(self, info: DataInfo) -> None:
        self.info = info

    @hookimpl  # type: ignore[untyped-decorator]
    def harness_datasets(self) -> Iterable[DatasetEntry]:
        yield DatasetEntry(
            name=self.info.name,
            summary="a pattern per class, plus noise",
            describe=lambda params: self.info,
            load=lambda params, split: _Blobs(self.info, self.info.sizes[split], seed=1 + (split == "test")),
        )


def make_context(
    tmp_path: Path,
    *,
    classes: int = 3,
    shape: tuple[int, int, int] = (1, 16, 16),
    train: int = 64,
    test: int = 32,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
) -> Context:
    """What a builder, compressor or partitioner gets, over ``train`` and ``test`` images [channels, height,
    width] whose classes are easily told apart; an eighth of ``train`` is for validation.

    ``recipe`` replaces keys of the training recipe (one epoch, batches of 16, constant learning rate).
    Everything is on the CPU and below ``tmp_path``; ``seed`` is the training seed.
    """
    info = DataInfo(
        name="blobs",
        shape=shape,
        class_names=tuple(f"class {i}" for i in range(classes)),
        sizes={"train": train, "test": test},
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        fingerprint=f"blobs {classes} {shape} {train} {test}",
    )
    installed = {point.name for point in entry_points(group=GROUP)}
    plugins = load_plugins(block=installed, extra={"testing": _BlobsPlugin(info)})
    task = {
        "data": {"entry": "blobs", "params": {}, "choice": {"name": "blobs", "validation": 0.125}},
        "data_key": info.fingerprint,
        "train": {**RECIPE, **(recipe or {})},
        "seed": seed,
        "threads": 1,
        "processes": 1,
        "device": "cpu",
        "made_with": "",
    }
    workdir = tmp_path / "work"
    workdir.mkdir(parents=True, exist_ok=True)
    store = Store(tmp_path / "cache")
    return PrepareContext(task, plugins, store, workdir, lambda text, fraction: None, "testing")


def make_model(ctx: Context, build: str | ModelEntry = "vit", params: ParamsLike = None) -> Model:
    """Build and train with the context's recipe: a model to compress, split or export.

    ``build`` is an entry, or the name of an installed one; without ``params``, ``vit`` is a tiny one.
    """
    if isinstance(build, str):
        params = TINY_VIT if build == "vit" and params is None else params
        build = load_plugins().models.get(build).entry
    given = _params(build, params)
    model: Model = _seeded(ctx, build.build, given)
    fit = ctx.fit(model.module, name="train")
    step = Lineage(stage="build", entry=build.name, params=given.model_dump(mode="json"),
                   image_passes=fit.image_passes, train_macs=fit.train_macs, train_s=fit.train_s)  # fmt: skip
    return replace(model, lineage=(*model.lineage, step))


# --- checks ---------------------------------------------------------------------------------------


def check_model(entry: ModelEntry, params: ParamsLike = None, **data: Any) -> None:
    """Builds twice with one seed. The model must be saved and rebuilt from its spec, compute the same then,
    for one sample and for three, be what ``describe`` said, and take a training."""
    need = _needing(f"model {entry.name!r}")
    given = _params(entry, params)
    with _contexts(data) as new:
        ctx = new()
        model = _seeded(ctx, entry.build, given)
        need(isinstance(model, Model), f"build gave {type(model).__name__}", "ModelEntry.build")
        need(model.classes == ctx.data.info.classes, f"gives {model.classes} classes", "Model.classes")
        _check_parts(need, _whole(model), _whole(_seeded(new(), entry.build, given)), ctx)
        if entry.describe is not None:
            _check_described(need, model, _in_new_process(need, entry.describe, given, ctx.data.info))
        ctx.fit(model.module, name="train")


def check_compressor(
    entry: CompressorEntry, params: ParamsLike = None, model: Model | None = None, **data: Any
) -> None:
    """Compresses ``model`` (by default a tiny trained ViT) twice with one seed. As for a model; besides, the
    result has a lineage step of its own, and keeps input and classes unless ``changes`` names them."""
    need = _needing(f"compressor {entry.name!r}")
    given = _params(entry, params)
    with _contexts(data) as new:
        ctx = new()
        source = model or make_model(new())
        made, twin = (_seeded(c, entry.compress, copy.deepcopy(source), given) for c in (ctx, new()))
        need(isinstance(made, Model), f"compress gave {type(made).__name__}", "CompressorEntry.compress")
        _check_lineage(need, made, "compress", entry.name)
        for key in ("input", "classes"):
            before, after = getattr(source, key), getattr(made, key)
            kept = before == after or key in entry.changes
            need(kept, f"made {key} {after} of {before} undeclared", "CompressorEntry.changes")
        _check_parts(need, _whole(made), _whole(twin), ctx)
        if entry.describe is not None:
            told = _in_new_process(need, entry.describe, source.spec, given, ctx.data.info)
            _check_described(need, made, told)


def check_partitioner(
    entry: PartitionerEntry,
    params: ParamsLike = None,
    model: Model | None = None,
    fleet: Fleet | None = None,
    **data: Any,
) -> None:
    """Sketches and splits ``model`` (by default a tiny trained ViT) over ``fleet`` (two alike). Each part must be saved and rebuilt from
    its spec; the parts together give [n, classes]; names, inputs and parameters are those of the sketch."""
    need = _needing(f"partitioner {entry.name!r}")
    given = _params(entry, params)
    with _contexts(data) as new:
        ctx = new()
        source = model or make_model(new())
        device = DeviceInfo(name="d", backend="b", model="m", kind="cpu", cores=1, memory_bytes=2**30)
        fleet = fleet or Fleet(devices=(device, device))
        with contextlib.suppress(ValueError):  # a model of unknown shape may be refused
            entry.sketch(None, given, fleet)
        sketch = _in_new_process(need, entry.sketch, source.spec, given, fleet)
        made, twin = (_seeded(c, entry.partition, copy.deepcopy(source), given, sketch) for c in (ctx, new()))
        need(isinstance(made, Partition), f"gave {type(made).__name__}", "PartitionerEntry.partition")
        need(made.classes == source.classes, f"gives {made.classes} classes", "Partition.classes")
        _check_lineage(need, made, "partition", entry.name)
        names = [part.name for part in made.parts]
        real = [(part.name, tuple(edge.source for edge in part.inputs), _size(part)) for part in made.parts]
        told = [(part.name, part.inputs, part.params) for part in sketch.parts]
        need(real == told, f"(name, inputs, params) are {real}, sketched {told}", "PartSketch")
        for part, said in zip(made.parts, sketch.parts, strict=True):
            told_of = f"{part.name} is built by {part.spec}, sketched {said.spec}"
            need(said.spec in (None, part.spec), told_of, "PartSketch")
        placed = sketch.placement.device_of if sketch.placement is not None else dict.fromkeys(names)
        need({*placed} == {*names}, f"the sketch places {sorted(placed)}", "Sketch.placement")
        _check_parts(need, made, twin, ctx)


def check_dataset(entry: DatasetEntry, params: ParamsLike = None, *, images: int = 8) -> None:
    """Describes and loads twice, and looks at ``images`` images of each split, evenly spread."""
    import numpy as np

    need = _needing(f"dataset {entry.name!r}")
    given = _params(entry, params)
    info = entry.describe(given)
    need(info.missing is None, f"cannot be read here: {info.missing}", "DataInfo.missing")
    need(_in_new_process(need, entry.describe, given, light=False) == info,
         "describes itself differently in another process", "DataInfo.fingerprint")  # fmt: skip
    need(bool(info.fingerprint), "has no fingerprint", "DataInfo.fingerprint")
    channels = info.shape[0]
    need(len(info.mean) == len(info.std) == channels, f"mean or std is not of {channels}", "DataInfo.mean")
    for split in ("train", "test"):
        loaded, again = entry.load(given, split), entry.load(given, split)
        n, said = len(loaded), info.sizes.get(split, 0)
        need(n > 0 and said in (0, n), f"{split} has {n} samples, said {said}", "DataInfo.sizes")
        labels = np.asarray(loaded.labels)
        kind = f"{labels.dtype} {list(labels.shape)}"
        need(kind == f"int64 [{n}]", f"{split} labels are {kind}, not int64 [{n}]", "Dataset.labels")
        inside = labels.min() >= 0 and labels.max() < info.classes
        need(inside, f"{split} has labels outside 0 to {info.classes - 1}", "Dataset.labels")
        need(bool((labels == again.labels).all()), f"{split} labels differ when loaded again", "Dataset")
        for index in (k * n // images for k in range(min(images, n))):
            image = np.asarray(loaded.image(index))
            good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == channels
            what = f"{split} image {index} is {image.dtype} {list(image.shape)}"
            need(good, f"{what}, not uint8 [height, width, {channels}]", "Dataset.image")
            same = np.array_equal(image, again.image(index))
            need(same, f"{split} image {index} differs when loaded again", "Dataset.image")


def check_runtime(
    entry: RuntimeEntry,
    params: ParamsLike = None,
    model: Model | None = None,
    *,
    device: str = "cpu",
    **data: Any,
) -> None:
    """Exports ``model`` (by default a tiny trained ViT), loads it, and compares its answers with the module's
    at batches of one and three; within ``tolerance`` at both."""
    import numpy as np
    import torch

    need = _needing(f"runtime {entry.name!r}")
    given = _params(entry, params)
    tolerance, precision = entry.tolerance(given), entry.precision(given)
    need(0 < tolerance < 1, f"tolerance {tolerance} is not between 0 and 1", "RuntimeEntry.tolerance")
    with _contexts(data) as new:
        ctx = new()
        part = _whole(model or make_model(new())).parts[0]
        artifact = entry.export(ctx, part, given)
        inside = artifact.path.resolve().is_relative_to(ctx.workdir.resolve())
        need(inside and artifact.path.exists(), f"wrote to {artifact.path}", "RuntimeEntry.export")
        need(_is_json(artifact.meta), "the artifact's meta is not JSON", "Artifact.meta")
        need(artifact.weight_bytes > 0, "the artifact has no weight_bytes", "Artifact.weight_bytes")
        asked = artifact.precision
        need(asked == precision, f"the artifact says {asked}, the entry {precision}", "Artifact.precision")
        images = ctx.data.test.batch(range(len(ctx.data.test)))
        with torch.inference_mode():
            reference = part.module.cpu().eval()(torch.from_numpy(images)).numpy()
        session = entry.load(artifact, SessionOptions(threads=1, device=device))
        try:
            need("precision" in session.facts, "facts lack precision", "Session.facts")
            for batch in (1, 3):
                starts = range(0, len(images) - batch + 1, batch)
                got = np.concatenate([session.run([images[i : i + batch]]) for i in starts])
                need(got.dtype == np.float32, f"answers are {got.dtype}", "Session.run")
                parity = compare(reference[: len(got)], got, tolerance)
                need(parity.ok, f"batch {batch}: {parity.reason}", "RuntimeEntry.tolerance")
        finally:
            session.close()


def check_plugin(plugin: str | ModuleType) -> None:
    """Takes an installed plugin by the name of its entry point, or any module. It must be imported, and its
    hooks called, without importing torch; entries are well named, and their parameters have a JSON Schema."""
    name = plugin if isinstance(plugin, str) else plugin.__name__
    need = _needing(f"plugin {name!r}")
    installed = {point.name: point.value.partition(":")[0] for point in entry_points(group=GROUP)}
    module = installed.get(name, name)
    extra = {} if name in installed else {name: importlib.import_module(module)}
    plugins = load_plugins(installed if extra else (), extra)
    for problem in plugins.problems:
        if problem.origin.plugin == name:
            need(False, f"{problem.hook}: {problem.reason}", problem.hook)
    _in_new_process(need, _call_hooks, module)
    entries = [i.entry for registry in plugins.registries() for i in registry if i.origin.plugin == name]
    observes = any(hasattr(plugins.manager.get_plugin(name), hook) for hook in OBSERVERS)
    need(bool(entries or observes), "gives nothing: is @hookimpl missing?", "hookspecs")
    for entry in entries:
        fits = re.fullmatch(NAME, entry.name) is not None
        need(fits, f"name {entry.name!r} is not letters, digits, - and _", "suite.NAME")
        need(bool(entry.summary.strip()), f"{entry.name!r} has no summary", "types")
        entry.params.model_json_schema()


# --- what the checks share ------------------------------------------------------------------------


def _needing(who: str) -> Need:
    def need(condition: bool, what: str, contract: str) -> None:
        if not condition:
            raise AssertionError(f"{who}: {what} (contract: {contract})")

    return need


def _params(entry: Any, params: ParamsLike) -> Params:
    if isinstance(params, Params):
        return params
    try:
        return entry.params(**(params or {}))  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "params"
        raise AssertionError(f"{entry.name!r}: {where}: {first['msg']}") from None


@contextlib.contextmanager
def _contexts(data: Mapping[str, Any]) -> Iterator[Callable[[], Context]]:
    """Gives new contexts, each in a folder of its own, so that none finds another's checkpoints."""
    with tempfile.TemporaryDirectory(prefix="harness-testing-") as folder:
        yield lambda: make_context(Path(tempfile.mkdtemp(dir=folder)), **data)


def _seeded(ctx: Context, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a plugin's function as the harness does: with torch seeded."""
    import torch

    torch.manual_seed(ctx.seed)
    return function(ctx, *arguments)


def _whole(model: Model) -> Partition:
    edge = Edge(source=IMAGE, tensor=model.input)
    part = Part(name="model", module=model.module, spec=model.spec, inputs=(edge,),
                output=TensorSpec(shape=(model.classes,)))  # fmt: skip
    return Partition(parts=(part,), classes=model.classes, lineage=model.lineage)


def _size(part: Part) -> int:
    return sum(parameter.numel() for parameter in part.module.parameters())


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _check_described(need: Need, made: Model, told: Any) -> None:
    same = json.dumps(asdict(told), sort_keys=True) == json.dumps(asdict(made.spec), sort_keys=True)
    need(same, f"describe told {told}, the model has {made.spec}", "ModelEntry.describe")


def _check_lineage(need: Need, made: Model | Partition, stage: str, name: str) -> None:
    own = [step for step in made.lineage if (step.stage, step.entry) == (stage, name)]
    need(bool(own), f"no Lineage(stage={stage!r}, entry={name!r}) in the result's lineage", "Lineage")


def _check_parts(need: Need, made: Partition, twin: Partition, ctx: Context) -> None:
    """Saved and rebuilt, every part computes the same; the same seed gave ``twin`` the same weights."""
    import torch

    for part, other in zip(made.parts, twin.parts, strict=True):
        mine, theirs = part.module.cpu().state_dict(), other.module.cpu().state_dict()
        differ = [key for key in mine if key not in theirs or not torch.equal(mine[key], theirs[key])]
        need(not differ, f"{part.name}: the same seed gave other weights: {differ[:3]}", "Context.seed")
    folder = Path(tempfile.mkdtemp(dir=ctx.workdir))
    try:
        save_partition(made, folder, {})
        rebuilt = load_any(folder)
    except Exception as error:  # noqa: BLE001 - a factory may raise anything
        need(False, f"cannot be saved and rebuilt: {' '.join(str(error).split())}", "ModuleSpec")
    images = torch.from_numpy(ctx.data.test.batch(range(3)))
    here, there = _forward(need, made, images), _forward(need, rebuilt, images)
    alone = _forward(need, made, images[:1])
    for name, value in here.items():
        same = torch.allclose(value, there[name], rtol=1e-4, atol=1e-5)
        need(same, f"{name}: rebuilt from its spec it computes something else", "ModuleSpec")
        same = torch.allclose(value[:1], alone[name], rtol=1e-3, atol=1e-4)
        need(same, f"{name}: answers a sample differently alone and among three", "TensorSpec")


def _forward(need: Need, partition: Partition, images: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    values = {IMAGE: images}
    for part in partition.parts:
        for edge in part.inputs:
            shape = tuple(values[edge.source].shape[1:])
            said = tuple(edge.tensor.shape)
            need(shape == said, f"{part.name}: {edge.source} is {shape}, its edge says {said}", "Edge.tensor")
        with torch.inference_mode():
            value = part.module.eval()(*(values[edge.source] for edge in part.inputs))
        shape = (len(images), *part.output.shape)
        good = isinstance(value, torch.Tensor) and tuple(value.shape) == shape
        got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        need(good, f"{part.name}: gives {got}, not {shape}", "Part.output")
        need(bool(value.isfinite().all()), f"{part.name}: gives NaN or infinity", "Part.module")
        values[part.name] = value
    logits = tuple(values[partition.parts[-1].name].shape[1:])
    need(logits == (partition.classes,), f"the answer has shape {logits}", "Partition.classes")
    return values


def _in_new_process(need: Need, function: Callable[..., Any], *arguments: Any, light: bool = True) -> Any:
    """``function(*arguments)`` in a new interpreter; if ``light``, it must not import torch there."""
    name = getattr(function, "__qualname__", function)
    where = "where it, and all it is given, must be importable by name"
    with tempfile.NamedTemporaryFile() as answer:
        code = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer)\n"
        code += "from harness.testing.isolated import _serve; _serve(sys.argv[1])"
        try:
            given = pickle.dumps(sys.path) + pickle.dumps((function, arguments))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise AssertionError(f"{name} cannot be called in a new process, {where}: {error}") from None
        child = subprocess.run(
            [sys.executable, "-c", code, answer.name], input=given, capture_output=True, check=False
        )
        last = (child.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        need(child.returncode == 0, f"{name} fails in a new process, {where}: {last}", "hookspecs")
        result, heavy = pickle.load(answer)
    need(not (light and heavy), f"{name} imports {', '.join(heavy)} at planning time", "hookspecs")
    return result


def _serve(answer: str) -> None:
    function, arguments = pickle.load(sys.stdin.buffer)
    result = function(*arguments), [name for name in HEAVY if name in sys.modules]
    Path(answer).write_bytes(pickle.dumps(result))


def _call_hooks(module: str) -> None:
    plugin = importlib.import_module(module)
    for hook in COLLECTING:
        list(getattr(plugin, hook, tuple)())
