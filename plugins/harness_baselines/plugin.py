"""Baselines that every method should be compared with, and a placer that needs no thought."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import (
    CompressorEntry,
    Context,
    DataInfo,
    Fleet,
    Model,
    ModelEntry,
    ModuleSpec,
    Params,
    Partition,
    PartitionerEntry,
    Placement,
    PlacerEntry,
    Sketch,
)
from harness_baselines.neurosurgeon import neurosurgeon_sketch
from harness_baselines.params import (
    ClassSplitParams,
    EnsembleParams,
    NeurosurgeonParams,
    NNFacetParams,
    PipelineParams,
    SmallModelParams,
    VGGParams,
)
from harness_baselines.sketch import ensemble_sketch, pipeline_sketch, small_shape
from harness_baselines.splitting import class_split_sketch, nnfacet_sketch
from harness_baselines.vgg_sketch import VGGShape

__all__ = ["harness_compressors", "harness_models", "harness_partitioners", "harness_placers"]


def describe_vgg(params: VGGParams, data: DataInfo) -> ModuleSpec:
    channels, height, width = data.shape
    shape = VGGShape(
        image_size=(height, width), channels=channels, classes=data.classes, stages=params.stages
    )
    return shape.spec()


def build_vgg(ctx: Context, params: VGGParams) -> Model:
    from harness_timm.models import seeded_model

    return seeded_model(ctx, describe_vgg(params, ctx.data.info))


def describe_small(spec: ModuleSpec, params: SmallModelParams, data: DataInfo) -> ModuleSpec:
    return small_shape(spec, params, data.shape, data.classes).spec()


def compress_small(ctx: Context, model: Model, params: SmallModelParams) -> Model:
    from harness_baselines.small import small_model

    return small_model(ctx, model, params)


def partition_ensemble(ctx: Context, model: Model, params: EnsembleParams, sketch: Sketch) -> Partition:
    from harness_baselines.small import ensemble

    return ensemble(ctx, model, params)


def partition_class_split(ctx: Context, model: Model, params: ClassSplitParams, sketch: Sketch) -> Partition:
    from harness_baselines.class_split import class_split

    return class_split(ctx, model, params)


def partition_nnfacet(ctx: Context, model: Model, params: NNFacetParams, sketch: Sketch) -> Partition:
    from harness_baselines.nnfacet import nnfacet

    return nnfacet(ctx, model, params)


def partition_pipeline(ctx: Context, model: Model, params: PipelineParams, sketch: Sketch) -> Partition:
    from harness_baselines.pipeline import pipeline

    return pipeline(model, params.after)


def partition_neurosurgeon(
    ctx: Context, model: Model, params: NeurosurgeonParams, sketch: Sketch
) -> Partition:
    from harness_baselines.pipeline import neurosurgeon

    return neurosurgeon(model, params.model_dump(mode="json"), sketch)


def place_round_robin(sketch: Sketch, fleet: Fleet, params: Params) -> Placement:
    """Parts in order over the devices, the round ending with the central one; the answer is given there.

    So a pipeline of two parts uses two devices, and N members on N devices one each.
    """
    *others, last = sketch.parts
    n = len(fleet.devices)
    device_of = {part.name: (fleet.central + 1 + i) % n for i, part in enumerate(others)}
    return Placement(device_of={**device_of, last.name: fleet.central})


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    yield ModelEntry(
        name="vgg",
        summary="a VGG by its dimensions, with BatchNorm and a linear head: what NNFacet splits",
        params=VGGParams,
        build=build_vgg,
        describe=describe_vgg,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_compressors() -> Iterable[CompressorEntry]:
    yield CompressorEntry(
        name="small-model",
        summary="one small ViT on all classes, trained from scratch with the source's training compute",
        params=SmallModelParams,
        compress=compress_small,
        describe=describe_small,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_partitioners() -> Iterable[PartitionerEntry]:
    yield PartitionerEntry(
        name="ensemble",
        summary="N small ViTs on all classes, logits averaged; together the source's training compute",
        params=EnsembleParams,
        sketch=ensemble_sketch,
        partition=partition_ensemble,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="class-split",
        summary="N small ViTs from scratch, each on its share of the classes; together the source's training compute",
        params=ClassSplitParams,
        sketch=class_split_sketch,
        partition=partition_class_split,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="nnfacet",
        summary="N sub-models of a VGG, of the filters that matter to a share of the classes each (as NNFacet does)",
        params=NNFacetParams,
        sketch=nnfacet_sketch,
        partition=partition_nnfacet,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="pipeline",
        summary="a trained ViT cut in two after block k; the same answers",
        params=PipelineParams,
        sketch=pipeline_sketch,
        partition=partition_pipeline,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="neurosurgeon",
        summary="a trained ViT cut where two devices' profiles and their link give the least latency",
        params=NeurosurgeonParams,
        sketch=neurosurgeon_sketch,
        partition=partition_neurosurgeon,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_placers() -> Iterable[PlacerEntry]:
    yield PlacerEntry(
        name="round-robin",
        summary="parts in order over the devices; the answer on the central one",
        place=place_round_robin,
    )
