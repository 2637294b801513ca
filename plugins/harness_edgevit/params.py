"""The parameters of EdgeViT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.types import Params

__all__ = ["EdgeViTParams"]


class EdgeViTParams(Params):
    """Which arm of the paper. Table 3: ``train: head`` is ViT-f, ``all`` ViT-f-T, ``scratch`` ViT-n.

    Table 2, with ``train: head``: (1) ``layer_norm: transfer``; (2) that and ``train_layer_norm: false``;
    (3) ``train_layer_norm: false``; (4) the defaults.
    """

    blocks: int = Field(ge=1, description="how many of the first blocks are kept (k)")
    layer_norm: Literal["reinit", "transfer"] = Field(
        "reinit", description="the last LayerNorm: new (gamma 1, beta 0), or the source's"
    )
    train: Literal["head", "all", "scratch"] = Field(
        "head",
        description="head: LayerNorm and head, the rest frozen; all: everything, from the transferred "
        "weights; scratch: everything, from random weights",
    )
    train_layer_norm: bool = Field(True, description="false: with train: head, the head alone is trained")
    cache: bool = Field(
        True,
        description="with train: head, run the frozen part once per image, without augmentation; "
        "false: in every epoch, under the recipe's augmentation",
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
