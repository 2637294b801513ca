"""Parameters and static facts of data sets of encoded images."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from harness.errors import SuiteError, first_line
from harness.methods import install_command
from harness.types import DataInfo, Params
from harness_data.names import shown

__all__ = ["VARYING", "PictureParams", "absent", "facts", "looking_at", "planned"]

VARYING = (3, 0, 0)
"""The shape of RGB images whose sizes differ or are unknown."""


class PictureParams(Params):
    """Parameters that every data set of encoded images has."""

    num_classes: int | None = Field(
        None,
        ge=2,
        description="number of classes, which the data must have; with it a suite can be planned without the data",
    )
    shape: tuple[Literal[1, 3], int, int] | None = Field(
        None,
        description="channels, height and width as stored; with them a suite can be planned without the data",
    )
    crop: Literal["center", "none"] = Field(
        "center",
        description="center: cut the middle square out of an image before it is resized; none: resize the whole image",
    )
    mean: tuple[float, ...] | None = Field(
        None, description="one value per channel, from 0 to 1 (default: 0.5)"
    )
    std: tuple[float, ...] | None = Field(
        None, description="one value per channel, from 0 to 1 (default: 0.5)"
    )
    note: str = Field("", description="what this data is; the record states this text")

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
    return f"needs {', '.join(needed)}: {install_command(extra)}" if needed else None


@contextmanager
def looking_at(path: str) -> Iterator[Path]:
    """Yield ``path`` as a :class:`Path`, with the home folder expanded.

    Raises:
        SuiteError: the system refuses the path or one below it, here or in the body of the ``with`` statement.
    """
    try:
        yield Path(path).expanduser()
    except (OSError, RuntimeError) as error:  # expanduser raises RuntimeError
        reason = getattr(error, "strerror", None) or first_line(error)
        refused = shown(str(getattr(error, "filename", None) or path))
        raise SuiteError(f"{refused if len(refused) <= 200 else f'{refused[:200]}...'}: {reason}") from None


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
    whole = ("pictures resized whole, not cut to their middle square",) if params.crop == "none" else ()
    scale = () if params.mean is not None else ("mean and std not given: 0.5 and 0.5",)
    return DataInfo(
        name=shown(name),
        shape=shape,
        class_names=class_names,
        sizes=dict(sizes),
        mean=params.mean or (0.5,) * shape[0],
        std=params.std or (0.5,) * shape[0],
        fingerprint=fingerprint,
        note="; ".join(part for part in (params.note, *notes, *whole, *scale) if part),
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
        name=shown(name),
        shape=shape,
        class_names=tuple(str(index) for index in range(params.num_classes)),
        sizes={},
        mean=params.mean or (0.5,) * shape[0],
        std=params.std or (0.5,) * shape[0],
        missing=missing,
        note=params.note,
    )
