"""Contracts of models and partitions: their fields, and the tensors that their modules give. torch is imported here."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.contracts.need import Need
from harness.contracts.planning import check_spec
from harness.errors import first_line
from harness.types import IMAGE, Lineage, Model, ModuleSpec, Part, Partition, Sketch, TensorSpec
from harness.types.walk import in_order

if TYPE_CHECKING:
    import torch

__all__ = ["check_model", "check_output", "check_partition", "check_sketched", "run_parts"]

SAMPLES = 2
"""Number of samples on which the modules of a new model or partition run."""


def check_model(
    need: Need, model: Any, function: str, classes: int, shape: tuple[int, ...], *, rebuild: bool = True
) -> None:
    """Check a model that ``function`` returned, for images of ``shape`` and ``classes`` classes.

    With ``rebuild`` its spec is built once, to see whether another process can load the weights.
    """
    import torch

    need(isinstance(model, Model), f"{function} gave {type(model).__name__}", f"{function} gives a Model")
    is_module = isinstance(model.module, torch.nn.Module)
    need(
        is_module,
        f"{function} gave a module that is {type(model.module).__name__}",
        "Model.module: nn.Module",
    )
    need(
        model.classes == classes,
        f"gives {model.classes} classes of {classes}",
        "Model.classes: those of the data",
    )
    takes = tuple(model.input.shape) if isinstance(model.input, TensorSpec) else model.input
    need(
        takes == tuple(shape),
        f"takes {takes}, and images are {tuple(shape)}",
        "Model.input: shape of an image",
    )
    check_partition(need, Partition.whole(model), function, classes, shape, rebuild=rebuild)


def check_partition(
    need: Need, partition: Any, function: str, classes: int, shape: tuple[int, ...], *, rebuild: bool = True
) -> None:
    """Check a partition that ``function`` returned: its fields, its specs, and the outputs of its parts on zeros."""
    is_partition = isinstance(partition, Partition)
    need(is_partition, f"{function} gave {type(partition).__name__}", f"{function} gives a Partition")
    steps = all(isinstance(step, Lineage) for step in partition.lineage)
    need(steps, f"{function} gave a lineage of other values", "lineage: Lineage steps")
    need(
        partition.classes == classes,
        f"gives {partition.classes} classes of {classes}",
        "Partition.classes: those of the model",
    )
    answer = tuple(partition.parts[-1].output.shape)
    need(
        answer == (classes,), f"its last part gives {answer}", f"Partition.parts: the last gives ({classes},)"
    )
    for part in partition.parts:
        check_spec(need, part.spec, function)
        for edge in part.inputs:
            declared = tuple(edge.tensor.shape)
            if edge.source == IMAGE:
                said = f"{part.name} takes images of {declared}, not {tuple(shape)}"
                need(declared == tuple(shape), said, "Edge.tensor: shape of an image")
        if rebuild:
            _check_rebuilt(need, part)
    run_parts(need, partition, None)


def check_sketched(need: Need, partition: Partition, sketch: Sketch) -> None:
    """Check that a partition has the parts of its sketch, by which they were placed."""
    made = [(part.name, part.sources) for part in partition.parts]
    sketched = [(part.name, tuple(part.inputs)) for part in sketch.parts]
    problem = f"partition gave the parts {made}, the sketch {sketched}"
    need(made == sketched, problem, "Partition.parts: names and inputs of the sketch, in its order")
    for part in sketch.parts:
        sent = {
            edge.wire_dtype for taker in partition.parts for edge in taker.inputs if edge.source == part.name
        }
        problem = f"part {part.name} is sent as {', '.join(sorted(sent))}, by the sketch as {part.wire_dtype}"
        need(
            part.wire_dtype is None or sent <= {part.wire_dtype},
            problem,
            "Edge.wire_dtype: as the sketch says",
        )


def run_parts(
    need: Need, partition: Partition, images: torch.Tensor | None, *, finite: bool = False
) -> Mapping[str, torch.Tensor]:
    """Run every part on ``images`` [n, ...], or on zeros if None. Return the outputs by part, each checked.

    The modules are in evaluation mode afterwards. The random state of torch is left as it was.
    """
    import torch

    if images is None:
        edges = [edge for part in partition.parts for edge in part.inputs if edge.source == IMAGE]
        need(bool(edges), "no part takes the image", "Partition.parts: a part takes the image")
        images = torch.zeros(SAMPLES, *edges[0].tensor.shape)
    values = {IMAGE: images}
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        for part, inputs in in_order(partition.parts, values):
            for edge, value in zip(part.inputs, inputs, strict=True):
                shape, declared = tuple(value.shape[1:]), tuple(edge.tensor.shape)
                problem = f"{part.name}: {edge.source} is {shape}, its edge says {declared}"
                need(shape == declared, problem, "Edge.tensor")
            values[part.name] = _run(need, part, inputs)
            check_output(need, part, values[part.name], len(images), finite=finite)
    return {name: value for name, value in values.items() if name != IMAGE}


def check_output(need: Need, part: Part, value: Any, n: int, *, finite: bool) -> None:
    """Check the output of a part for ``n`` samples: a tensor of floats of the declared shape."""
    import torch

    shape = (n, *part.output.shape)
    is_tensor = isinstance(value, torch.Tensor)
    got = tuple(value.shape) if is_tensor else type(value).__name__
    need(
        is_tensor and got == shape,
        f"{part.name}: gives {got}, not {shape}",
        "Part.output: [n, ...] as declared; logits are [n, classes]",
    )
    problem = f"{part.name}: gives {value.dtype}, which is no float"
    need(value.dtype.is_floating_point, problem, "Part.output: floats")
    if finite:
        need(
            bool(value.isfinite().all()), f"{part.name}: gives NaN or infinity", "Part.module: finite answers"
        )


def _run(need: Need, part: Part, inputs: list[torch.Tensor]) -> Any:
    device = next((tensor.device for tensor in part.module.parameters()), inputs[0].device)
    was_training = part.module.training
    try:
        return part.module.eval()(*(value.to(device) for value in inputs))
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        need(
            False,
            f"{part.name}: fails on {shapes}: {first_line(error, kind=True)}",
            "Part.module takes its inputs",
        )
    finally:
        part.module.train(was_training)
    return None


def _check_rebuilt(need: Need, part: Part) -> None:
    """Check that a spec builds, in this process, a module into which the weights of ``part`` fit."""
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            built = _factory(part.spec)(**part.spec.params).state_dict()
    except Exception as error:  # noqa: BLE001 - a factory may raise anything
        need(
            False,
            f"{part.name}: {part.spec.factory} raised {first_line(error, kind=True)}",
            "ModuleSpec.factory",
        )
    own = {key: tuple(value.shape) for key, value in part.module.state_dict().items()}
    there = {key: tuple(value.shape) for key, value in built.items()}
    differ = [key for key in (*own, *there) if own.get(key) != there.get(key)]
    problem = (
        f"{part.name}: the weights do not fit into what {part.spec.factory} builds: {', '.join(differ[:3])}"
    )
    need(not differ, problem, "ModuleSpec: the state dict fits into the rebuilt module")


def _factory(spec: ModuleSpec) -> Any:
    return pkgutil.resolve_name(spec.factory)
