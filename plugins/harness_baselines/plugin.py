"""Baselines that every method should be compared with, and a placer that needs no thought."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from harness.hookspecs import hookimpl
from harness.types import (
    CompressorEntry,
    Context,
    DataInfo,
    Fleet,
    Model,
    ModuleSpec,
    Params,
    Partition,
    PartitionerEntry,
    Placement,
    PlacerEntry,
    Sketch,
)
from harness_baselines.shapes import ensemble_sketch, pipeline_sketch, small_shape
from harness_baselines.splitting import class_split_sketch

__all__ = [
    "ClassSplitParams",
    "EnsembleParams",
    "PipelineParams",
    "SmallModelParams",
    "harness_compressors",
    "harness_partitioners",
    "harness_placers",
]


class SmallModelParams(Params):
    """A small ViT from random weights, on all classes, for the training compute of the model in ``from``."""

    dim: int = Field(ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(ge=1, description="blocks")
    heads: int = Field(ge=1, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a block's MLP over dim")
    patch_size: int | None = Field(None, ge=1, description="pixels per side of a patch (the source's)")
    compute: Literal["equal"] | Annotated[float, Field(gt=0)] = Field(
        "equal", description="training compute, in image passes x MACs: equal to the source's, or a multiple"
    )


class EnsembleParams(SmallModelParams):
    """Small ViTs that differ by seed; together they have the training compute of the model in ``from``."""

    members: int = Field(ge=2, le=64, description="how many")


class ClassSplitParams(SmallModelParams):
    """Small ViTs, each for a share of the classes; together they have the training compute of the model in ``from``."""

    parts: int = Field(ge=2, le=256, description="groups of classes (two classes each at least)")
    fusion: Literal["average", "probe"] = Field(
        "average",
        description="averaged softmax, each over its own classes; or a linear layer trained on the frozen features",
    )
    probe_epochs: int = Field(10, ge=1, description="of the probe's training; within the training compute")


class PipelineParams(Params):
    """Where to cut."""

    after: int = Field(ge=1, description="the first part has this many blocks, the second the rest")


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


def partition_pipeline(ctx: Context, model: Model, params: PipelineParams, sketch: Sketch) -> Partition:
    from harness_baselines.pipeline import pipeline

    return pipeline(model, params.after)


def place_round_robin(sketch: Sketch, fleet: Fleet, params: Params) -> Placement:
    """Parts in order over the devices, the round ending with the central one; the answer is given there.

    So a pipeline of two parts uses two devices, and N members on N devices one each.
    """
    *others, last = sketch.parts
    n = len(fleet.devices)
    device_of = {part.name: (fleet.central + 1 + i) % n for i, part in enumerate(others)}
    return Placement(device_of={**device_of, last.name: fleet.central})


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
        name="pipeline",
        summary="a trained ViT cut in two after block k; the same answers",
        params=PipelineParams,
        sketch=pipeline_sketch,
        partition=partition_pipeline,
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
