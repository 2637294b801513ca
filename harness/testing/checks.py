"""Checks of the contracts in ``harness.types``, for plugin authors."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.contracts import models as contracts
from harness.contracts.datasets import CheckedImages, check_info, check_labels
from harness.contracts.entries import check_params
from harness.contracts.models import run_parts
from harness.contracts.need import Need
from harness.contracts.planning import check_sketch
from harness.contracts.runtimes import check_artifact, check_facts, check_settings
from harness.errors import DeviceError
from harness.hookspecs import OBSERVERS
from harness.measure.parity import compare
from harness.plugins import GROUP, load_plugins
from harness.store.saved import load_any, save_partition
from harness.testing.context import ParamsLike, make_context, make_model, make_params, seeded
from harness.testing.isolated import call_hooks, in_new_process
from harness.types import (
    CompressorEntry,
    Context,
    DatasetEntry,
    DeviceInfo,
    Fleet,
    Model,
    ModelEntry,
    ModuleSpec,
    Part,
    Partition,
    PartitionerEntry,
    RuntimeEntry,
    SessionOptions,
)
from harness.types.artifacts import About
from harness.types.json import Facts
from harness.worker.loaded import LoadedPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "check_compressor",
    "check_dataset",
    "check_model",
    "check_partitioner",
    "check_plugin",
    "check_runtime",
]


# --- checks ---------------------------------------------------------------------------------------


def check_model(entry: ModelEntry, params: ParamsLike = None, **data: Any) -> None:
    """Build a model twice with one seed, and check it.

    After it is saved and rebuilt from its spec it must have equal outputs, for one sample and for three. It must
    agree with ``describe``, and it must be trainable.
    """
    need = _needing(f"model {entry.name!r}")
    checked = make_params(entry, params)
    with _contexts(data) as new:
        ctx = new()
        model = seeded(ctx, entry.build, checked)
        info = ctx.data.info
        contracts.check_model(need, model, "build", info.classes, info.shape, rebuild=False)
        _check_parts(need, Partition.whole(model), Partition.whole(seeded(new(), entry.build, checked)), ctx)
        if entry.describe is not None:
            _check_described(need, model, in_new_process(need, entry.describe, checked, ctx.data.info))
        ctx.fit(model.module, name="train")


def check_compressor(
    entry: CompressorEntry, params: ParamsLike = None, model: Model | None = None, **data: Any
) -> None:
    """Compress ``model`` (by default a tiny trained ViT) twice with one seed, and check the result as a model.

    The result must also have its own lineage step, and keep input and classes unless ``changes`` names them."""
    need = _needing(f"compressor {entry.name!r}")
    checked = make_params(entry, params)
    with _contexts(data) as new:
        ctx = new()
        source = model or make_model(new())
        made, twin = (seeded(c, entry.compress, copy.deepcopy(source), checked) for c in (ctx, new()))
        need(isinstance(made, Model), f"compress gave {type(made).__name__}", "CompressorEntry.compress")
        _check_lineage(need, made, "compress", entry.name)
        for key in ("input", "classes"):
            before, after = getattr(source, key), getattr(made, key)
            kept = before == after or key in entry.changes
            need(kept, f"made {key} {after} of {before} undeclared", "CompressorEntry.changes")
        contracts.check_model(need, made, "compress", made.classes, made.input.shape, rebuild=False)
        _check_parts(need, Partition.whole(made), Partition.whole(twin), ctx)
        if entry.describe is not None:
            spec = in_new_process(need, entry.describe, source.spec, checked, ctx.data.info)
            _check_described(need, made, spec)


def check_partitioner(
    entry: PartitionerEntry,
    params: ParamsLike = None,
    model: Model | None = None,
    fleet: Fleet | None = None,
    **data: Any,
) -> None:
    """Sketch and split ``model`` over ``fleet``, and check the parts.

    The default model is a tiny trained ViT, and the default fleet two equal devices. It must be possible to save each
    part and to rebuild it from its spec. The parts together must give logits [n, classes]. Names, inputs and numbers
    of parameters must be those of the sketch.
    """
    need = _needing(f"partitioner {entry.name!r}")
    checked = make_params(entry, params)
    with _contexts(data) as new:
        ctx = new()
        source = model or make_model(new())
        device = DeviceInfo(name="d", backend="b", model="m", kind="cpu", cores=1, memory_bytes=2**30)
        fleet = fleet or Fleet(devices=(device, device))
        with contextlib.suppress(ValueError):  # a partitioner may refuse a model of unknown shape
            entry.sketch(None, checked, fleet)
        sketch = in_new_process(need, entry.sketch, source.spec, checked, fleet)
        check_sketch(need, sketch, len(fleet.devices))
        made, twin = (
            seeded(c, entry.partition, copy.deepcopy(source), checked, sketch) for c in (ctx, new())
        )
        contracts.check_partition(need, made, "partition", source.classes, source.input.shape, rebuild=False)
        _check_lineage(need, made, "partition", entry.name)
        contracts.check_sketched(need, made, sketch)
        made_parts = [
            (part.name, tuple(edge.source for edge in part.inputs), _size(part)) for part in made.parts
        ]
        sketched = [(part.name, part.inputs, part.params) for part in sketch.parts]
        differ = f"(name, inputs, params) are {made_parts}, sketched {sketched}"
        need(made_parts == sketched, differ, "PartSketch")
        for part, part_sketch in zip(made.parts, sketch.parts, strict=True):
            differ = f"{part.name} is built by {part.spec}, sketched {part_sketch.spec}"
            need(part_sketch.spec in (None, part.spec), differ, "PartSketch")
        _check_parts(need, made, twin, ctx)


def check_dataset(entry: DatasetEntry, params: ParamsLike = None, *, images: int = 8) -> None:
    """Describe and load a data set twice, and check ``images`` images of each split, evenly spread."""
    need = _needing(f"dataset {entry.name!r}")
    checked = make_params(entry, params)
    info = entry.describe(checked)
    check_info(need, info)
    need(info.missing is None, f"cannot be read here: {info.missing}", "DataInfo.missing")
    need(
        in_new_process(need, entry.describe, checked, light=False) == info,
        "describes itself differently in another process",
        "DataInfo.fingerprint",
    )
    for split in ("train", "test"):
        loaded, again = entry.load(checked, split), entry.load(checked, split)
        check_labels(need, loaded, info, split)
        same = bool((loaded.labels == again.labels).all())
        need(same, f"{split} labels differ when loaded again", "Dataset")
        n, decoded = len(loaded), CheckedImages(need, loaded, split, {info.shape[0]})
        for index in (k * n // images for k in range(min(images, n))):
            same = np.array_equal(decoded.image(index), again.image(index))
            need(same, f"{split} image {index} differs when loaded again", "Dataset.image")


def check_runtime(
    entry: RuntimeEntry,
    params: ParamsLike = None,
    model: Model | None = None,
    *,
    device: str = "cpu",
    **data: Any,
) -> None:
    """Export ``model`` (by default a tiny trained ViT), load it, and compare its outputs with the module's.

    The outputs must agree within ``tolerance``, at batches of one and of three.
    """
    import torch

    need = _needing(f"runtime {entry.name!r}")
    checked = make_params(entry, params)
    tolerance, precision = entry.tolerance(checked), entry.precision(checked)
    check_settings(need, precision, tolerance)
    with _contexts(data) as new:
        ctx = new()
        part = Partition.whole(model or make_model(new())).parts[0]
        artifact = entry.export(ctx, part, checked)
        check_artifact(
            need,
            artifact,
            part.name,
            [edge.tensor for edge in part.inputs],
            part.output,
            ctx.workdir,
            runtime=entry.name,
            precision=precision,
            params=_size(part),
        )
        images = ctx.data.test.batch(range(len(ctx.data.test)))
        with torch.inference_mode():
            reference = part.module.cpu().eval()(torch.from_numpy(images)).numpy()
        session = LoadedPart(
            part.name, entry.load(artifact, SessionOptions(threads=1, device=device)), artifact
        )
        try:
            check_facts(need, session.facts)
            for batch in (1, 3):
                starts = range(0, len(images) - batch + 1, batch)
                got = np.concatenate([_answer(need, session, images[i : i + batch]) for i in starts])
                parity = compare(reference[: len(got)], got, tolerance)
                need(bool(parity.ok), f"batch {batch}: {parity.reason}", "RuntimeEntry.tolerance")
        finally:
            session.close()


def check_plugin(plugin: str | ModuleType) -> None:
    """Check an installed plugin, named by its entry point, or any module.

    Importing it and calling its hooks must not import torch. Its entries must have valid names, and their parameters
    must have a JSON Schema.
    """
    name = plugin if isinstance(plugin, str) else plugin.__name__
    need = _needing(f"plugin {name!r}")
    installed = {point.name: point.value.partition(":")[0] for point in entry_points(group=GROUP)}
    module = installed.get(name, name)
    extra = {} if name in installed else {name: importlib.import_module(module)}
    plugins = load_plugins(installed if extra else (), extra)
    for problem in plugins.problems:
        if problem.origin.plugin == name:
            need(False, f"{problem.hook}: {problem.reason}", problem.hook)
    in_new_process(need, call_hooks, module)
    entries = [i.entry for registry in plugins.registries() for i in registry if i.origin.plugin == name]
    observes = any(hasattr(plugins.manager.get_plugin(name), hook) for hook in OBSERVERS)
    need(bool(entries or observes), "gives nothing: is @hookimpl missing?", "hookspecs")
    for entry in entries:
        need(bool(entry.summary.strip()), f"{entry.name!r} has no summary", "types")
        check_params(need, entry)


# --- helpers of the checks ------------------------------------------------------------------------


def _needing(who: str) -> Need:
    def need(condition: bool, what: str, contract: str) -> None:
        if not condition:
            raise AssertionError(f"{who}: {what} (contract: {contract})")

    return need


@contextlib.contextmanager
def _contexts(data: Facts) -> Iterator[Callable[[], Context]]:
    """Yield a function that makes contexts.

    Each has a folder of its own, so that it finds no checkpoints of another.
    """
    with tempfile.TemporaryDirectory(prefix="harness-testing-") as folder:
        yield lambda: make_context(Path(tempfile.mkdtemp(dir=folder)), **data)


def _size(part: Part) -> int:
    return sum(parameter.numel() for parameter in part.module.parameters())


def _answer(need: Need, session: LoadedPart, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the answer to ``images``, which is checked as in a worker."""
    try:
        return session.run([images])
    except DeviceError as error:
        need(False, str(error), "Session.run")
        raise


