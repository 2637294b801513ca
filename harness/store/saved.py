"""Models and partitions as folders. Weights are stored as safetensors, and everything else as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from harness.errors import CellError
from harness.types import Model, ModuleSpec, Part, Partition
from harness.types.artifacts import About, ModelMeta, PartitionMeta, StoredPart
from harness.types.json import JsonObject
from harness.types.plain import from_json

if TYPE_CHECKING:
    import torch

__all__ = ["load_any", "load_model", "load_partition", "save_model", "save_partition", "write_meta"]

M = TypeVar("M", ModelMeta, PartitionMeta)


def write_meta(folder: Path, meta: JsonObject) -> None:
    """Write ``meta.json``, whose presence makes a folder an artifact. ``meta`` is JSON."""
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _save_weights(module: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import save_model as save

    save(module.cpu(), str(path))


def save_model(model: Model, folder: Path, about: About) -> None:
    """Write ``model`` into ``folder``. ``about`` describes it for people."""
    _save_weights(model.module, folder / "model.safetensors")
    meta = ModelMeta(
        about=about, spec=model.spec, input=model.input, classes=model.classes, lineage=model.lineage
    )
    write_meta(folder, asdict(meta))


def save_partition(partition: Partition, folder: Path, about: About) -> None:
    """Write ``partition`` into ``folder``. ``about`` describes it for people."""
    for index, part in enumerate(partition.parts):
        _save_weights(part.module, folder / f"{index}.safetensors")
    parts = tuple(
        StoredPart(name=part.name, spec=part.spec, output=part.output, inputs=part.inputs)
        for part in partition.parts
    )
    meta = PartitionMeta(
        about=about,
        parts=parts,
        classes=partition.classes,
        groups=partition.groups,
        lineage=partition.lineage,
    )
    write_meta(folder, asdict(meta))


def load_any(folder: Path) -> Partition:
    """Load a stored model or partition as a partition. A whole model is one part.

    Raises:
        CellError: the folder holds another kind of artifact, or its ``meta.json`` is damaged.
    """
    if _kind(folder) == "partition":
        return load_partition(folder)
    return Partition.whole(load_model(folder))


def load_model(folder: Path) -> Model:
    """Load a stored model, in evaluation mode.

    Raises:
        CellError: the folder holds another kind of artifact, or its ``meta.json`` is damaged.
    """
    meta = _read_meta(folder, "model", ModelMeta)
    return Model(
        module=_load_weights(meta.spec, folder / "model.safetensors"),
        spec=meta.spec,
        input=meta.input,
        classes=meta.classes,
        lineage=meta.lineage,
    )


def load_partition(folder: Path) -> Partition:
    """Load a stored partition, its modules in evaluation mode.

    Raises:
        CellError: the folder holds another kind of artifact, or its ``meta.json`` is damaged.
    """
    meta = _read_meta(folder, "partition", PartitionMeta)
    parts = [
        Part(
            name=part.name,
            module=_load_weights(part.spec, folder / f"{index}.safetensors"),
            spec=part.spec,
            inputs=part.inputs,
            output=part.output,
        )
        for index, part in enumerate(meta.parts)
    ]
    return Partition(parts=tuple(parts), classes=meta.classes, lineage=meta.lineage, groups=meta.groups)


def _read_meta(folder: Path, kind: str, into: type[M]) -> M:
    if (read := _kind(folder)) != kind:
        raise CellError(f"artifact {folder.name} is a {read}, not a {kind}", stage="load")
    try:
        return from_json(into, json.loads((folder / "meta.json").read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(folder, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _kind(folder: Path) -> str:
    """Return the kind of an artifact. Raises ``CellError`` if its ``meta.json`` has none."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
    except ValueError:
        meta = None
    if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str):
        raise _damaged(folder, "meta.json is no JSON object with a kind")
    return str(meta["kind"])


def _damaged(folder: Path, why: str) -> CellError:
    return CellError(
        f"artifact {folder.name[:12]} is damaged: {why}; `harness cache clear {folder.name[:12]}` lets it be made again",
        stage="load",
    )


def _load_weights(spec: ModuleSpec, path: Path) -> torch.nn.Module:
    from safetensors.torch import load_model as load

    module = spec.build()
    load(module, str(path))
    return module.eval()
