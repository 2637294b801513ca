"""Checkpoints of a training: each is written whole or not at all, and only the same training reads it back."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import StorageError
from harness.store.files import write_atomically

if TYPE_CHECKING:
    import torch

__all__ = ["load", "save", "training_key"]


def training_key(facts: Mapping[str, Any], module: torch.nn.Module, labels: bytes) -> str:
    """Return a hash of what a training starts from: JSON facts, the module's weights and frozen parts, the labels.

    The hash covers neither the inputs nor the loss. Two fits of one step that differ only in these need two names.
    """
    import torch

    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    known = hashlib.sha256(json.dumps([facts, frozen, torch.__version__], sort_keys=True).encode())
    known.update(labels)
    for name, tensor in sorted(module.state_dict().items()):
        known.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        known.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return known.hexdigest()


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, containers of them) in one step.

    Raises:
        StorageError: the folder cannot be written, or the disk is full; an earlier checkpoint is kept.
    """
    import torch

    buffer = io.BytesIO()  # so that a full disk is an OSError, not an error inside torch's writer
    torch.save(dict(state), buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer(), sync=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot write the checkpoint: {error.strerror}") from error


def load(path: Path, key: str) -> dict[str, Any] | None:
    """Return the state saved under ``key``, on the CPU, or ``None`` if it is absent, of another training, or broken.

    A training that starts over instead of resuming gives the same weights, later.

    Raises:
        StorageError: the file is there and cannot be opened.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, pickle.UnpicklingError, RuntimeError, zipfile.BadZipFile):
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot read the checkpoint: {error.strerror}") from error
    return state if isinstance(state, dict) and state.get("key") == key else None
