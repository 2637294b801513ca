"""Pretrained weights of a timm model: what is known of them in planning, and how they fit a data set. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from harness.types import DataInfo, Preprocessing
from harness_timm.catalogue import imagenet_names, pretrained_cfg, tags_with_weights
from harness_timm.head import Head, declared_head, head_in_order, matched_head
from harness_timm.weights import Checkpoint, beside, read_checkpoint

__all__ = ["DeclaredHead", "WeightsSource", "hub_source", "local_source"]

DeclaredHead: TypeAlias = Literal["new", "in-order"] | Mapping[str, int | str] | None
"""The parameter ``head`` of the builder."""


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """The weights from which a model starts. ``file`` is None for weights of the hub.

    ``classes``: rows of their head, 0 without a head. ``channels``: of their images. ``namings``: the names that they
    state for their classes, each a list in the order of the rows. ``declared``: what the suite says about the head.
    """

    name: str
    file: Path | None
    classes: int
    channels: int
    namings: tuple[Sequence[str], ...]
    preprocessing: Preprocessing | None
    notes: tuple[str, ...]
    declared: DeclaredHead

    def head(self, data: DataInfo) -> Head:
        """Return the rows of the head for the classes of ``data``.

        Raises:
            ValueError: the declared head does not fit the weights or the data.
        """
        if self.declared == "new":
            return Head(rows=None, text="new: the suite asks for it")
        if self.declared is None:
            if not self.classes:
                return Head(rows=None, text="new: the weights have none")
            return matched_head(data.class_names, data.name, self.namings)
        if not self.classes:
            raise ValueError("head: the weights have no head")
        if isinstance(self.declared, str):
            return head_in_order(data.classes, data.name, self.classes)
        return declared_head(self.declared, data.class_names, data.name, self.classes, self.namings)

    def adapted(self, data: DataInfo) -> tuple[str, ...]:
        """Return what else differs from the weights in a model for ``data``, in words.

        Raises:
            ValueError: timm cannot adapt the weights to so many channels.
        """
        channels = data.shape[0]
        if channels == self.channels:
            return self.notes
        if self.channels != 3:
            raise ValueError(
                f"{self.name}: made for images of {self.channels} channels, {data.name} has {channels}; "
                "timm adapts 3 channels only"
            )
        return (*self.notes, f"input channels adapted from {self.channels} to {channels} by timm")


def hub_source(name: str, declared: DeclaredHead) -> WeightsSource:
    """Return the weights that timm names for model ``name``.

    Raises:
        ValueError: timm has no such model, or no weights for it.
    """
    cfg = pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        tags = tags_with_weights(name)
        raise ValueError(
            f"timm has no weights for {name!r}" + (f"; it has {', '.join(tags)}" if tags else "")
        )
    full = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    stated = {"label_names": cfg.label_names, "label_descriptions": cfg.label_descriptions}
    preprocessing, notes = _preprocessing(cfg)
    return WeightsSource(
        name=f"timm's weights {full}",
        file=None,
        classes=cfg.num_classes,
        channels=cfg.input_size[0],
        namings=_namings(tuple(cfg.label_names or ()), stated, cfg.num_classes),
        preprocessing=preprocessing,
        notes=notes,
        declared=declared,
    )


def local_source(name: str, file: Path, declared: DeclaredHead) -> WeightsSource:
    """Return the weights in a safetensors file for model ``name``.

    Class names and preprocessing come from ``config.json`` beside the file, or else from timm if ``name`` has a tag,
    which says that the file holds these weights of timm.

    Raises:
        ValueError: timm has no such model, or the file cannot be read.
    """
    checkpoint, cfg = read_checkpoint(file), pretrained_cfg(name)
    classes = checkpoint.rows(heads_of(cfg))
    stated = checkpoint.stated.get("pretrained_cfg")
    names, tagged = checkpoint.class_names, "." in name
    if len(names) != classes:
        names = ()
    timm_has = tagged and cfg is not None and cfg.num_classes == classes
    preprocessing = None
    notes: tuple[str, ...] = ("the weights do not state how their images were prepared",)
    if cfg is not None and (tagged or isinstance(stated, dict)):
        preprocessing, notes = _preprocessing(
            _updated(cfg, stated, file) if isinstance(stated, dict) else cfg
        )
    return WeightsSource(
        name=f"weights {file}",
        file=file,
        classes=classes,
        channels=_channels(checkpoint, cfg),
        namings=_namings(names, checkpoint.stated, classes if names or timm_has else 0),
        preprocessing=preprocessing,
        notes=notes,
        declared=declared,
    )


def heads_of(cfg: Any) -> tuple[str, ...]:
    """Return the names of the classifiers in a configuration of timm."""
    classifier = getattr(cfg, "classifier", None)
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _channels(checkpoint: Checkpoint, cfg: Any) -> int:
    """Return the channels of the first convolution in a file, or timm's number if that layer has another form."""
    usual = 3 if cfg is None else int(cfg.input_size[0])
    first = getattr(cfg, "first_conv", None)
    shape = checkpoint.tensors.get(f"{first}.weight", ()) if isinstance(first, str) else ()
    return shape[1] if len(shape) == 4 and shape[1] in (1, 3) else usual


