"""Model builders: any timm model by its name, and Vision Transformers by their dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.hookspecs import hookimpl
from harness.methods import seeded
from harness.types import (
    Context,
    DataInfo,
    Model,
    ModelEntry,
    ModuleSpec,
    Params,
    Preprocessing,
    StartingWeights,
    TensorSpec,
)
from harness_timm.catalogue import check_name, fixed_patch, listing
from harness_timm.source import WeightsSource, hub_source, local_source
from harness_timm.vit import TIMM_FACTORY, ViTShape
from harness_timm.weights import beside, read_checkpoint

__all__ = ["TimmParams", "ViTParams", "harness_models"]

_PATCH_ARGS = frozenset({"patch_size", "dynamic_img_pad", "img_size"})
"""Arguments of timm by which a model takes images that the patches of its name do not divide."""
_OURS = ("num_classes", "in_chans", "pretrained", "checkpoint_path", "drop_rate", "drop_path_rate")


class TimmParams(Params):
    """A timm model by its name. Classes, channels and image size come from the data set."""

    name: str = Field(
        min_length=1, description="name of the model, as in timm.list_models(); a tag chooses weights"
    )
    pretrained: bool = Field(False, description="true: take pretrained weights from the hub")
    weights: str | None = Field(None, min_length=1, description="file of weights (safetensors)")
    head: Literal["new", "in-order"] | Mapping[str, int | str] | None = Field(
        None,
        description="classes of the weights' head: matched by name (default), new, in-order (row i is class i), "
        "or a map from each class of the data to a name or row of the weights",
    )
    drop_rate: float | None = Field(None, ge=0, lt=1, description="dropout before the head (timm's default)")
    drop_path_rate: float | None = Field(None, ge=0, lt=1, description="stochastic depth (timm's default)")
    args: Mapping[str, Any] = Field(default_factory=dict, description="more arguments of timm.create_model")

    @field_validator("args")
    @classmethod
    def _not_ours(cls, args: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = [name for name in _OURS if name in args]
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set here: the data set or another key gives it")
        return args

    @field_validator("head", mode="before")
    @classmethod
    def _names(cls, head: Any) -> Any:
        if isinstance(head, Mapping):  # YAML reads a class called 7 as a number
            return {str(name): value for name, value in head.items()}
        return head

    @model_validator(mode="after")
    def _one_source(self) -> TimmParams:
        if self.pretrained and self.weights:
            raise ValueError("pretrained and weights are two sources of weights: give one")
        if self.head is not None and not (self.pretrained or self.weights):
            raise ValueError("head belongs to pretrained or weights: random weights have no head to match")
        return self


class ViTParams(Params):
    """A ViT by its dimensions. Image size, channels and classes come from the data set."""

    patch_size: int = Field(ge=1, description="pixels per side of a patch")
    dim: int = Field(ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(ge=1, description="number of blocks")
    heads: int = Field(ge=1, description="number of attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a block's MLP, divided by dim")
    class_token: bool = Field(
        True, description="true: the head reads the class token; false: the mean of the patch tokens"
    )
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth at the last block")


def describe_vit(params: ViTParams, data: DataInfo) -> ModuleSpec:
    """Return the ViT for the images and classes of ``data``.

    Raises:
        ValueError: the dimensions do not fit each other or the images.
    """
    channels, height, width = data.shape
    shape = ViTShape(
        image_size=(height, width), channels=channels, classes=data.classes, **params.model_dump()
    )
    return shape.spec()


def build_vit(ctx: Context, params: ViTParams) -> Model:
    """Build the ViT with random weights. torch is imported here, so that planning does not need it."""
    from harness_timm.models import seeded_model

    return seeded_model(ctx, describe_vit(params, ctx.data.info))


def describe_timm(params: TimmParams, data: DataInfo) -> ModuleSpec:
    """Return the timm model for the images and classes of ``data``.

    Raises:
        ValueError: timm has no such model, its weights cannot be read, or a standard ViT's patches do not fit the
            images.
    """
    check_name(params.name)
    if params.weights:
        read_checkpoint(Path(params.weights))
    channels, height, width = data.shape
    spec = ModuleSpec(
        factory=TIMM_FACTORY,
        params={
            "name": params.name,
            "classes": data.classes,
            "channels": channels,
            "image_size": [height, width],
            "drop_rate": params.drop_rate,
            "drop_path_rate": params.drop_path_rate,
            "args": dict(params.args),
        },
    )
    ViTShape.from_spec(spec)  # refuses a standard ViT whose patches do not fit the image
    patch = fixed_patch(params.name)
    if patch and not params.args.keys() & _PATCH_ARGS and (height % patch or width % patch):
        raise ValueError(
            f"timm model {params.name!r} does not take the image: its patches of {patch} pixels do not divide "
            f"{height} x {width}; change image_size"
        )
    return spec


def weight_files(params: TimmParams) -> tuple[Path, ...]:
    """Return the files that ``params`` names. What stands beside the weights states their classes."""
    if not params.weights:
        return ()
    weights = Path(params.weights)
    return tuple(file for file in (weights, beside(weights)) if file == weights or file.is_file())


def source_of(params: TimmParams) -> WeightsSource:
    """Return what is known of the weights that ``params`` name, which must name some.

    Raises:
        ValueError: timm has no such weights, or the file cannot be read.
    """
    if params.weights:
        return local_source(params.name, Path(params.weights), params.head)
    return hub_source(params.name, params.head)


def known_source(params: TimmParams) -> bool:
    """Return whether ``params`` name weights that can be described here: a file, or weights of an installed timm.

    Without timm, the plan says that timm is missing.
    """
    return bool(params.weights) or (params.pretrained and listing() is not None)


def timm_preprocessing(params: TimmParams) -> Preprocessing | None:
    """Return how the images of the weights were prepared, or None if there are no weights or they do not state it.

    Raises:
        ValueError: timm has no such model or no such weights, or the file cannot be read.
    """
    check_name(params.name)
    return source_of(params).preprocessing if known_source(params) else None


def timm_weights(params: TimmParams, data: DataInfo) -> StartingWeights | None:
    """Return the weights from which the model starts, and how they fit ``data``; None for random weights.

    Raises:
        ValueError: the weights cannot be read, or the declared head does not fit them.
    """
    if not known_source(params):
        return None
    source = source_of(params)
    head = source.head(data)
    return StartingWeights(
        source=source.name, head=head.text, new_head=head.rows is None, adapted=source.adapted(data)
    )


def build_timm(ctx: Context, params: TimmParams) -> Model:
    """Build the timm model, with random weights or those that ``params`` names.

    Raises:
        ValueError: timm has no such model, its weights cannot be read, or it does not accept the images.
    """
    from harness_timm.models import check_input, pretrained_model

    info = ctx.data.info
    spec = describe_timm(params, info)
    build = spec.build
    if params.pretrained or params.weights:
        build = partial(pretrained_model, spec, source_of(params), source_of(params).head(info).rows)
    module = seeded(build, ctx.seed)
    check_input(module, info.shape, info.classes, f"timm model {params.name!r}")
    return Model(module=module, spec=spec, input=TensorSpec(shape=info.shape), classes=info.classes)


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    """Yield the model builders ``vit`` and ``timm``."""
    yield ModelEntry(
        name="vit",
        summary="a Vision Transformer by its dimensions",
        params=ViTParams,
        build=build_vit,
        describe=describe_vit,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield ModelEntry(
        name="timm",
        summary="any timm model by name, with random, hub or local weights",
        params=TimmParams,
        files=weight_files,
        build=build_timm,
        describe=describe_timm,
        preprocessing=timm_preprocessing,
        weights=timm_weights,
        requires=("torch", "timm", "safetensors"),
        extra="bench",
    )
