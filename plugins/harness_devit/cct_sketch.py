"""The dimensions of a CCT (Hassani et al., 2021), and the counts that follow from them. Torch-free: planning calls it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from harness.types import ModuleSpec

__all__ = ["CCT_FACTORY", "CCTShape", "Position", "default_stride"]

CCT_FACTORY = "harness_devit.cct:cct"

Position = Literal["learnable", "sinusoidal", "none"]


def default_stride(kernel: int) -> int:
    """Return the stride of the published sizes: 1 for kernels of 3, 2 for 7."""
    return max(1, kernel // 2 - 1)


@dataclass(frozen=True, kw_only=True)
class CCTShape:
    """The dimensions of a CCT.

    It has ``convs`` convolutions, each with a max-pooling of 3 by 3 and stride 2, then pre-norm blocks, LayerNorm,
    sequence pooling and a linear head.

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``, or ``kernel`` is even.
    """

    image_size: tuple[int, int]
    channels: int
    classes: int
    kernel: int
    stride: int
    convs: int
    conv_dim: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    position: Position = "learnable"
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim: {self.dim} is not a multiple of heads: {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: {self.kernel} is even; padding by kernel // 2 is of an odd kernel")

    @classmethod
    def from_spec(cls, spec: ModuleSpec | None) -> CCTShape | None:
        """Return the shape of what ``spec`` builds, or ``None`` if that is no CCT."""
        if spec is None or spec.factory != CCT_FACTORY:
            return None
        return cls(**{**spec.params, "image_size": tuple(spec.params["image_size"])})

    def spec(self) -> ModuleSpec:
        """Return how any process builds a CCT of this shape."""
        return ModuleSpec(factory=CCT_FACTORY, params={**asdict(self), "image_size": list(self.image_size)})

    @property
    def widths(self) -> list[int]:
        """Return the channels of the image and after each convolution."""
        return [self.channels, *[self.conv_dim] * (self.convs - 1), self.dim]

    @property
    def maps(self) -> list[tuple[int, int]]:
        """Return the pixels (height, width) that each convolution gives. The pooling after it halves them, rounded up."""
        sizes: list[tuple[int, int]] = []
        height, width = self.image_size
        for _ in range(self.convs):
            sizes.append(((height - 1) // self.stride + 1, (width - 1) // self.stride + 1))
            height, width = ((side + 1) // 2 for side in sizes[-1])
        return sizes

    @property
    def tokens(self) -> int:
        """Return the number of tokens between blocks: the pixels after the last pooling."""
        height, width = self.maps[-1]
        return ((height + 1) // 2) * ((width + 1) // 2)

    @property
    def read(self) -> int:
        """Return the number of tokens that the head reads: the pooled one."""
        return 1

    @property
    def hidden(self) -> int:
        """Return the number of neurons of a block's MLP."""
        return int(self.dim * self.mlp_ratio)

    def params(self) -> int:
        """Return how many parameters the CCT has."""
        d, widths = self.dim, self.widths
        tokenizer = sum(self.kernel**2 * a * b for a, b in pairwise(widths))
        block = 4 * d * d + d + 2 * d * self.hidden + self.hidden + d + 4 * d  # no bias of q, k, v
        position = self.tokens * d * (self.position == "learnable")
        head = (d + 1) * self.classes
        return tokenizer + position + self.depth * block + 2 * d + (d + 1) + head

    def macs(self) -> int:
        """Return the multiply-accumulates for one image, attention and sequence pooling included."""
        d, t, widths = self.dim, self.tokens, self.widths
        tokenizer = sum(
            height * width * self.kernel**2 * a * b
            for (height, width), (a, b) in zip(self.maps, pairwise(widths), strict=True)
        )
        block = t * (4 * d * d + 2 * d * self.hidden) + 2 * t * t * d
        return tokenizer + self.depth * block + 2 * t * d + d * self.classes

    def weight_bytes(self) -> int:
        """Return the bytes of the parameters, and of sinusoids, stored as float32."""
        return 4 * (self.params() + self.tokens * self.dim * (self.position == "sinusoidal"))