_Share = Annotated[float, Field(ge=0, le=1)]
_Spread = Annotated[float, Field(gt=0, le=10)]


class _Stated(BaseModel):
    """The keys of ``pretrained_cfg`` in a ``config.json`` of timm that say how images are prepared."""

    input_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    interpolation: str | None = None
    crop_pct: float | None = Field(None, gt=0, le=1)
    crop_mode: str | None = None
    mean: tuple[_Share, _Share, _Share] | None = None
    std: tuple[_Spread, _Spread, _Spread] | None = None


def _updated(cfg: Any, stated: Mapping[str, Any], file: Path) -> Any:
    """Return timm's configuration with the values of the ``config.json`` beside ``file``.

    Raises:
        ValueError: a value has a wrong type.
    """
    try:
        values = _Stated.model_validate(stated)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{beside(file)}: pretrained_cfg.{key}: {problem['msg']}") from None
    return replace(cfg, **values.model_dump(exclude_none=True))


def _preprocessing(cfg: Any) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """Return the preprocessing that a configuration of timm names, and what of it this project does not have."""
    _, height, width = cfg.input_size
    notes = []
    if height != width:
        return None, (
            f"the weights' images of {height} x {width} pixels are no squares: their preprocessing is not used",
        )
    interpolation, mode = cfg.interpolation, cfg.crop_mode or "center"
    if interpolation not in ("nearest", "bilinear", "bicubic"):
        notes.append(f"bicubic, the weights' interpolation {interpolation} is not available")
        interpolation = "bicubic"
    if mode not in ("center", "squash"):
        notes.append(f"centre crop, the weights' crop mode {mode} is not available")
        mode = "center"
    squashed = mode == "squash" and cfg.crop_pct == 1
    return (
        Preprocessing(
            image_size=height,
            interpolation=cast(Literal["nearest", "bilinear", "bicubic"], interpolation),
            crop_pct=None if squashed else float(cfg.crop_pct),
            crop_mode="center" if squashed else cast(Literal["center", "squash"], mode),
            mean=tuple(map(float, cfg.mean)),
            std=tuple(map(float, cfg.std)),
        ),
        tuple(notes),
    )


def _namings(names: tuple[str, ...], stated: Mapping[str, Any], classes: int) -> tuple[Sequence[str], ...]:
    """Return the lists of names by which the classes of weights are known.

    ``names`` are those that the weights state. Without them, ``classes`` of timm's own weights tell which ImageNet they
    are for; timm's ``infer_imagenet_subset`` does the same.
    """
    imagenet = imagenet_names(classes)
    if not names:
        return imagenet
    described = stated.get("label_descriptions")
    if names == tuple(imagenet[0] if imagenet else ()):
        return imagenet
    if isinstance(described, dict) and all(isinstance(described.get(name), str) for name in names):
        return names, [described[name] for name in names]
    return (names,)
