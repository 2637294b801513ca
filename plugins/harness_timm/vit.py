"""The dimensions of a Vision Transformer, and its counts, computed without building it and without torch.

Planners, sketches and placement algorithms use a :class:`ViTShape`. Its counts equal those of the built module
(tests/plugins/test_harness_timm.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.types import ModuleSpec

__all__ = ["TIMM_FACTORY", "TRUNCATED_FACTORY", "VIT_FACTORY", "ViTShape", "base_of", "truncated_spec"]

VIT_FACTORY = "harness_timm.models:vit"
TIMM_FACTORY = "harness_timm.models:timm_model"
TRUNCATED_FACTORY = "harness_timm.surgery:truncated"

_STANDARD_NAME = re.compile(r"(?:vit|deit)_(tiny|small|base|large|huge)_patch(\d+)_\d+(?:\.\w+)?")
_STANDARD_SIZES = {  # dim, depth, heads: Dosovitskiy et al. 2021, Table 1; Touvron et al. 2021, Table 1
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """The dimensions of an isotropic pre-norm ViT: patch embedding, positions, blocks, LayerNorm, linear head.

    Positions are learned. Without a class token the head reads the mean of the patch tokens.

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``, or the image size not of the patch size.
    """

    image_size: tuple[int, int]
    patch_size: int
    channels: int
    classes: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    class_token: bool = True
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        height, width = self.image_size
        if self.dim % self.heads:
            raise ValueError(f"dim: {self.dim} is not a multiple of heads: {self.heads}")
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"patch_size: {self.patch_size} does not divide the image's {height} x {width} pixels"
            )

    @classmethod
    def from_spec(cls, spec: ModuleSpec | None) -> ViTShape | None:
        """Return the shape of the ViT that ``spec`` builds, or ``None`` if it is unknown until the module is built.

        Known are ``vit``, timm's standard names ``vit_*`` and ``deit_*``, and truncations of these.
        """
        if spec is None:
            return None
        params = spec.params
        if spec.factory == VIT_FACTORY:
            return cls(**{**params, "image_size": tuple(params["image_size"])})
        if spec.factory == TRUNCATED_FACTORY:
            base = cls.from_spec(ModuleSpec(**params["base"]))
            return base and base.truncated(params["blocks"], params["classes"])
        name = _STANDARD_NAME.fullmatch(params["name"]) if spec.factory == TIMM_FACTORY else None
        if name is None or params["args"]:
            return None
        dim, depth, heads = _STANDARD_SIZES[name[1]]
        return cls(
            image_size=tuple(params["image_size"]),
            patch_size=int(name[2]),
            channels=params["channels"],
            classes=params["classes"],
            dim=dim,
            depth=depth,
            heads=heads,
            drop_path_rate=params["drop_path_rate"] or 0.0,
        )

    def spec(self) -> ModuleSpec:
        """Return the spec from which any process builds a ViT of this shape."""
        return ModuleSpec(factory=VIT_FACTORY, params={**asdict(self), "image_size": list(self.image_size)})

    def truncated(self, blocks: int, classes: int) -> ViTShape:
        """Return the first ``blocks`` blocks with a head for ``classes``. Each block keeps its drop-path rate.

        Raises:
            ValueError: ``blocks`` is beyond the depth.
        """
        if not 1 <= blocks <= self.depth:
            raise ValueError(f"blocks: {blocks} is beyond the model's depth of {self.depth}")
        # rates rise linearly from 0 at the first block to drop_path_rate at the last
        rate = self.drop_path_rate * (blocks - 1) / max(self.depth - 1, 1)
        return replace(self, depth=blocks, classes=classes, drop_path_rate=rate)

    @property
    def patches(self) -> int:
        """Return the number of patches of an image."""
        return (self.image_size[0] // self.patch_size) * (self.image_size[1] // self.patch_size)

    @property
    def tokens(self) -> int:
        """Return the number of tokens between blocks, with the class token."""
        return self.patches + self.class_token

    @property
    def hidden(self) -> int:
        """Return the number of neurons of a block's MLP."""
        return int(self.dim * self.mlp_ratio)

    def params(self, start: int = 0, stop: int | None = None) -> int:
        """Return the number of parameters of blocks [start, stop).

        The first block includes the embedding, and the last block includes norm and head.
        """
        start, stop = self._range(start, stop)
        d = self.dim
        total = (stop - start) * (4 * d * (d + 1) + 2 * d * self.hidden + self.hidden + d + 4 * d)
        if start == 0:
            total += self.channels * self.patch_size**2 * d + d + self.tokens * d + self.class_token * d
        if stop == self.depth:
            total += 2 * d + d * self.classes + self.classes
        return total

    def macs(self, start: int = 0, stop: int | None = None) -> int:
        """Return the MACs for one image of the same blocks as :meth:`params`, with attention."""
        start, stop = self._range(start, stop)
        d, t = self.dim, self.tokens
        total = (stop - start) * (t * (4 * d * d + 2 * d * self.hidden) + 2 * t * t * d)
        if start == 0:
            total += self.patches * self.channels * self.patch_size**2 * d
        if stop == self.depth:
            total += d * self.classes
        return total

    def weight_bytes(self, start: int = 0, stop: int | None = None) -> int:
        """Return the bytes of the same blocks as :meth:`params`, stored as float32."""
        return 4 * self.params(start, stop)

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        """Return the range with its end. Raises ``ValueError`` if it is not within the depth."""
        stop = self.depth if stop is None else stop
        if not 0 <= start < stop <= self.depth:
            raise ValueError(f"blocks {start} to {stop} are not within the model's depth of {self.depth}")
        return start, stop


def truncated_spec(spec: ModuleSpec, blocks: int, classes: int) -> ModuleSpec:
    """Return the spec of the first ``blocks`` blocks of the module that ``spec`` builds, with a head for ``classes``.

    Raises:
        ValueError: ``blocks`` is beyond the depth, if the depth is known.
    """
    shape = ViTShape.from_spec(spec)
    short = shape and shape.truncated(blocks, classes)
    if short and spec.factory == VIT_FACTORY:
        return short.spec()
    return ModuleSpec(
        factory=TRUNCATED_FACTORY, params={"base": base_of(spec), "blocks": blocks, "classes": classes}
    )


def base_of(spec: ModuleSpec) -> Mapping[str, Any]:
    """Return ``spec`` as a JSON parameter of another spec."""
    return {"factory": spec.factory, "params": dict(spec.params)}
