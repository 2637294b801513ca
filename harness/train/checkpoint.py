"""Checkpoints of a training. Each is written whole or not at all, and only the same training reads it.

A file begins with a line that has the SHA-256 of the rest, which is what ``torch.save`` writes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from harness.errors import StorageError
from harness.store.files import open_regular, write_atomically

if TYPE_CHECKING:
    import torch

    from harness.types.recipe import TrainRecipe

__all__ = [
    "BestEpoch",
    "Finished",
    "Progress",
    "SetAside",
    "Unfinished",
    "load",
    "save",
    "training_key",
    "warn",
]

_HEAD = b"harness checkpoint, SHA-256 %s\n"
_HEAD_BYTES = len(_HEAD % bytes(64))
_BLOCK_BYTES = 2**20

SetAside = Callable[[Path, str], None]
"""Moves a damaged file away and reports it; the second argument says what is wrong with it."""

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
    buffer.write(bytes(_HEAD_BYTES))
    torch.save({**state, "key": key}, buffer)
    digest = hashlib.sha256(buffer.getbuffer()[_HEAD_BYTES:]).hexdigest()
    buffer.getbuffer()[:_HEAD_BYTES] = _HEAD % digest.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer(), sync=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot write the checkpoint: {error.strerror}") from error


def load(path: Path, key: str, set_aside: SetAside) -> Unfinished | Finished | None:
    """Return the state that was saved under ``key``, on the CPU.

    It is ``None`` if there is no checkpoint, or if it is damaged or belongs to another training. A training that then
    starts from the beginning gives the same weights, but later. ``set_aside`` is called for a damaged file.

    Raises:
        StorageError: the file exists and cannot be read.
    """
    import torch

    try:
        content = _content(path)
    except FileNotFoundError:
        return None
    except (PermissionError, NotADirectoryError) as error:
        raise StorageError(f"{path}: cannot read the checkpoint: {error.strerror}") from error
    except OSError as error:
        set_aside(path, error.strerror or str(error))
        return None
    state = torch.load(content, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("key") != key:
        return None
    return cast("Unfinished | Finished", state)


def warn(path: Path, why: str) -> None:
    """Print that a checkpoint is damaged, and leave it: the training starts over and writes it again."""
    print(f"warning: {path}: {why}; the training starts over", file=sys.stderr, flush=True)


def _content(path: Path) -> io.BytesIO:
    """Return what ``torch.save`` wrote. Nothing is unpacked before its hash is checked.

    Raises:
        OSError: it cannot be read, or is not what was written.
    """
    if path.is_symlink() and not path.exists():
        raise OSError(0, "is a link to nothing")
    with open_regular(path) as file:
        head = re.fullmatch(re.escape(_HEAD).replace(b"%s", b"([0-9a-f]{64})"), file.read(_HEAD_BYTES))
        if head is None:
            raise OSError(0, "is not a checkpoint, or one of version 0.1.0")
        whole = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            whole.update(block)
        if whole.hexdigest().encode() != head[1]:
            raise OSError(0, "its content is not what was written")
        file.seek(_HEAD_BYTES)
        return io.BytesIO(file.read())
