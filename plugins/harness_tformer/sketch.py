"""The dimensions of a TFormer, checked without building it. It imports no torch, because planning calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.types import ModuleSpec

__all__ = ["FACTORY", "SIZES", "FFN", "Operator", "TFormerShape"]

FACTORY = "harness_tformer.paper:tformer"

SIZES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # dims, depths: section 4, Table 1
    "S": ((64, 128, 320, 512), (2, 2, 6, 2)),
    "M": ((64, 128, 320, 512), (4, 4, 12, 4)),
    "L": ((64, 128, 320, 512), (6, 6, 18, 6)),
}

Operator = Literal["avg", "max"]
FFN = Literal["pcs", "standard", "ghost"]


@dataclass(frozen=True, kw_only=True)
class TFormerShape:
    """The dimensions of a TFormer. ``dims`` and ``depths`` are the channels and blocks of its stages.

    Raises:
        ValueError: the dimensions do not fit each other or the image.
    """

    image_size: tuple[int, int]
    channels: int
    classes: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    operators: tuple[Operator, ...] = ("avg", "max")
    kernels: tuple[int, ...] = (3, 5, 7, 9, 11)
    ffn: FFN = "pcs"
    expansion: int = 4
    groups: int = 2
    ghost_ratio: int = 2
    stem_kernel: int = 7
    stem_stride: int = 4
    down_kernel: int = 3
    down_stride: int = 2
    layer_scale: float = 1e-5
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.depths):
            raise ValueError(f"dims and depths: {len(self.dims)} stages and {len(self.depths)}; one each")
        even = [kernel for kernel in self.kernels if kernel % 2 == 0]
        if even:
            raise ValueError(f"kernels: {even[0]} is even; only an odd window keeps the map's size")
        for name, values in (("operators", self.operators), ("kernels", self.kernels)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {', '.join(map(str, values))} has one twice")
        branches = len(self.operators) * len(self.kernels)
        for dim in self.dims:
            if dim < branches:
                raise ValueError(f"dims: {dim} channels are too few for {branches} pooling branches")
            if self.ffn == "pcs" and dim % self.groups:
                raise ValueError(f"dims: {dim} is not a multiple of groups: {self.groups}")
        for name, kernel, stride in (
            ("stem", self.stem_kernel, self.stem_stride),
            ("down", self.down_kernel, self.down_stride),
        ):
            if kernel < stride:
                raise ValueError(f"{name}_kernel: {kernel} is below {name}_stride: {stride}; pixels get lost")
        if min(self.image_size) < self.reduction:
            height, width = self.image_size
            raise ValueError(
                f"an image of {height} x {width} pixels is smaller than the strides' product, "
                f"{self.reduction}; give stem_stride or down_stride, or a larger image_size"
            )

    @property
    def reduction(self) -> int:
        """Return the side of the image divided by the side of the last stage's map."""
        return int(self.stem_stride * self.down_stride ** (len(self.dims) - 1))

    def spec(self) -> ModuleSpec:
        """Return the spec from which any process builds a TFormer of this shape."""
        params: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }
        return ModuleSpec(factory=FACTORY, params=params)
