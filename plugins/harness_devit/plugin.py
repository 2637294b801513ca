"""DeViT: a trained ViT decomposed by classes into small ViTs, whose features are fused (DEKD).

CCT, one of the families of ViTs that its paper decomposes, is a model builder here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.hookspecs import hookimpl
from harness.types import (
    Context,
    Fleet,
    Model,
    ModelEntry,
    ModuleSpec,
    Params,
    Partition,
    PartitionerEntry,
    Sketch,
    StandIn,
)
from harness_devit.cct_builder import CCTParams, build_cct, cct_files, cct_weights, describe_cct
from harness_devit.given import Given, check_given
from harness_devit.sketch import Aggregation, Criterion, Shapes, decompose, devit_sketch

__all__ = [
    "CCTParams",
    "DeViTParams",
    "StageRecipe",
    "describe_cct",
    "harness_models",
    "harness_partitioners",
]


class StageRecipe(Params):
    """What one training stage changes of the suite's ``train`` block."""

    epochs: int | None = Field(None, ge=0, description="passes over the stage's data")
    lr: float | None = Field(None, gt=0, description="greatest learning rate")
    batch_size: int | None = Field(None, ge=1, description="samples per update")
    weight_decay: float | None = Field(
        None, ge=0, description="weight decay; it is not applied to biases and norms"
    )
    clip_grad: float | None = Field(None, gt=0, description="greatest norm of all gradients together")

    def overrides(self) -> dict[str, Any]:
        """Return the keys that are set, as keywords of ``ctx.fit``."""
        return self.model_dump(exclude_none=True)


