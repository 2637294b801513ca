"""Checkpoints of a training. Each is written whole or not at all, and only the same training reads it."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from harness.errors import StorageError
from harness.store.files import write_atomically

if TYPE_CHECKING:
    import torch

    from harness.types.recipe import TrainRecipe

__all__ = ["BestEpoch", "Finished", "Progress", "Unfinished", "load", "save", "training_key"]

StateDict = dict[str, Any]
"""A state dict of torch. The values in that of an optimizer can have any type."""


class BestEpoch(TypedDict):
    """The epoch with the best validation top-1 so far, and the module's weights after it."""

    epoch: int
    top1: float
    module: dict[str, torch.Tensor]


class Progress(TypedDict):
    """The completed epochs: a mapping of figures for each epoch, and sums over all of them."""

    history: list[dict[str, float]]
    image_passes: int
    train_s: float


class Unfinished(Progress):
    """The state of a training between two epochs. Random state and learning rate follow from the epoch's number."""

    done: Literal[False]
    module: StateDict
    optimizer: StateDict
    scaler: StateDict
    average: StateDict | None
    best: BestEpoch | None


class Finished(Progress):
    """The result of a complete training: the weights to keep, on the CPU."""

    done: Literal[True]
    module: dict[str, torch.Tensor]


def training_key(recipe: TrainRecipe, seed: int, module: torch.nn.Module, labels: bytes) -> str:
    """Return a hash of a training's start: recipe, seed, the module's weights and frozen parts, and the labels.

    The hash covers neither the inputs nor the loss. Two fits of one step that differ only in inputs or loss need
    different names.
    """
    import torch

    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    start = {"recipe": recipe.model_dump(), "seed": seed}
    known = hashlib.sha256(json.dumps([start, frozen, torch.__version__], sort_keys=True).encode())
    known.update(labels)
    for name, tensor in sorted(module.state_dict().items()):
        known.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        known.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return known.hexdigest()


def save(path: Path, key: str, state: Unfinished | Finished) -> None:
    """Write the state of the training ``key`` in one step.

    Raises:
        StorageError: the folder cannot be written, or the disk is full. An earlier checkpoint is kept.
    """
    import torch

    buffer = io.BytesIO()  # a full disk is then an OSError, and not an error inside torch's writer
    torch.save({**state, "key": key}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer(), sync=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot write the checkpoint: {error.strerror}") from error


def load(path: Path, key: str) -> Unfinished | Finished | None:
    """Return the state that was saved under ``key``, on the CPU.

    It is ``None`` if there is no checkpoint, or if it is broken or belongs to another training. A training that then
    starts from the beginning gives the same weights, but later.

    Raises:
        StorageError: the file exists and cannot be opened.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, pickle.UnpicklingError, RuntimeError, zipfile.BadZipFile):
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot read the checkpoint: {error.strerror}") from error
    if not isinstance(state, dict) or state.get("key") != key:
        return None
    return cast("Unfinished | Finished", state)
