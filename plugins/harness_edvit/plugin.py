"""ED-ViT: a ViT split by classes into pruned sub-models, and placers that map parts to devices."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import (
    Context,
    Fleet,
    Model,
    Partition,
    PartitionerEntry,
    Placement,
    PlacerEntry,
    Sketch,
)
from harness_edvit.params import EDViTParams, PlaceParams
from harness_edvit.placement import exact, greedy, greedy_as_printed
from harness_edvit.splitting import edvit_sketch

__all__ = ["harness_partitioners", "harness_placers"]


def partition_edvit(ctx: Context, model: Model, params: EDViTParams, sketch: Sketch) -> Partition:
    from harness_edvit.method import edvit

    return edvit(ctx, model, params, sketch)


def place_printed(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Placement:
    return greedy_as_printed(sketch, fleet, params)


def place_greedy(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Placement:
    return greedy(sketch, fleet, params)


def place_exact(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Placement:
    return exact(sketch, fleet, params)


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
        place=place_printed,
    )
    yield PlacerEntry(
        name="greedy",
        summary="ED-ViT's Algorithm 3 repaired: a part that a device cannot take goes to the next",
        params=PlaceParams,
        place=place_greedy,
    )
    yield PlacerEntry(
        name="exact",
        summary="ED-ViT's Eq. 1 solved as a mixed-integer program (HiGHS)",
        params=PlaceParams,
        place=place_exact,
        requires=("scipy",),
        extra="bench",
    )