class DeViTParams(Params):
    """The size of the sub-models, and the readings and ablations of the paper.

    The rows of Tables VII and VIII are ``[truth]``, ``[prediction]``, ``[truth, feature]`` or ``[truth, token]``, and
    the defaults. Those of Table IX are values of ``fusion``.
    """

    parts: int = Field(
        4, ge=1, le=64, description="number of sub-models (N); each has a share of the classes"
    )
    dim: int = Field(ge=1, description="channels of a sub-model's token (D_s); a multiple of heads")
    heads: int = Field(ge=1, description="number of attention heads of a sub-model (h_s)")
    depth: int | None = Field(
        None, ge=1, description="number of blocks of a sub-model (L_s); default: half of the teacher's"
    )
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a sub-model's MLP (d_s), divided by dim")
    drop_path_rate: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth at a sub-model's last block, in training"
    )
    init: Literal["teacher-slice", "random", "given"] = Field(
        "teacher-slice",
        description="teacher-slice: a sub-model starts as the important parts of its teacher; random: it starts at "
        "random; given: all start with pretrained or weights, apart from the head (Algorithm 2, line 1)",
    )
    pretrained: str | None = Field(
        None,
        min_length=1,
        description="init given: a timm model of the sub-models' shape, whose pretrained weights they start with",
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="init given: file (safetensors) of a model of the sub-models' shape, such as a trained vit or cct",
    )
    importance: Criterion = Field(
        "taylor",
        description="how teacher-slice ranks heads and neurons: Eq. 5 to 7, the authors' code (dependence of their "
        "outputs and the prediction), or at random",
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of each class's training images that a sub-teacher does not see; importance is measured on "
        "them; 0: a sub-teacher sees all, where no importance is measured",
    )
    fm: Literal["code", "paper"] = Field(
        "code", description="feature matching: the authors' code (tokens, one layer), or Fig. 6 and Eq. 12"
    )
    alpha: tuple[float, float, float] = Field((0.2, 0.1, 0.3), description="weights of Q, K, V (Eq. 12)")
    beta: float = Field(1.0, ge=0, description="weight of the feature loss (Eq. 8)")
    gamma: float = Field(1.0, ge=0, description="weight of the token loss (Eq. 14)")
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="label smoothing of the cross-entropies in distillation"
    )
    sub_losses: tuple[Literal["truth", "prediction", "feature"], ...] = Field(
        ("prediction", "feature"), description="losses of sub-task distillation (Table VII)"
    )
    ensemble_losses: tuple[Literal["truth", "prediction", "token"], ...] = Field(
        ("prediction", "token"), description="losses of the ensemble stage (Table VIII)"
    )
    fusion: Aggregation = Field(
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
    missing: StandIn = Field(
        "zeros", description="what stands in for a sub-model that does not answer: zeros, or its mean feature"
    )
    teacher_stage: StageRecipe = Field(
        StageRecipe(), description="recipe of the training of the sub-teachers"
    )
    sub_stage: StageRecipe = Field(StageRecipe(), description="recipe of sub-task distillation")
    ensemble_stage: StageRecipe = Field(StageRecipe(), description="recipe of the training of the ensemble")

    @field_validator("alpha")
    @classmethod
    def _not_negative(cls, alpha: tuple[float, ...]) -> tuple[float, ...]:
        if min(alpha) < 0:
            raise ValueError("weights of a loss are not negative")
        return alpha

    @model_validator(mode="after")
    def _one_start(self) -> DeViTParams:
        if (self.pretrained is not None) + (self.weights is not None) != (self.init == "given"):
            raise ValueError(
                "init: given needs pretrained or weights, one of them; other starts take neither"
            )
        return self

    @model_validator(mode="after")
    def _images_for_importance(self) -> DeViTParams:
        if self.held_out == 0 and self.init == "teacher-slice" and self.importance != "random":
            raise ValueError(
                "held_out: 0 leaves no images on which importance is measured; init: given or random needs none"
            )
        return self

    @property
    def given(self) -> Given | None:
        """Return the weights that sub-models start with, or None if they start otherwise."""
        if self.init != "given":
            return None
        return Given(model=self.pretrained, file=None if self.weights is None else Path(self.weights))

    @field_validator("sub_losses", "ensemble_losses")
    @classmethod
    def _trains_a_head(cls, losses: tuple[str, ...]) -> tuple[str, ...]:
        if ("truth" in losses) == ("prediction" in losses):
            raise ValueError(
                "needs truth (labels) or prediction (labels and the teacher's, Eq. 10), not both: "
                "a feature or token loss alone trains no classifier"
            )
        return losses


def shapes_of(spec: ModuleSpec | None, params: DeViTParams) -> Shapes:
    """Return the dimensions of what ``params`` make of the teacher that ``spec`` builds.

    Raises:
        ValueError: a teacher of another family, more parts than classes, or dimensions or given weights that do not
            fit.
    """
    shapes = decompose(
        spec,
        parts=params.parts,
        dim=params.dim,
        heads=params.heads,
        depth=params.depth,
        mlp_ratio=params.mlp_ratio,
        drop_path_rate=params.drop_path_rate,
        sliced=params.init == "teacher-slice",
        matched=params.fm == "paper",
        fusion=params.fusion,
        fa=params.fa,
        width=params.width,
    )
    if params.given is not None:
        check_given(params.given, shapes.sub)
    return shapes


def weight_files(params: DeViTParams) -> tuple[Path, ...]:
    """Return the files that ``params`` name."""
    return () if params.weights is None else (Path(params.weights),)


def sketch(spec: ModuleSpec | None, params: DeViTParams, fleet: Fleet) -> Sketch:
    """Return the parts of the decomposed teacher; the devices of ``fleet`` change nothing.

    Raises:
        ValueError: as :func:`shapes_of`.
    """
    return devit_sketch(shapes_of(spec, params))


def partition(ctx: Context, model: Model, params: DeViTParams, sketch: Sketch) -> Partition:
    """Decompose ``model``. torch is imported here, because planning imports this file."""
    from harness_devit.distillation import Distillation
    from harness_devit.ensemble import Ensembling
    from harness_devit.paper import Settings, dekd

    settings = Settings(
        shapes=shapes_of(model.spec, params),
        held_out=params.held_out,
        criterion=params.importance if params.init == "teacher-slice" else None,
        given=params.given,
        teacher_recipe=params.teacher_stage.overrides(),
        distillation=Distillation(
            terms=params.sub_losses,
            fm=params.fm,
            alpha=params.alpha,
            beta=params.beta,
            smoothing=params.label_smoothing,
            recipe=params.sub_stage.overrides(),
        ),
        ensembling=Ensembling(
            terms=params.ensemble_losses,
            gamma=params.gamma,
            smoothing=params.label_smoothing,
            recipe=params.ensemble_stage.overrides(),
        ),
        missing=params.missing,
        recorded=params.model_dump(mode="json"),
    )
    return dekd(ctx, model, settings)


@hookimpl
def harness_models() -> Iterable[ModelEntry]:
    """Give the model builder ``cct``."""
    yield ModelEntry(
        name="cct",
        summary="a Compact Convolutional Transformer by its dimensions (Hassani et al. 2021)",
        params=CCTParams,
        files=cct_files,
        build=build_cct,
        describe=describe_cct,
        weights=cct_weights,
        requires=("torch", "timm", "safetensors"),
        extra="bench",
    )


@hookimpl
def harness_partitioners() -> Iterable[PartitionerEntry]:
    """Give the partitioner ``devit``."""
    yield PartitionerEntry(
        name="devit",
        summary="N small ViTs, each distilled on a share of the classes; their features are fused (DeViT, Xu et al. 2023)",
        params=DeViTParams,
        files=weight_files,
        sketch=sketch,
        partition=partition,
        requires=("torch", "timm", "safetensors"),
        extra="bench",
    )
