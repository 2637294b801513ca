"""Parameters, decoding and static facts of data sets of encoded images."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from harness.errors import SuiteError, first_line
from harness.types import DataInfo, Params

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "PictureParams",
    "absent",
    "codec",
    "decode",
    "facts",
    "file_hash",
    "listing_hash",
    "looking_at",
    "planned",
]

VARYING = (3, 0, 0)
"""The shape of RGB images whose sizes differ or are unknown."""


class PictureParams(Params):
    """Parameters that every data set of encoded images has."""

    num_classes: int | None = Field(
        None, ge=2, description="classes there must be; lets a suite be planned where the data is not"
    )
    shape: tuple[Literal[1, 3], int, int] | None = Field(
        None, description="channels, height, width as stored; lets a suite be planned where the data is not"
    )
    crop: Literal["center", "none"] = Field(
        "center", description="cut the middle square out of an image before it is resized, or not"
    )
    mean: tuple[float, ...] | None = Field(None, description="per channel, 0..1 (default: 0.5)")
    std: tuple[float, ...] | None = Field(None, description="per channel, 0..1 (default: 0.5)")
    note: str = Field("", description="what this data is, as the record should say it")

    @model_validator(mode="after")
    def _check(self) -> PictureParams:
        if self.shape is not None and min(self.shape) < 1:
            raise ValueError("shape: height and width must be at least 1")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: give both or neither")
        if self.mean is not None and not all(0 <= value <= 1 for value in self.mean):
            raise ValueError("mean: values are on a scale of 0 to 1")
        if self.std is not None and not all(0 < value <= 1 for value in self.std):
            raise ValueError("std: values are above 0 and at most 1")
        return self


def absent(*modules: str) -> str | None:
    """Return which of ``modules`` are not installed and the command that installs them, or ``None``."""
    needed = [name for name in modules if importlib.util.find_spec(name) is None]
    extra = "hub" if "datasets" in needed else "bench"
    return f"needs {', '.join(needed)}: pip install 'edge-harness[{extra}]'" if needed else None


@contextmanager
def looking_at(path: str) -> Iterator[Path]:
    """Yield ``path`` as a :class:`Path`, with the home folder expanded.

    Raises:
        SuiteError: the system refuses the path, here or in the body of the ``with`` statement.
    """
    try:
        yield Path(path).expanduser()
    except (OSError, RuntimeError) as error:  # expanduser raises RuntimeError
        reason = getattr(error, "strerror", None) or first_line(error)
        shown = path if len(path) <= 200 else f"{path[:200]}..."
        raise SuiteError(f"{shown}: {reason}") from None


# --- static facts -------------------------------------------------------------------------------


def facts(
    params: PictureParams,
    *,
    name: str,
    where: str,
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    sizes: Mapping[str, int],
    fingerprint: str,
    notes: Iterable[str] = (),
) -> DataInfo:
    """Return the facts of data that is here, after checking them against the suite.

    Raises:
        SuiteError: ``num_classes`` or ``shape`` contradicts the data.
    """
    if params.num_classes not in (None, len(class_names)):
        raise SuiteError(f"num_classes: {params.num_classes}, but {where} has {len(class_names)} classes")
    if params.shape is not None and 0 not in shape and tuple(params.shape) != shape:
        raise SuiteError(f"shape: {list(params.shape)}, but the images of {where} are {list(shape)}")
    scale = () if params.mean is not None else ("mean and std not given: 0.5 and 0.5",)
    return DataInfo(
        name=name,
        shape=shape,
        class_names=class_names,
        sizes=dict(sizes),
        mean=params.mean or (0.5,) * shape[0],
        std=params.std or (0.5,) * shape[0],
        fingerprint=fingerprint,
        note="; ".join(part for part in (params.note, *notes, *scale) if part),
    )


def planned(params: PictureParams, *, name: str, missing: str) -> DataInfo:
    """Return the facts that the suite gives of data that is not here.

    Raises:
        SuiteError: the suite does not give the number of classes.
    """
    if params.num_classes is None:
        raise SuiteError(f"{missing} (to plan without it, give num_classes, and shape or image_size)")
    shape = params.shape or VARYING
    return DataInfo(
        name=name,
        shape=shape,
        class_names=tuple(str(index) for index in range(params.num_classes)),
        sizes={},
        mean=params.mean or (0.5,) * shape[0],
        std=params.std or (0.5,) * shape[0],
        missing=missing,
        note=params.note,
    )


# --- pixels -------------------------------------------------------------------------------------


def decode(data: bytes | Path, channels: int | None, crop: str, where: str) -> NDArray[np.uint8]:
    """Return an encoded image as uint8 [height, width, channels].

    If ``channels`` is ``None``, a grey image has 1 channel and any other image has 3.

    Raises:
        SuiteError: the image cannot be decoded. The message begins with ``where``.
    """

    import numpy as np
    from PIL import Image

    try:
        with Image.open(_stream(data)) as picture:
            if picture.mode[0] in "IF":
                raise SuiteError(f"{where}: more than 8 bits per channel ({picture.mode}); convert it first")
            grey = channels == 1 or (channels is None and picture.mode in ("1", "L", "LA"))
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise SuiteError(f"{where}: not an image that can be decoded: {first_line(error)}") from None
    pixels = pixels.reshape(*pixels.shape[:2], 1 if grey else 3)
    if crop == "center" and pixels.shape[0] != pixels.shape[1]:
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return pixels


def codec(data: bytes) -> str:
    """Return the name of an image's encoding, such as JPEG or PNG. :func:`decode` must accept the image."""
    from PIL import Image

    with Image.open(_stream(data)) as picture:
        return str(picture.format)


def _stream(data: bytes | Path) -> Any:
    return io.BytesIO(data) if isinstance(data, bytes) else data


# --- fingerprints -------------------------------------------------------------------------------

_hashes: dict[tuple[str, int, int], str] = {}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. A process computes it again only if size or time have changed."""
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _hashes:
        whole = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                whole.update(chunk)
        _hashes[key] = whole.hexdigest()
    return _hashes[key]


def listing_hash(folder: Path, files: Iterable[Path]) -> str:
    """Return a SHA-256 over the files' names inside ``folder``, their sizes and times. It reads no content."""
    whole = hashlib.sha256()
    for path in files:
        state = path.stat()
        line = f"{path.relative_to(folder).as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n"
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
