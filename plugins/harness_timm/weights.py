"""What a file of weights states: its tensors and its class names. No tensor is read, and torch is not imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import first_line

__all__ = ["Checkpoint", "beside", "read_checkpoint"]

HEADER_BYTES = 16 * 2**20
"""Largest header that is read. A model of 10,000 tensors has one of about a megabyte."""

_WRAPPERS = ("_orig_mod.", "module.")
"""Prefixes that torch.compile and data-parallel training put before the name of every tensor."""
_LFS = b"version https://git-lfs.github.com/spec/"
_NAMES = ("label_names", "class_names", "classes", "labels")
"""Keys under which timm's ``config.json`` and other exporters list the classes in the order of the head's rows."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file of weights.

    ``tensors``: name without wrappers' prefixes -> shape. ``stated``: what ``config.json`` beside the file says, or
    nothing. ``class_names``: the names of the head's rows in their order, empty if the file does not state them.
    """

    path: Path
    tensors: Mapping[str, tuple[int, ...]]
    stated: Mapping[str, Any]
    class_names: tuple[str, ...]

    def rows(self, heads: tuple[str, ...]) -> int:
        """Return the number of classes of the classifiers ``heads``, or 0 if the file has none of them."""
        shapes = [self.tensors.get(f"{head}.weight", ()) for head in heads]
        return next((shape[0] for shape in shapes if shape), 0)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the header of a safetensors file, and the ``config.json`` beside it.

    Raises:
        ValueError: the file cannot be read as safetensors. The message says why.
    """
    try:
        header = _header(path)
    except OSError as error:
        raise ValueError(f"weights: {path} cannot be read: {error.strerror or error}") from None
    metadata = header.pop("__metadata__", {})
    stated = _json_of(beside(path))
    return Checkpoint(
        path=path,
        tensors={_bare(name): tuple(value["shape"]) for name, value in header.items()},
        stated=stated,
        class_names=_class_names(metadata) or _class_names(stated),
    )


def beside(path: Path) -> Path:
    """Return the place of the ``config.json`` that timm and transformers write beside a file of weights."""
    return path.with_name("config.json")


def _header(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"weights: there is no file {path}")
    if not path.is_file():
        raise ValueError(f"weights: {path} is not a regular file; a safetensors file is needed")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        if start == _LFS:
            raise ValueError(
                f"weights: {path} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository"
            )
        length = int.from_bytes(start[:8], "little")
        wrong = f"weights: {path} is not a readable safetensors file"
        if size < 10 or not 2 <= length <= HEADER_BYTES:
            kind = f"its {size} bytes do not begin with a header"
            if start[:2] in (b"PK", b"\x80\x02"):
                kind = "it is a pickle or a zip; save the state dict with safetensors.torch.save_file"
            raise ValueError(f"{wrong}: {kind}")
        if size < 8 + length:
            raise ValueError(f"{wrong}: it is cut short, {size} bytes of at least {8 + length}")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
            shapes = [value["shape"] for name, value in header.items() if name != "__metadata__"]
            sound = all(isinstance(end, int) for end in ends) and all(
                isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) for shape in shapes
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            sound = False
        if not sound or not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError(f"{wrong}: its header is damaged")
        whole = 8 + length + max(ends, default=0)
        if size != whole:
            kind = "cut short" if size < whole else "followed by other bytes"
            raise ValueError(f"{wrong}: it is {kind}, {size} bytes where its header says {whole}")
    return header  # type: ignore[no-any-return]


def _bare(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _json_of(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a JSON file, or nothing: a folder may have another program's ``config.json``."""
    try:
        if not path.is_file() or path.stat().st_size > HEADER_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _class_names(stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of a header's metadata (values are JSON texts) or of a ``config.json``."""
    inner = stated.get("pretrained_cfg")
    for place in (stated, inner if isinstance(inner, dict) else {}):
        for key in _NAMES:
            names = _decoded(place.get(key))
            if isinstance(names, list) and names and all(isinstance(name, str | int) for name in names):
                return tuple(map(str, names))
        numbered = _decoded(place.get("id2label"))
        if isinstance(numbered, dict) and set(map(str, numbered)) == {
            str(row) for row in range(len(numbered))
        }:
            by_row = {str(row): name for row, name in numbered.items()}
            return tuple(str(by_row[str(row)]) for row in range(len(numbered)))
    return ()


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        return first_line(error)
