"""ED-ViT: a ViT split by classes into pruned sub-models, and placers that map parts to devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from harness.hookspecs import hookimpl
from harness.types import Context, Model, Params, Partition, PartitionerEntry, PlacerEntry, Sketch
from harness_edvit.assignment import exact, greedy, greedy_as_printed
from harness_edvit.sketch import edvit_sketch

__all__ = ["EDViTParams", "PlaceParams", "harness_partitioners", "harness_placers"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EDViTParams(Params):
    """How many sub-models, how small, pruned by what, and how their answers are fused."""

    parts: int = Field(ge=1, le=256, description="sub-models (N), at most one per class")
    memory_budget_mb: Positive | None = Field(
        None,
        description="MiB of all sub-models together, float32; by default 0.55 of the source's (180 / 327)",
    )
    policy: Literal["largest-first", "uniform-divisors"] = Field(
        "largest-first",
        description="which heads Algorithm 1 removes next: one of the largest sub-model (as printed), or of all, "
        "down the divisors of the source's heads (as the published sizes show)",
    )
    importance: Literal["kl-exact", "kl-fisher", "random"] = Field(
        "kl-exact", description="of a unit: KL when it is left out, its Fisher approximation, or chance"
    )
    proxy: int = Field(8, ge=1, description="training images per class on which importance is measured")
    negatives: int | None = Field(
        None, ge=1, description="images of each foreign class, labelled 0; by default |D| / (10 C) - k"
    )
    epochs: int = Field(4, ge=0, description="of fine-tuning after each of the three pruning stages")
    lr: Positive | None = Field(None, description="of fine-tuning (the recipe's)")
    fusion: Literal["mlp", "retrain", "average"] = Field(
        "mlp", description="Table 3: MLP on frozen sub-models; then all trained together; or averaged softmax"
    )
    shrinking: Positive = Field(0.5, description="lambda: neurons of the MLP over concatenated features")
    fusion_epochs: int = Field(
        10, ge=0, description="of the MLP's training, and again of the entire retraining"
    )
    missing: Literal["zeros", "mean"] = Field(
        "zeros", description="what stands in for a sub-model that does not answer: zeros, or its mean feature"
    )


class PlaceParams(Params):
    """What a device has left, in the order of the fleet's devices."""

    energy_gmacs: tuple[NotNegative, ...] | None = Field(
        None, description="E: 10^9 multiply-accumulates per device; by default as much as all parts need"
    )
    memory_mb: tuple[NotNegative, ...] | None = Field(
        None, description="M: MiB per device; by default the devices' memory"
    )
    samples: int = Field(1, ge=1, description="L: images to be processed")


def partition_edvit(ctx: Context, model: Model, params: EDViTParams, sketch: Sketch) -> Partition:
    """Split ``model``; torch is imported here, not when planning."""
    from harness_edvit.paper import edvit

    return edvit(ctx, model, params, sketch)


@hookimpl
def harness_partitioners() -> Iterable[PartitionerEntry]:
    """Give the partitioner ``edvit``."""
    yield PartitionerEntry(
        name="edvit",
        summary="N sub-models of a ViT, pruned for a share of the classes each, and a fusion MLP (ED-ViT)",
        params=EDViTParams,
        sketch=edvit_sketch,
        partition=partition_edvit,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_placers() -> Iterable[PlacerEntry]:
    """Give Algorithm 3 as printed and repaired, and the exact solution of Eq. 1."""
    yield PlacerEntry(
        name="greedy-as-printed",
        summary="ED-ViT's Algorithm 3 to the letter; refuses where that loses a part",
        params=PlaceParams,
        place=greedy_as_printed,
    )
    yield PlacerEntry(
        name="greedy",
        summary="ED-ViT's Algorithm 3 repaired: a part that a device cannot take goes to the next",
        params=PlaceParams,
        place=greedy,
    )
    yield PlacerEntry(
        name="exact",
        summary="ED-ViT's Eq. 1 solved as a mixed-integer program (HiGHS)",
        params=PlaceParams,
        place=exact,
        requires=("scipy",),
        extra="bench",
    )
