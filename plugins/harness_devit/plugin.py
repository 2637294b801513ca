"""DeViT: a trained ViT decomposed by classes into small ViTs, whose features are fused (DEKD).

CCT, one of the families of ViTs that its paper decomposes, is a model builder here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.hookspecs import hookimpl
from harness.types import (
    Context,
    DataInfo,
    Model,
    ModelEntry,
    ModuleSpec,
    Params,
    Partition,
    PartitionerEntry,
    Sketch,
)
from harness_devit.cct_sketch import CCTShape, Position, default_stride
from harness_devit.sketch import devit_sketch

__all__ = ["CCTParams", "DeViTParams", "StageRecipe", "harness_models", "harness_partitioners"]


class StageRecipe(Params):
    """What one training stage does otherwise than the suite's ``train`` block."""

    epochs: int | None = Field(None, ge=0, description="passes over the stage's data")
    lr: float | None = Field(None, gt=0, description="greatest learning rate")
    batch_size: int | None = Field(None, ge=1, description="samples per update")
    weight_decay: float | None = Field(None, ge=0, description="not applied to biases and norms")
    clip_grad: float | None = Field(None, gt=0, description="greatest norm of all gradients together")

    def overrides(self) -> dict[str, Any]:
        """Return the keys that are set, for ``ctx.fit``."""
        return self.model_dump(exclude_none=True)


class DeViTParams(Params):
    """The sub-models' size, and the readings and ablations of the paper.

    Tables VII and VIII: ``[truth]``, ``[prediction]``, ``[truth, feature]`` or ``[truth, token]``, and the
    defaults. Table IX: ``fusion``.
    """

    parts: int = Field(4, ge=1, le=64, description="sub-models (N), each with a share of the classes")
    dim: int = Field(ge=1, description="channels of a sub-model's token (D_s); a multiple of heads")
    heads: int = Field(ge=1, description="attention heads of a sub-model (h_s)")
    depth: int | None = Field(
        None, ge=1, description="blocks of a sub-model (L_s); default: half the teacher's"
    )
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a sub-model's MLP (d_s) over dim")
    init: Literal["teacher-slice", "random"] = Field(
        "teacher-slice", description="a sub-model starts as the important parts of its teacher, or at random"
    )
    importance: Literal["taylor", "hsic", "random"] = Field(
        "taylor",
        description="how teacher-slice ranks heads and neurons: Eq. 5 to 7, the authors' code (what they tell of the "
        "prediction), or drawn",
    )
    held_out: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of each class's training images that a sub-teacher does not see: importance is taken on it",
    )
    fm: Literal["code", "paper"] = Field(
        "code", description="feature matching: the authors' code (tokens, one layer), or Fig. 6 and Eq. 12"
    )
    alpha: tuple[float, float, float] = Field((0.2, 0.1, 0.3), description="weights of Q, K, V (Eq. 12)")
    beta: float = Field(1.0, ge=0, description="weight of the feature loss (Eq. 8)")
    gamma: float = Field(1.0, ge=0, description="weight of the token loss (Eq. 14)")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of distillation's cross-entropies")
    sub_losses: tuple[Literal["truth", "prediction", "feature"], ...] = Field(
        ("prediction", "feature"), description="of sub-task distillation (Table VII)"
    )
    ensemble_losses: tuple[Literal["truth", "prediction", "token"], ...] = Field(
        ("prediction", "token"), description="of the ensemble stage (Table VIII)"
    )
    fusion: Literal["linear", "concat", "attention", "senet", "mlp"] = Field(
        "linear",
        description="how features are aggregated (Table IX); linear is the paper's own, concat (no layer before "
        "the head) that of DeCCTs' published count",
    )
    fa: Literal["code", "paper"] = Field(
        "code", description="linear and mlp: one layer before the head (the authors' code), or two (Eq. 3)"
    )
    width: int | None = Field(
        None, ge=1, description="linear and mlp: D_t of Eq. 3; default: the teacher's dim"
    )
    missing: Literal["zeros", "mean"] = Field(
        "zeros", description="what stands in for a sub-model that does not answer: zeros, or its mean feature"
    )
    teacher_stage: StageRecipe = Field(StageRecipe(), description="training of the sub-teachers")
    sub_stage: StageRecipe = Field(StageRecipe(), description="sub-task distillation")
    ensemble_stage: StageRecipe = Field(StageRecipe(), description="training of the ensemble")

    @field_validator("alpha")
    @classmethod
    def _not_negative(cls, alpha: tuple[float, ...]) -> tuple[float, ...]:
        if min(alpha) < 0:
            raise ValueError("weights of a loss are not negative")
        return alpha

    @field_validator("sub_losses", "ensemble_losses")
    @classmethod
    def _trains_a_head(cls, losses: tuple[str, ...]) -> tuple[str, ...]:
        if ("truth" in losses) == ("prediction" in losses):
            raise ValueError(
                "needs truth (labels) or prediction (labels and the teacher's, Eq. 10), not both: "
                "a feature or token loss alone trains no classifier"
            )
        return losses


class CCTParams(Params):
    """A CCT by its dimensions, CCT-{depth}/{kernel}x{convs}; image size, channels and classes are the data set's."""

    kernel: int = Field(3, ge=1, description="pixels per side of the tokenizer's convolutions; odd")
    convs: int = Field(1, ge=1, le=8, description="its convolutions, each followed by a pooling that halves")
    stride: int | None = Field(
        None, ge=1, description="of each convolution; default: kernel // 2 - 1, at least 1"
    )
    conv_dim: int = Field(64, ge=1, description="channels of the convolutions before the last")
    dim: int = Field(ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(ge=1, description="blocks")
    heads: int = Field(ge=1, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a block's MLP over dim")
    position: Position = Field("learnable", description="position embedding: learnable, sinusoidal or none")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth at the last block")


def describe_cct(params: CCTParams, data: DataInfo) -> ModuleSpec:
    """Return the CCT for the images and classes of ``data``.

    Raises:
        ValueError: the dimensions do not fit one another.
    """
    channels, height, width = data.shape
    sizes = {**params.model_dump(), "stride": params.stride or default_stride(params.kernel)}
    return CCTShape(image_size=(height, width), channels=channels, classes=data.classes, **sizes).spec()


def build_cct(ctx: Context, params: CCTParams) -> Model:
    """Build the CCT with random weights; torch is imported here, not when planning."""
    from harness_timm.models import seeded_model

    return seeded_model(ctx, describe_cct(params, ctx.data.info))


def partition(ctx: Context, model: Model, params: DeViTParams, sketch: Sketch) -> Partition:
    """Decompose ``model``; torch is imported here, not when planning."""
    from harness_devit.paper import dekd

    return dekd(ctx, model, params)


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    """Give the model builder ``cct``."""
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
    """Give the partitioner ``devit``."""
    yield PartitionerEntry(
        name="devit",
        summary="N small ViTs distilled on shares of the classes, features fused (DeViT, Xu et al. 2023)",
        params=DeViTParams,
        sketch=devit_sketch,
        partition=partition,
        requires=("torch", "timm"),
        extra="bench",
    )
