"""The dimensions of a VGG, and its counts, computed without building it and without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from harness.types import ModuleSpec

__all__ = ["VGGShape"]

FACTORY = "harness_baselines.vgg:vgg"


@dataclass(frozen=True, kw_only=True)
class VGGShape:
    """The dimensions of a VGG.

    Each stage has 3x3 convolutions (with BatchNorm and ReLU) and a 2x2 max pooling at its end. The mean over the
    remaining pixels and a linear head follow. ``stages`` are the filters of each convolution. With 0 ``classes``
    there is no head.

    Raises:
        ValueError: the image has fewer pixels than the poolings need.
    """

    image_size: tuple[int, int]
    channels: int
    classes: int
    stages: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if min(self.image_size) < 2 ** len(self.stages):
            height, width = self.image_size
            raise ValueError(
                f"stages: {len(self.stages)} poolings by 2 leave nothing of {height} x {width} pixels"
            )

    @classmethod
    def from_spec(cls, spec: ModuleSpec | None) -> VGGShape | None:
        """Return the shape of the VGG that ``spec`` builds, or ``None`` if it builds another module."""
        if spec is None or spec.factory != FACTORY:
            return None
        stages = tuple(tuple(stage) for stage in spec.params["stages"])
        return cls(**{**spec.params, "image_size": tuple(spec.params["image_size"]), "stages": stages})

    def spec(self) -> ModuleSpec:
        """Return the spec from which any process builds a VGG of this shape."""
        stages = [list(stage) for stage in self.stages]
        return ModuleSpec(
            factory=FACTORY, params={**asdict(self), "image_size": list(self.image_size), "stages": stages}
        )

    def narrowed(self, keep: float, classes: int) -> VGGShape:
        """Return the shape with the share ``keep`` of every convolution's filters, but at least one filter."""
        stages = tuple(tuple(max(1, round(keep * width)) for width in stage) for stage in self.stages)
        return replace(self, stages=stages, classes=classes)

    @property
    def dim(self) -> int:
        """Return the number of features that the head reads."""
        return self.stages[-1][-1]

    def params(self) -> int:
        """Return the number of parameters."""
        convolutions = sum(9 * before * width + 2 * width for before, width, _ in self._layers())
        return convolutions + (self.dim + 1) * self.classes

    def macs(self) -> int:
        """Return the MACs for one image."""
        return (
            sum(pixels * 9 * before * width for before, width, pixels in self._layers())
            + self.dim * self.classes
        )

    def weight_bytes(self) -> int:
        """Return the stored bytes: float32 parameters, and BatchNorm's running mean, variance and count of batches."""
        return 4 * self.params() + sum(8 * width + 8 for _, width, _ in self._layers())

    def _layers(self) -> Iterator[tuple[int, int, int]]:
        """Yield the input channels, filters and pixels of every convolution."""
        before, (height, width) = self.channels, self.image_size
        for stage in self.stages:
            for filters in stage:
                yield before, filters, height * width
                before = filters
            height, width = height // 2, width // 2
