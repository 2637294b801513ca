"""Models and partitions as folders. Weights are stored as safetensors, and everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CellError
from harness.types import Edge, Lineage, Model, ModuleSpec, Part, Partition, TensorSpec
from harness.types.json import JsonObject

if TYPE_CHECKING:
    import torch

__all__ = ["load_any", "load_model", "load_partition", "save_model", "save_partition", "write_meta"]


def write_meta(folder: Path, meta: JsonObject) -> None:
    """Write ``meta.json``, whose presence makes a folder an artifact. ``meta`` is JSON."""
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _save_weights(module: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import save_model as save

    save(module.cpu(), str(path))


def save_model(model: Model, folder: Path, about: JsonObject) -> None:
    """Write ``model`` into ``folder``. ``about`` describes it for people and is JSON."""
    _save_weights(model.module, folder / "model.safetensors")
    meta = {
        "kind": "model",
        "about": about,
        "spec": asdict(model.spec),
        "input": asdict(model.input),
        "classes": model.classes,
        "lineage": [asdict(step) for step in model.lineage],
    }
    write_meta(folder, meta)


def save_partition(partition: Partition, folder: Path, about: JsonObject) -> None:
    """Write ``partition`` into ``folder``. ``about`` describes it for people and is JSON."""
    parts = []
    for index, part in enumerate(partition.parts):
        _save_weights(part.module, folder / f"{index}.safetensors")
        parts.append(
            {
                "name": part.name,
                "spec": asdict(part.spec),
                "output": asdict(part.output),
                "inputs": [asdict(edge) for edge in part.inputs],
            }
        )
    meta = {
        "kind": "partition",
        "about": about,
        "parts": parts,
        "classes": partition.classes,
        "groups": partition.groups,
        "lineage": [asdict(step) for step in partition.lineage],
    }
    write_meta(folder, meta)


def load_any(folder: Path) -> Partition:
    """Load a stored model or partition as a partition. A whole model is one part."""
    if json.loads((folder / "meta.json").read_text())["kind"] == "partition":
        return load_partition(folder)
    return Partition.whole(load_model(folder))


def load_model(folder: Path) -> Model:
    """Load a stored model, in evaluation mode.

    Raises:
        CellError: the folder holds another kind of artifact.
    """
    meta = _read_meta(folder, "model")
    spec = ModuleSpec(**meta["spec"])
    return Model(
        module=_load_weights(spec, folder / "model.safetensors"),
        spec=spec,
        input=_tensor(meta["input"]),
        classes=meta["classes"],
        lineage=_lineage(meta["lineage"]),
    )


def load_partition(folder: Path) -> Partition:
    """Load a stored partition, its modules in evaluation mode.

    Raises:
        CellError: the folder holds another kind of artifact.
    """
    meta = _read_meta(folder, "partition")
    parts = []
    for index, part in enumerate(meta["parts"]):
        spec = ModuleSpec(**part["spec"])
        inputs = tuple(Edge(**{**edge, "tensor": _tensor(edge["tensor"])}) for edge in part["inputs"])
        module = _load_weights(spec, folder / f"{index}.safetensors")
        parts.append(
            Part(name=part["name"], module=module, spec=spec, inputs=inputs, output=_tensor(part["output"]))
        )
    return Partition(
        parts=tuple(parts),
        classes=meta["classes"],
        lineage=_lineage(meta["lineage"]),
        groups=tuple(tuple(group) for group in meta["groups"]),
    )


def _read_meta(folder: Path, kind: str) -> JsonObject:
    meta: JsonObject = json.loads((folder / "meta.json").read_text())
    if meta["kind"] != kind:
        raise CellError(f"artifact {folder.name} is a {meta['kind']}, not a {kind}", stage="load")
    return meta


def _load_weights(spec: ModuleSpec, path: Path) -> torch.nn.Module:
    from safetensors.torch import load_model as load

    module = spec.build()
    load(module, str(path))
    return module.eval()


def _tensor(value: JsonObject) -> TensorSpec:
    return TensorSpec(shape=tuple(value["shape"]), dtype=value["dtype"])


def _lineage(steps: Sequence[JsonObject]) -> tuple[Lineage, ...]:
    return tuple(Lineage(**step) for step in steps)
