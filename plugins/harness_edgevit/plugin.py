"""EdgeViT: the first k blocks of a trained ViT, with a new LayerNorm and head, by transfer learning."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import CompressorEntry, Context, Model
from harness_edgevit.params import EdgeViTParams
from harness_edgevit.sketch import describe

__all__ = ["harness_compressors"]


def compress(ctx: Context, model: Model, params: EdgeViTParams) -> Model:
    from harness_edgevit.paper import edgevit

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
