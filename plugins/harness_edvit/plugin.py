"""ED-ViT: a ViT split by classes into pruned sub-models, and placers that map parts to devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harness.hookspecs import hookimpl
from harness.types import (
    Context,
    Fleet,
    Model,
    ModuleSpec,
    Params,
    Partition,
    PartitionerEntry,
    Placement,
    PlacerEntry,
    Sketch,
    StandIn,
)
from harness_edvit.assignment import Problem, exact, greedy, greedy_as_printed, problem_of
from harness_edvit.sketch import Fusion, Policy, edvit_sketch

__all__ = ["EDViTParams", "PlaceParams", "harness_partitioners", "harness_placers"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EDViTParams(Params):
    """How many sub-models there are, how small, how they are pruned, and how their answers are fused."""

    parts: int = Field(ge=1, le=256, description="number of sub-models (N), at most one per class")
    memory_budget_mb: Positive | None = Field(
        None,
        description="MiB of all sub-models together, float32; by default 0.55 of the source's (180 / 327)",
    )
    hp: int | tuple[int, ...] = Field(
        0,
        description="Algorithm 1's initial hp: heads removed before the loop, of every sub-model or a list of one "
        "number per sub-model",
    )
    policy: Policy = Field(
        "largest-first",
        description="which heads are removed next: one of the largest sub-model (Algorithm 1), or of all, down the "
        "divisors of the source's heads (not in the paper)",
    )
    importance: Literal["kl-exact", "kl-fisher", "random"] = Field(
        "kl-exact",
        description="importance of a unit: the KL divergence when it is left out, the Fisher approximation of that, or a random number",
    )
    proxy: int = Field(8, ge=1, description="training images per class on which importance is measured")
    negatives: int | None = Field(
        None, ge=1, description="images of each foreign class, labelled 0; by default |D| / (10 C) - k"
    )
    epochs: int = Field(4, ge=0, description="epochs of fine-tuning after each of the three pruning stages")
    lr: Positive | None = Field(None, description="learning rate of fine-tuning (default: the recipe's)")
    fusion: Fusion = Field(
        "mlp",
        description="row of Table 3. mlp: an MLP on frozen sub-models; retrain: then all are trained together; average: averaged softmax",
    )
    shrinking: Positive = Field(
        0.5, description="lambda: neurons of the MLP, divided by the number of concatenated features"
    )
    fusion_epochs: int = Field(
        10, ge=0, description="epochs in which the MLP is trained; entire retraining takes as many again"
    )
    missing: StandIn = Field(
        "zeros", description="what stands in for a sub-model that does not answer: zeros, or its mean feature"
    )

    @field_validator("hp", mode="before")
    @classmethod
    def _numbers_of_heads(cls, value: object) -> object:
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(
                f"{value!r} is no number of heads; write 0 or more, or a list with a number per sub-model"
            )
        return value

    @model_validator(mode="after")
    def _hp_is_of_algorithm_1(self) -> EDViTParams:
        if self.policy == "uniform-divisors" and self.hp != 0:
            raise ValueError("hp needs policy: largest-first (uniform-divisors starts from all heads)")
        return self


class PlaceParams(Params):
    """What a device has left, in the order of the fleet's devices."""

    energy_gmacs: tuple[NotNegative, ...] | None = Field(
        None, description="E: 10^9 multiply-accumulates per device; by default as much as all parts need"
    )
    memory_mb: tuple[NotNegative, ...] | None = Field(
        None, description="M: MiB per device; by default the devices' memory"
    )
    samples: int = Field(1, ge=1, description="L: images to be processed")


def sketch_edvit(spec: ModuleSpec | None, params: EDViTParams, fleet: Fleet) -> Sketch:
    """Return the parts of the split model, as small as budget and ``fleet`` demand.

    Raises:
        ValueError: more parts than classes, a budget that nothing fits in, no head left by ``hp``, or a source of
            unknown dimensions.
    """
    return edvit_sketch(
        spec,
        fleet,
        parts=params.parts,
        budget_mb=params.memory_budget_mb,
        hp=params.hp,
        policy=params.policy,
        fusion=params.fusion,
        shrinking=params.shrinking,
    )


def partition_edvit(ctx: Context, model: Model, params: EDViTParams, sketch: Sketch) -> Partition:
    """Split ``model``. torch is imported here, because planning imports this file."""
    from harness_edvit.paper import Settings, edvit
    from harness_edvit.pruning import Pruning

    settings = Settings(
        classes=sketch.decisions["classes"],
        heads=sketch.decisions["heads"],
        pruning=Pruning(
            importance=params.importance,
            proxy=params.proxy,
            negatives=params.negatives,
            epochs=params.epochs,
            lr=params.lr,
        ),
        fusion=params.fusion,
        shrinking=params.shrinking,
        fusion_epochs=params.fusion_epochs,
        missing=params.missing,
        recorded=params.model_dump(),
    )
    return edvit(ctx, model, settings)


def _problem(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Problem:
    return problem_of(
        sketch, fleet, energy_gmacs=params.energy_gmacs, memory_mb=params.memory_mb, samples=params.samples
    )


def place_greedy_as_printed(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Placement:
    """Place the parts of ``sketch`` by :func:`~harness_edvit.assignment.greedy_as_printed`."""
    return greedy_as_printed(_problem(sketch, fleet, params))


def place_greedy(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Placement:
    """Place the parts of ``sketch`` by :func:`~harness_edvit.assignment.greedy`."""
    return greedy(_problem(sketch, fleet, params))


def place_exact(sketch: Sketch, fleet: Fleet, params: PlaceParams) -> Placement:
    """Place the parts of ``sketch`` by :func:`~harness_edvit.assignment.exact`."""
    return exact(_problem(sketch, fleet, params))


@hookimpl
def harness_partitioners() -> Iterable[PartitionerEntry]:
    """Give the partitioner ``edvit``."""
    yield PartitionerEntry(
        name="edvit",
        summary="N sub-models of a ViT, pruned for a share of the classes each, and a fusion MLP (ED-ViT)",
        params=EDViTParams,
        sketch=sketch_edvit,
        partition=partition_edvit,
        requires=("torch", "timm"),
        extra="bench",
    )


@hookimpl
def harness_placers() -> Iterable[PlacerEntry]:
    """Give Algorithm 3 as printed and repaired, and the exact solution of Eq. 1."""
    yield PlacerEntry(
        name="greedy-as-printed",
        summary="ED-ViT's Algorithm 3 as printed; it gives an error if the printed loop loses a part",
        params=PlaceParams,
        place=place_greedy_as_printed,
    )
    yield PlacerEntry(
        name="greedy",
        summary="ED-ViT's Algorithm 3 repaired: if a device cannot take a part, the next device gets it",
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
