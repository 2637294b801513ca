"""The sketch of EdgeViT, computed from dimensions. It imports no torch, because planning calls it."""

from __future__ import annotations

from harness.types import DataInfo, ModuleSpec
from harness_timm.vit import ViTShape, truncated_spec

__all__ = ["check_images", "edgevit_spec"]


def edgevit_spec(spec: ModuleSpec, blocks: int, data: DataInfo) -> ModuleSpec:
    """Return the EdgeViT with the first ``blocks`` of ``spec``'s ViT, for the classes of ``data``.

    Raises:
        ValueError: ``blocks`` is beyond the depth, or the images have another shape than the source's.
    """
    shape = ViTShape.from_spec(spec)
    if shape:
        check_images((shape.channels, *shape.image_size), data)
    return truncated_spec(spec, blocks, data.classes)


def check_images(source: tuple[int, ...], data: DataInfo) -> None:
    """Check that the images of cloud and edge have the same shape.

    Raises:
        ValueError: the shape [channels, height, width] of the source's images is not that of ``data``.
    """
    if tuple(source) != tuple(data.shape):
        raise ValueError(
            f"edgevit keeps the source's embedding, made for images of shape {tuple(source)}, but those of "
            f"{data.name!r} are {tuple(data.shape)}: set image_size, or train the source on such images"
        )
