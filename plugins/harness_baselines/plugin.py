"""Baselines with which every method should be compared, and the placer ``round-robin``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator

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
from harness_baselines.sketch import (
    SmallSize,
    class_split_sketch,
    ensemble_sketch,
    nnfacet_sketch,
    pipeline_sketch,
    small_shape,
)
from harness_baselines.vgg_sketch import VGGShape

__all__ = [
    "ClassSplitParams",
    "EnsembleParams",
    "NNFacetParams",
    "NeurosurgeonParams",
    "PipelineParams",
    "SmallModelParams",
    "VGGParams",
    "harness_compressors",
    "harness_models",
    "harness_partitioners",
    "harness_placers",
]


# --- parameters -----------------------------------------------------------------------------------


class SmallModelParams(Params):
    """A small ViT on all classes, trained from random weights with the training compute of the model in ``from``."""

    dim: int = Field(ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(ge=1, description="number of blocks")
    heads: int = Field(ge=1, description="number of attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a block's MLP, divided by dim")
    patch_size: int | None = Field(
        None, ge=1, description="pixels per side of a patch (default: the source's)"
    )
    compute: Literal["equal"] | Annotated[float, Field(gt=0)] = Field(
        "equal",
        description="training compute, in image passes x MACs: equal to the source's, or a multiple of it",
    )

    def size(self) -> SmallSize:
        """Return the dimensions."""
        return SmallSize(
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            patch_size=self.patch_size,
        )


class EnsembleParams(SmallModelParams):
    """Small ViTs that differ by seed. Together they use the training compute of the model in ``from``."""

    members: int = Field(ge=2, le=64, description="number of small models")


class ClassSplitParams(SmallModelParams):
    """Small ViTs, each for a group of classes. Together they use the training compute of the model in ``from``."""

    parts: int = Field(
        ge=2, le=256, description="number of groups of classes; each group has at least two classes"
    )
    fusion: Literal["average", "probe"] = Field(
        "average",
        description="average: the softmax of each model over its own classes, averaged; probe: a linear layer that is trained on the frozen features",
    )
    probe_epochs: int = Field(
        10, ge=1, description="epochs in which the probe is trained; the training compute includes them"
    )


class PipelineParams(Params):
    """The place of the cut."""

    after: int = Field(ge=1, description="number of blocks of the first part; the second part has the rest")


class VGGParams(Params):
    """A VGG by its dimensions. Image size, channels and classes come from the data set."""

    stages: tuple[tuple[Annotated[int, Field(ge=1)], ...], ...] = Field(
        min_length=1,
        description="filters of each 3x3 convolution, by stage; each stage ends with a 2x2 max pooling",
    )

    @field_validator("stages")
    @classmethod
    def _convolutions(cls, stages: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        if not all(stages):
            raise ValueError("a stage has no convolution")
        return stages


class NNFacetParams(Params):
    """The number of sub-models, the share of the VGG that each keeps, and their training."""

    parts: int = Field(ge=2, le=256, description="number of sub-models, at most one per class")
    keep: float = Field(
        0.5, gt=0, le=1, description="share of each convolution's filters that a sub-model keeps"
    )
    negatives: int | None = Field(
        None, ge=1, description="images of each foreign class, labelled 0; by default |D| / (10 C) - k"
    )
    epochs: int = Field(4, ge=0, description="epochs in which a sub-model is fine-tuned")
    hidden: int = Field(128, ge=1, description="neurons of the perceptron that fuses the sub-models")
    fusion_epochs: int = Field(10, ge=0, description="epochs in which the perceptron is trained")


class NeurosurgeonParams(Params):
    """The link between the two devices, if it shall differ from their profiles. The method chooses the cut."""

    rate_mbps: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="rate of the link in 10^6 bits per second, in place of the rate that the devices state",
    )
    rtt_ms: float | None = Field(
        None,
        ge=0,
        le=60_000,
        description="round-trip time of the link in milliseconds, in place of the time that the devices state",
    )


# --- entries --------------------------------------------------------------------------------------
# torch is imported inside the functions, not when planning


def describe_vgg(params: VGGParams, data: DataInfo) -> ModuleSpec:
    """Return the VGG for the images and classes of ``data``."""
    channels, height, width = data.shape
    shape = VGGShape(
        image_size=(height, width), channels=channels, classes=data.classes, stages=params.stages
    )
    return shape.spec()


def build_vgg(ctx: Context, params: VGGParams) -> Model:
    """Build the VGG with random weights."""
    from harness_timm.models import seeded_model

    return seeded_model(ctx, describe_vgg(params, ctx.data.info))


def describe_small(spec: ModuleSpec, params: SmallModelParams, data: DataInfo) -> ModuleSpec:
    """Return the small ViT for the images and classes of ``data``."""
    return small_shape(spec, params.size(), data.shape, data.classes).spec()


def compress_small(ctx: Context, model: Model, params: SmallModelParams) -> Model:
    """Train the small ViT and return it."""
    from harness_baselines.small import small_model

    return small_model(ctx, model, params.size(), params.compute, params.model_dump())


def sketch_ensemble(spec: ModuleSpec | None, params: EnsembleParams, fleet: Fleet) -> Sketch:
    """Return the members and their mean."""
    return ensemble_sketch(spec, params.size(), params.members)


def partition_ensemble(ctx: Context, model: Model, params: EnsembleParams, sketch: Sketch) -> Partition:
    """Train the members of the ensemble and return them with their mean."""
    from harness_baselines.small import ensemble

    return ensemble(ctx, model, params.size(), params.compute, params.members, params.model_dump())


def sketch_class_split(spec: ModuleSpec | None, params: ClassSplitParams, fleet: Fleet) -> Sketch:
    """Return the small ViTs and their fusion."""
    return class_split_sketch(spec, params.size(), params.parts, probed=params.fusion == "probe")


def partition_class_split(ctx: Context, model: Model, params: ClassSplitParams, sketch: Sketch) -> Partition:
    """Train a small ViT on each group of classes, and their fusion."""
    from harness_baselines.class_split import class_split

    return class_split(
        ctx,
        model,
        params.size(),
        params.compute,
        parts=params.parts,
        fusion=params.fusion,
        probe_epochs=params.probe_epochs,
        recorded=params.model_dump(),
    )


def sketch_nnfacet(spec: ModuleSpec | None, params: NNFacetParams, fleet: Fleet) -> Sketch:
    """Return the sub-models of the VGG and their fusion."""
    return nnfacet_sketch(spec, params.parts, keep=params.keep, hidden=params.hidden)


def partition_nnfacet(ctx: Context, model: Model, params: NNFacetParams, sketch: Sketch) -> Partition:
    """Split the VGG by classes, and train the sub-models and their fusion."""
    from harness_baselines.nnfacet import nnfacet

    return nnfacet(
        ctx,
        model,
        parts=params.parts,
        keep=params.keep,
        negatives=params.negatives,
        epochs=params.epochs,
        hidden=params.hidden,
        fusion_epochs=params.fusion_epochs,
        recorded=params.model_dump(),
    )


def sketch_pipeline(spec: ModuleSpec | None, params: PipelineParams, fleet: Fleet) -> Sketch:
    """Return the two parts of the ViT."""
    return pipeline_sketch(spec, params.after)


def partition_pipeline(ctx: Context, model: Model, params: PipelineParams, sketch: Sketch) -> Partition:
    """Cut the ViT in two."""
    from harness_baselines.pipeline import pipeline

    return pipeline(model, params.after)


def sketch_neurosurgeon(spec: ModuleSpec | None, params: NeurosurgeonParams, fleet: Fleet) -> Sketch:
    """Return the parts of the best cut, each with its device of ``fleet``."""
    return neurosurgeon_sketch(spec, fleet, rate_mbps=params.rate_mbps, rtt_ms=params.rtt_ms)


def partition_neurosurgeon(
    ctx: Context, model: Model, params: NeurosurgeonParams, sketch: Sketch
) -> Partition:
    """Cut the ViT as the sketch decided."""
    from harness_baselines.pipeline import neurosurgeon

    return neurosurgeon(model, params.model_dump(mode="json"), sketch)


def place_round_robin(sketch: Sketch, fleet: Fleet, params: Params) -> Placement:
    """Place the last part on the central device, and the others in order over the devices after it.

    So a pipeline of two parts uses two devices, and N members on N devices use one each.
    """
    *others, last = sketch.parts
    n = len(fleet.devices)
    device_of = {part.name: (fleet.central + 1 + i) % n for i, part in enumerate(others)}
    return Placement(device_of={**device_of, last.name: fleet.central})


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    """Yield the model builder ``vgg``."""
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
    """Yield the compressor ``small-model``."""
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
    """Yield the partitioners ``ensemble``, ``class-split``, ``nnfacet``, ``pipeline`` and ``neurosurgeon``."""
    yield PartitionerEntry(
        name="ensemble",
        summary="N small ViTs on all classes, whose logits are averaged; all together take the source's training compute",
        params=EnsembleParams,
        sketch=sketch_ensemble,
        partition=partition_ensemble,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="class-split",
        summary="N small ViTs from scratch, each on its share of the classes; all together take the source's training compute",
        params=ClassSplitParams,
        sketch=sketch_class_split,
        partition=partition_class_split,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="nnfacet",
        summary="N sub-models of a VGG; each keeps the filters that matter to its share of the classes (as NNFacet does)",
        params=NNFacetParams,
        sketch=sketch_nnfacet,
        partition=partition_nnfacet,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="pipeline",
        summary="a trained ViT cut in two after block k; its answers do not change",
        params=PipelineParams,
        sketch=sketch_pipeline,
        partition=partition_pipeline,
        requires=("torch", "timm"),
        extra="bench",
    )
    yield PartitionerEntry(
        name="neurosurgeon",
        summary="a trained ViT cut where two devices' profiles and their link give the least latency",
        params=NeurosurgeonParams,
        sketch=sketch_neurosurgeon,
        partition=partition_neurosurgeon,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_placers() -> Iterable[PlacerEntry]:
    """Yield the placer ``round-robin``."""
    yield PlacerEntry(
        name="round-robin",
        summary="assigns the parts to the devices in order; the last part goes to the central device",
        place=place_round_robin,
    )
