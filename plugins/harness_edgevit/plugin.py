"""EdgeViT: the first k blocks of a trained ViT, with a new LayerNorm and head, by transfer learning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from harness.hookspecs import hookimpl
from harness.types import CompressorEntry, Context, DataInfo, Model, ModuleSpec, Params
from harness_timm.vit import ViTShape, truncated_spec

__all__ = ["EdgeViTParams", "describe", "harness_compressors"]


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


def describe(spec: ModuleSpec, params: EdgeViTParams, data: DataInfo) -> ModuleSpec:
    """The EdgeViT of ``spec``'s ViT for the classes of ``data``.

    Raises:
        ValueError: ``blocks`` is beyond the depth, or the images differ from the source's.
    """
    shape = ViTShape.from_spec(spec)
    if shape:
        check_images((shape.channels, *shape.image_size), data)
    return truncated_spec(spec, params.blocks, data.classes)


def check_images(source: tuple[int, ...], data: DataInfo) -> None:
    """Only classes and pixels may differ between cloud and edge.

    Raises:
        ValueError: shape [channels, height, width] of the source's images is not that of ``data``.
    """
    if tuple(source) != tuple(data.shape):
        raise ValueError(
            f"edgevit keeps the source's embedding, made for images of shape {tuple(source)}, but those of "
            f"{data.name!r} are {tuple(data.shape)}: set image_size, or train the source on such images"
        )


def compress(ctx: Context, model: Model, params: EdgeViTParams) -> Model:
    from harness_edgevit.method import edgevit

    return edgevit(ctx, model, params)


@hookimpl
def harness_compressors() -> Iterable[CompressorEntry]:
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
