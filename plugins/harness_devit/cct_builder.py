"""The model builder ``cct``: a CCT (Hassani et al., 2021) with random weights or those of a file.

Planning imports this file, so torch is imported where a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from harness.types import Context, DataInfo, Model, ModuleSpec, Params, StartingWeights
from harness_devit.cct_sketch import CCTShape, Position, default_stride
from harness_devit.given import check_file, file_weights, take_weights
from harness_timm.source import DeclaredHead, WeightsSource
from harness_timm.weights import beside, read_checkpoint

__all__ = ["CCTParams", "build_cct", "cct_files", "cct_weights", "describe_cct"]


class CCTParams(Params):
    """A CCT by its dimensions, CCT-{depth}/{kernel}x{convs}; image size, channels and classes are the data set's."""

    kernel: int = Field(3, ge=1, description="pixels per side of the tokenizer's convolutions; odd")
    convs: int = Field(
        1,
        ge=1,
        le=8,
        description="number of the tokenizer's convolutions; a pooling that halves the size follows each",
    )
    stride: int | None = Field(
        None, ge=1, description="stride of each convolution; default: kernel // 2 - 1, at least 1"
    )
    conv_dim: int = Field(64, ge=1, description="channels of the convolutions before the last one")
    dim: int = Field(ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(ge=1, description="number of blocks")
    heads: int = Field(ge=1, description="number of attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a block's MLP, divided by dim")
    position: Position = Field("learnable", description="position embedding: learnable, sinusoidal or none")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth at the last block")
    weights: str | None = Field(
        None, min_length=1, description="file of weights (safetensors) of a cct of these dimensions"
    )
    head: Literal["new", "in-order"] | Mapping[str, int | str] | None = Field(
        None,
        description="classes of the weights' head: matched by name (default), new, in-order (row i is class i), "
        "or a map from each class of the data to a name or row of the weights",
    )

    @model_validator(mode="after")
    def _head_of_weights(self) -> CCTParams:
        if self.head is not None and not self.weights:
            raise ValueError("head belongs to weights: random weights have no head to match")
        return self


def describe_cct(params: CCTParams, data: DataInfo) -> ModuleSpec:
    """Return the CCT for the images and classes of ``data``.

    Raises:
        ValueError: the dimensions do not fit one another, or the weights cannot be read or are those of other ones.
    """
    if params.weights:
        check_file(Path(params.weights), params.dim, params.depth)
    channels, height, width = data.shape
    sizes = params.model_dump(exclude={"weights", "head"})
    sizes["stride"] = params.stride or default_stride(params.kernel)
    return CCTShape(image_size=(height, width), channels=channels, classes=data.classes, **sizes).spec()


def build_cct(ctx: Context, params: CCTParams) -> Model:
    """Build the CCT with random weights or those of a file. torch is imported here, because planning imports this file.

    Raises:
        ValueError: the weights cannot be read, or do not fit.
    """
    from harness_timm.models import seeded_model

    model = seeded_model(ctx, describe_cct(params, ctx.data.info))
    if params.weights:
        source = source_of(params.weights, params.head)
        take_weights(
            source.name, model.module, file_weights(Path(params.weights)), source.head(ctx.data.info).rows
        )
    return model


def source_of(weights: str, head: DeclaredHead) -> WeightsSource:
    """Return what is known of the file ``weights`` of a CCT.

    Raises:
        ValueError: the file cannot be read.
    """
    checkpoint = read_checkpoint(Path(weights))
    classes, names, tensors = checkpoint.rows(("head",)), checkpoint.class_names, checkpoint.tensors
    first = tensors.get("patch_embed.stem.0.weight") or tensors.get("patch_embed.proj.weight", ())
    return WeightsSource(
        name=f"weights {weights}",
        file=checkpoint.path,
        classes=classes,
        channels=first[1] if len(first) == 4 else 0,
        namings=(names,) if names and len(names) == classes else (),
        preprocessing=None,
        notes=("the weights do not state how their images were prepared",),
        declared=head,
    )


def cct_weights(params: CCTParams, data: DataInfo) -> StartingWeights | None:
    """Return the weights from which the CCT starts, and how their head fits ``data``; None for random weights.

    Raises:
        ValueError: the weights cannot be read, are not those of such a CCT, or the declared head does not fit them.
    """
    if not params.weights:
        return None
    source = source_of(params.weights, params.head)
    if source.channels != data.shape[0]:
        raise ValueError(
            f"{source.name}: made for images of {source.channels} channels, {data.name} has {data.shape[0]}"
        )
    head = source.head(data)
    return StartingWeights(
        source=source.name, head=head.text, new_head=head.rows is None, adapted=source.notes
    )


def cct_files(params: CCTParams) -> tuple[Path, ...]:
    """Return the files that ``params`` name. What stands beside the weights states their classes."""
    if not params.weights:
        return ()
    file = Path(params.weights)
    return (file, beside(file)) if beside(file).is_file() else (file,)
