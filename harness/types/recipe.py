"""A training recipe: epochs, optimizer, schedule, augmentation."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from harness.types.json import Facts
from harness.types.params import Params

__all__ = ["NO_AUGMENTATION", "NotNegative", "Positive", "TrainRecipe"]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


NO_AUGMENTATION: Facts = MappingProxyType(
    {
        "augment": "none",
        "image_size": None,
        "repeats": 1,
        "rand_augment": "none",
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
)
"""For a method's ``ctx.fit(..., **NO_AUGMENTATION)`` if its samples must be the same in all epochs."""


# timm's own parser ignores unknown parts, and importing it would slow down planning
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d{1,2}|n[1-9]|p(0(\.\d+)?|1(\.0+)?)|mstd\d{1,3}(\.\d+)?|mmax[1-9]\d?|inc[01]|t(weights|3aw?)))*"
)


class TrainRecipe(Params):
    """The keys of a suite's ``train`` block, which say how a module is trained."""

    epochs: int = Field(40, ge=0, description="number of passes over the training split; 0 trains nothing")
    optimizer: str = Field(
        "adamw",
        min_length=1,
        description="a timm optimizer: adamw, sgd (Nesterov), momentum (plain), lamb ...",
    )
    lr: Positive = Field(1e-3, description="greatest learning rate")
    weight_decay: NotNegative = Field(0.05, description="weight decay; it is not applied to biases and norms")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, for optimizers that have one")
    batch_size: int = Field(64, ge=1, description="samples per update; an epoch's last batch may be smaller")
    schedule: Literal["cosine", "tanh", "poly", "step", "none"] = Field(
        "cosine",
        description="schedule of the learning rate, which changes at every batch; none: constant after the warm-up",
    )
    decay_epochs: Positive = Field(30, description="step: number of epochs between decays")
    decay_rate: Positive = Field(0.1, description="step: factor of each decay; poly: the power")
    warmup_epochs: int = Field(
        0, ge=0, description="number of epochs with a linear warm-up; epochs includes them"
    )
    warmup_lr: NotNegative = Field(1e-6, description="learning rate at the start of the warm-up")
    min_lr: NotNegative = Field(
        1e-5, validate_default=True, description="cosine, tanh, poly: learning rate at the end"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the default loss")
    loss: Literal["cross-entropy", "bce"] = Field(
        "cross-entropy",
        description="default loss; bce: binary cross-entropy, the mean over images and classes (ResNet strikes back)",
    )
    bce_threshold: float | None = Field(
        None, ge=0, lt=1, description="bce: labels above it count as 1, the others as 0 (timm's recipes: 0.2)"
    )
    clip_grad: Positive | None = Field(
        None, description="greatest norm of all gradients together; larger ones are scaled down"
    )
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="mixed precision; fp16 on CUDA only")
    augment: Literal["none", "crop-flip", "resized-crop-flip"] = Field(
        "none",
        description="crop-flip: random crop after mirroring 4 pixels, and horizontal flip; "
        "resized-crop-flip: a random 8 to 100% of the stored image, resized, and horizontal flip (ImageNet's usual)",
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="resized-crop-flip: pixels per side in training, for a model that takes any size (default: the data's)",
    )
    repeats: int = Field(
        1,
        ge=1,
        le=100,
        description="repeated augmentation: how often an epoch has an image, of as many fewer images (DeiT: 3)",
    )
    rand_augment: str = Field(
        "none", description="RandAugment: timm's policy string, like rand-m9-mstd0.5-inc1 (DeiT)"
    )
    random_erasing: float = Field(
        0.0, ge=0, le=1, description="share of the images that get a rectangle of noise (DeiT: 0.25); 0: off"
    )
    mixup: NotNegative = Field(0.0, description="Mixup's alpha (DeiT: 0.8); 0: off")
    cutmix: NotNegative = Field(
        0.0, description="CutMix's alpha (DeiT: 1.0); 0: off; with mixup each batch has one of the two"
    )
    early_stop: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="number of epochs without a better validation top-1 after which training stops; the best weights stay",
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="greatest decay per update of averaged weights, which are validated beside the trained ones; "
        "the decay begins at 0 and rises; none: no average",
    )
    keep: Literal["trained", "averaged"] = Field(
        "trained",
        validate_default=True,
        description="which weights a training with ema keeps, and early_stop judges",
    )
    compile: bool = Field(
        False, description="whether the forward pass of training is compiled by torch.compile"
    )

    @field_validator("rand_augment", mode="before")
    @classmethod
    def _policy(cls, policy: Any) -> Any:
        if policy != "none" and not (isinstance(policy, str) and _RAND_AUGMENT.fullmatch(policy)):
            raise ValueError(
                f"{policy!r} is no RandAugment policy; allowed: none, or rand and any of -m9 (magnitude), "
                "-mstd0.5, -mmax10, -n2 (operations), -p0.5, -inc1, -tweights, like rand-m9-mstd0.5-inc1"
            )
        return policy

    @field_validator("keep")
    @classmethod
    def _has_an_average(cls, keep: str, info: ValidationInfo) -> str:
        if keep == "averaged" and info.data.get("ema") is None:
            raise ValueError("averaged needs an average: set ema")
        return keep

    @field_validator("bce_threshold")
    @classmethod
    def _of_bce(cls, threshold: float | None, info: ValidationInfo) -> float | None:
        if threshold is not None and info.data.get("loss") == "cross-entropy":
            raise ValueError("belongs to loss: bce")
        return threshold

    @field_validator("image_size")
    @classmethod
    def _of_crops(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is not None and info.data.get("augment") in ("none", "crop-flip"):
            raise ValueError(
                "belongs to augment: resized-crop-flip (the size of all images is data: image_size)"
            )
        return size

    @field_validator("min_lr")
    @classmethod
    def _falls(cls, min_lr: float, info: ValidationInfo) -> float:
        lr, schedule = info.data.get("lr"), info.data.get("schedule")
        if lr is not None and schedule in ("cosine", "tanh", "poly") and min_lr > lr:
            raise ValueError(f"must be at most lr ({lr:g})")
        return min_lr