def _check_described(need: Need, made: Model, spec: ModuleSpec) -> None:
    same = json.dumps(asdict(spec), sort_keys=True) == json.dumps(asdict(made.spec), sort_keys=True)
    need(same, f"describe gave {spec}, the model has {made.spec}", "ModelEntry.describe")


def _check_lineage(need: Need, made: Model | Partition, stage: str, name: str) -> None:
    own = [step for step in made.lineage if (step.stage, step.entry) == (stage, name)]
    need(bool(own), f"no Lineage(stage={stage!r}, entry={name!r}) in the result's lineage", "Lineage")


def _check_parts(need: Need, made: Partition, twin: Partition, ctx: Context) -> None:
    """Check that saved and rebuilt parts have equal outputs.

    Also check that ``twin``, which was made with the same seed, has equal weights.
    """
    import torch

    for part, other in zip(made.parts, twin.parts, strict=True):
        mine, theirs = part.module.cpu().state_dict(), other.module.cpu().state_dict()
        differ = [key for key in mine if key not in theirs or not torch.equal(mine[key], theirs[key])]
        need(not differ, f"{part.name}: the same seed gave other weights: {differ[:3]}", "Context.seed")
    folder = Path(tempfile.mkdtemp(dir=ctx.workdir))
    try:
        save_partition(made, folder, About(stage="check", entry="", label=""))
        rebuilt = load_any(folder)
    except Exception as error:  # noqa: BLE001 - a factory may raise anything
        need(False, f"cannot be saved and rebuilt: {' '.join(str(error).split())}", "ModuleSpec")
    images = torch.from_numpy(ctx.data.test.batch(range(3)))
    here, there = run_parts(need, made, images, finite=True), run_parts(need, rebuilt, images)
    alone = run_parts(need, made, images[:1])
    for name, value in here.items():
        same = torch.allclose(value, there[name], rtol=1e-4, atol=1e-5)
        need(same, f"{name}: rebuilt from its spec it computes something else", "ModuleSpec")
        same = torch.allclose(value[:1], alone[name], rtol=1e-3, atol=1e-4)
        need(same, f"{name}: answers a sample differently alone and among three", "TensorSpec")
