"""EdgeViT: the first k blocks of a trained ViT, with a new LayerNorm and head, by transfer learning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from harness.hookspecs import hookimpl
from harness.types import CompressorEntry, Context, DataInfo, Model, ModuleSpec, Params
from harness_edgevit.sketch import edgevit_spec

__all__ = ["EdgeViTParams", "compress", "describe", "harness_compressors"]


class EdgeViTParams(Params):
    """The variant of the paper. In Table 3, ``train: head`` is ViT-f, ``all`` is ViT-f-T, ``scratch`` is ViT-n.

    In Table 2, with ``train: head``: (1) ``layer_norm: transfer``; (2) the same with ``train_layer_norm: false``;
    (3) ``train_layer_norm: false``; (4) the defaults.
    """

    blocks: int = Field(ge=1, description="number of first blocks that are kept (k)")
    layer_norm: Literal["reinit", "transfer"] = Field(
        "reinit", description="the last LayerNorm: new (gamma 1, beta 0), or the source's"
    )
    train: Literal["head", "all", "scratch"] = Field(
        "head",
        description="head: train LayerNorm and head, and freeze the rest; all: train everything from the "
        "transferred weights; scratch: train everything from random weights",
    )
    train_layer_norm: bool = Field(True, description="false, with train: head: only the head is trained")
    cache: bool = Field(
        True,
        description="with train: head: true runs the frozen part once per image, without augmentation; "
        "false runs it in every epoch, with the recipe's augmentation",
    )

    @model_validator(mode="after")
    def _an_arm(self) -> EdgeViTParams:
        if self.train != "head" and not self.train_layer_norm:
            raise ValueError(
                "train_layer_norm: false needs train: head (all and scratch train every parameter)"
            )
        if self.train == "scratch" and self.layer_norm == "transfer":
            raise ValueError("layer_norm: transfer needs train: head or all (scratch transfers nothing)")
        return self


def describe(spec: ModuleSpec, params: EdgeViTParams, data: DataInfo) -> ModuleSpec:
    """Return how any process builds the EdgeViT of ``spec``'s ViT for the classes of ``data``.

    Raises:
        ValueError: ``blocks`` is beyond the depth, or the images differ from the source's.
    """
    return edgevit_spec(spec, params.blocks, data)


def compress(ctx: Context, model: Model, params: EdgeViTParams) -> Model:
    """Make the EdgeViT of ``model``. torch is imported here, so that planning does not need it."""
    from harness_edgevit.paper import Arm, edgevit

    arm = Arm(
        blocks=params.blocks,
        layer_norm=params.layer_norm,
        train=params.train,
        train_layer_norm=params.train_layer_norm,
    )
    return edgevit(ctx, model, arm, cache=params.cache, recorded=params.model_dump())


@hookimpl
def harness_compressors() -> Iterable[CompressorEntry]:
    """Yield the compressor ``edgevit``."""
    yield CompressorEntry(
        name="edgevit",
        summary="the first k blocks of a trained ViT with a new LayerNorm and head (Li, Long, Miao 2024)",
        params=EdgeViTParams,
        compress=compress,
        changes=frozenset({"data", "classes"}),
        describe=describe,
        requires=("torch", "timm"),
        extra="bench",
    )
