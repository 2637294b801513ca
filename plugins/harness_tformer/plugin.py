"""TFormer: a transmission-friendly ViT for IoT devices (Lu et al., IEEE TPDS 2023), as a model builder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.hookspecs import hookimpl
from harness.types import Context, DataInfo, Model, ModelEntry, ModuleSpec, Params
from harness_tformer.sketch import FFN, SIZES, Operator, TFormerShape

__all__ = ["TFormerParams", "describe", "harness_models"]

Positive = Annotated[int, Field(ge=1)]


class TFormerParams(Params):
    """A size of the paper, or ``dims`` and ``depths``. The switches are those of the paper's Tables 2 and 3."""

    size: Literal["S", "M", "L"] | None = Field(None, description="size of the paper: S, M or L")
    dims: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] | None = Field(
        None, description="channels of each stage"
    )
    depths: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] | None = Field(
        None, description="number of blocks of each stage"
    )
    operators: Annotated[tuple[Operator, ...], Field(min_length=1)] = Field(
        ("avg", "max"), description="types of pooling; each has a share of the channels (Table 2)"
    )
    kernels: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (3, 5, 7, 9, 11),
        description="odd sizes of pooling in pixels; each has a share of the channels (Table 2)",
    )
    ffn: FFN = Field(
        "pcs",
        description="pcs: a grouped and shuffled FFN; standard: an FFN; ghost: an FFN of Ghost modules (Table 3)",
    )
    expansion: int = Field(4, ge=1, description="channels inside the FFN, divided by those outside (r)")
    groups: int = Field(2, ge=1, description="number of groups of the PCS-FFN (g)")
    ghost_ratio: int = Field(
        2, ge=2, description="ghost: number of outputs, divided by those of the dense convolution"
    )
    stem_kernel: int = Field(7, ge=1, description="pixels per side of the first patch embedding")
    stem_stride: int = Field(
        4, ge=1, description="stride of the first patch embedding; 1 or 2 for images of 32 pixels"
    )
    down_kernel: int = Field(3, ge=1, description="pixels per side of the later patch embeddings")
    down_stride: int = Field(2, ge=1, description="stride of the later patch embeddings")
    layer_scale: float = Field(1e-5, ge=0, description="initial scale of each branch; 0: no scale")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the last block")

    @model_validator(mode="after")
    def _one_size(self) -> TFormerParams:
        sizes = (self.dims is not None, self.depths is not None)
        if any(sizes) == (self.size is not None) or len(set(sizes)) > 1:
            raise ValueError("give size (S, M or L), or dims and depths")
        return self


def describe(params: TFormerParams, data: DataInfo) -> ModuleSpec:
    """Return the TFormer for the images and classes of ``data``.

    Raises:
        ValueError: the dimensions do not fit each other or the images.
    """
    sizes = params.model_dump(exclude={"size"})
    if params.size is not None:
        sizes["dims"], sizes["depths"] = SIZES[params.size]
    channels, height, width = data.shape
    shape = TFormerShape(image_size=(height, width), channels=channels, classes=data.classes, **sizes)
    return shape.spec()


def build(ctx: Context, params: TFormerParams) -> Model:
    """Build the TFormer with random weights. torch is imported here, so that planning does not need it."""
    from harness_timm.models import seeded_model

    return seeded_model(ctx, describe(params, ctx.data.info))


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    """Yield the model builder ``tformer``."""
    yield ModelEntry(
        name="tformer",
        summary="TFormer: pooling of several types and scales in place of attention, and a grouped and shuffled FFN",
        params=TFormerParams,
        build=build,
        describe=describe,
        requires=("torch", "timm"),
        extra="bench",
    )
