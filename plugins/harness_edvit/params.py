"""The parameters of ED-ViT and of its placers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.types import Params

__all__ = ["EDViTParams", "PlaceParams"]


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
