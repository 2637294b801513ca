"""The parameters of the baselines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from harness.types import Params

__all__ = [
    "ClassSplitParams",
    "EnsembleParams",
    "NNFacetParams",
    "NeurosurgeonParams",
    "PipelineParams",
    "SmallModelParams",
    "VGGParams",
]


class SmallModelParams(Params):
    """A small ViT from random weights, on all classes, for the training compute of the model in ``from``."""

    dim: int = Field(ge=1, description="channels of a token; a multiple of heads")
    depth: int = Field(ge=1, description="blocks")
    heads: int = Field(ge=1, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="neurons of a block's MLP over dim")
    patch_size: int | None = Field(None, ge=1, description="pixels per side of a patch (the source's)")
    compute: Literal["equal"] | Annotated[float, Field(gt=0)] = Field(
        "equal", description="training compute, in image passes x MACs: equal to the source's, or a multiple"
    )


class EnsembleParams(SmallModelParams):
    """Small ViTs that differ by seed; together they have the training compute of the model in ``from``."""

    members: int = Field(ge=2, le=64, description="how many")


class ClassSplitParams(SmallModelParams):
    """Small ViTs, each for a share of the classes; together they have the training compute of the model in ``from``."""

    parts: int = Field(ge=2, le=256, description="groups of classes (two classes each at least)")
    fusion: Literal["average", "probe"] = Field(
        "average",
        description="averaged softmax, each over its own classes; or a linear layer trained on the frozen features",
    )
    probe_epochs: int = Field(10, ge=1, description="of the probe's training; within the training compute")


class PipelineParams(Params):
    """Where to cut."""

    after: int = Field(ge=1, description="the first part has this many blocks, the second the rest")


class VGGParams(Params):
    """A VGG by its dimensions; image size, channels and classes are those of the data set."""

    stages: tuple[tuple[Annotated[int, Field(ge=1)], ...], ...] = Field(
        min_length=1, description="filters of each 3x3 convolution; after each stage a 2x2 max pooling"
    )

    @field_validator("stages")
    @classmethod
    def _convolutions(cls, stages: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        if not all(stages):
            raise ValueError("a stage has no convolution")
        return stages


class NNFacetParams(Params):
    """How many sub-models, and how much of the VGG each keeps."""

    parts: int = Field(ge=2, le=256, description="sub-models, at most one per class")
    keep: float = Field(
        0.5, gt=0, le=1, description="share of each convolution's filters that a sub-model keeps"
    )
    negatives: int | None = Field(
        None, ge=1, description="images of each foreign class, labelled 0; by default |D| / (10 C) - k"
    )
    epochs: int = Field(4, ge=0, description="of fine-tuning a sub-model")
    hidden: int = Field(128, ge=1, description="neurons of the perceptron that fuses")
    fusion_epochs: int = Field(10, ge=0, description="of the perceptron's training")


class NeurosurgeonParams(Params):
    """Where to cut is the method's own choice; what the link between the two devices does may be given."""

    rate_mbps: float | None = Field(
        None, gt=0, le=1e6, description="the link's rate in 10^6 bits per second, instead of the devices' own"
    )
    rtt_ms: float | None = Field(
        None, ge=0, le=60_000, description="its round trip, instead of the devices' own"
    )
