"""DeViT: a trained ViT decomposed by classes into small ViTs, whose features are fused (DEKD); CCT, one of the
families of ViTs that its paper decomposes."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import (
    Context,
    DataInfo,
    Model,
    ModelEntry,
    ModuleSpec,
    Partition,
    PartitionerEntry,
    Sketch,
)
from harness_devit.cct_sketch import CCTShape, default_stride
from harness_devit.params import CCTParams, DeViTParams
from harness_devit.sketch import devit_sketch

__all__ = ["harness_models", "harness_partitioners"]


def describe_cct(params: CCTParams, data: DataInfo) -> ModuleSpec:
    channels, height, width = data.shape
    given = {**params.model_dump(), "stride": params.stride or default_stride(params.kernel)}
    return CCTShape(image_size=(height, width), channels=channels, classes=data.classes, **given).spec()


def build_cct(ctx: Context, params: CCTParams) -> Model:
    from harness_timm.models import seeded_model

    return seeded_model(ctx, describe_cct(params, ctx.data.info))


def partition(ctx: Context, model: Model, params: DeViTParams, sketch: Sketch) -> Partition:
    from harness_devit.paper import dekd

    return dekd(ctx, model, params)


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    yield ModelEntry(
        name="cct",
        summary="a Compact Convolutional Transformer by its dimensions (Hassani et al. 2021)",
        params=CCTParams,
        build=build_cct,
        describe=describe_cct,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_partitioners() -> Iterable[PartitionerEntry]:
    yield PartitionerEntry(
        name="devit",
        summary="N small ViTs distilled on shares of the classes, features fused (DeViT, Xu et al. 2023)",
        params=DeViTParams,
        sketch=devit_sketch,
        partition=partition,
        requires=("torch", "timm"),
        extra="bench",
    )
