"""ED-ViT: a ViT split by classes into pruned sub-models, and placers that map parts to devices."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import Context, Model, Partition, PartitionerEntry, PlacerEntry, Sketch
from harness_edvit.assignment import exact, greedy, greedy_as_printed
from harness_edvit.params import EDViTParams, PlaceParams
from harness_edvit.sketch import edvit_sketch

__all__ = ["harness_partitioners", "harness_placers"]


def partition_edvit(ctx: Context, model: Model, params: EDViTParams, sketch: Sketch) -> Partition:
    from harness_edvit.paper import edvit

    return edvit(ctx, model, params, sketch)


@hookimpl
def harness_partitioners() -> Iterable[PartitionerEntry]:
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
