"""The pretrained weights that sub-models are given at their start (section IV-D): Algorithm 2, line 1.

The paper initialises a sub-model "by training in pretraining dataset", and so does the authors' code, which takes a
small ViT that was trained on ImageNet. Its head is replaced, since a sub-model has other classes.

Planning imports this file, so torch is imported where weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods import seeded
from harness.types import ModuleSpec
from harness_devit.sketch import Shape, teacher_shape
from harness_timm.catalogue import listing
from harness_timm.source import hub_source
from harness_timm.vit import TIMM_FACTORY
from harness_timm.weights import read_checkpoint

if TYPE_CHECKING:
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

__all__ = ["Given", "check_file", "check_given", "file_weights", "start_from", "take_weights"]

_HEADS = ("head.", "head_dist.")


@dataclass(frozen=True, kw_only=True)
class Given:
    """Weights of a sub-model: those that timm has for ``model``, or a safetensors ``file``. One of them is given."""

    model: str | None = None
    file: Path | None = None

    @property
    def name(self) -> str:
        """Return the source as messages and records name it."""
        return f"timm's weights {self.model}" if self.file is None else f"weights {self.file}"

    def spec(self, sub: Shape) -> ModuleSpec:
        """Return how timm builds ``model`` for the images of sub-models of the shape ``sub``, without a head."""
        params: dict[str, Any] = {
            "name": self.model,
            "classes": 0,
            "channels": sub.channels,
            "image_size": list(sub.image_size),
            "drop_rate": None,
            "drop_path_rate": None,
            "args": {},
        }
        return ModuleSpec(factory=TIMM_FACTORY, params=params)


def check_given(given: Given, sub: Shape) -> None:
    """Check in planning what can be known of the weights that sub-models of the shape ``sub`` start from.

    Raises:
        ValueError: timm has no such weights, the file cannot be read, or they are those of another shape.
    """
    if given.file is not None:
        check_file(given.file, sub.dim, sub.depth)
        return
    if listing() is None:  # the plan says that timm is missing
        return
    hub_source(str(given.model), "new")
    shape = replace(teacher_shape(given.spec(sub)), drop_path_rate=sub.drop_path_rate)
    if shape != sub:
        raise ValueError(f"pretrained: {given.model} has {_difference(shape, sub)}")


def check_file(file: Path, dim: int, depth: int) -> None:
    """Check the header of a file of weights of a ViT of ``depth`` blocks and ``dim`` channels.

    Raises:
        ValueError: it cannot be read, or a tensor that shows these dimensions differs.
    """
    tensors = read_checkpoint(file).tensors
    sizes = {"norm.weight": (dim,), f"blocks.{depth - 1}.attn.qkv.weight": (3 * dim, dim)}
    for tensor, shape in sizes.items():
        if tensors.get(tensor) != shape:
            raise _differs(f"weights {file}", tensor, tensors.get(tensor), shape)


def start_from(given: Given, small: VisionTransformer, sub: Shape) -> None:
    """Give ``small``, a sub-model of the shape ``sub`` with any head, the ``given`` weights. Its head stays.

    Raises:
        ValueError: the weights cannot be read, or a tensor does not fit.
    """
    if given.file is not None:
        weights = file_weights(given.file)
    else:
        from harness_timm.models import pretrained_model

        source = hub_source(str(given.model), "new")
        weights = seeded(lambda: pretrained_model(given.spec(sub), source, None), 0).state_dict()
    take_weights(given.name, small, weights)


def file_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        ValueError: it cannot be read. The message says why, in one line.
    """
    from safetensors.torch import load_file

    read_checkpoint(file)
    weights: dict[str, torch.Tensor] = load_file(file)
    return weights


def take_weights(
    source: str, module: nn.Module, weights: Mapping[str, torch.Tensor], rows: Sequence[int] | None = None
) -> None:
    """Copy ``weights`` into ``module``. Messages begin with ``source``.

    ``rows`` are the rows of the weights' head for the classes of ``module``. Without them, its head stays as it is.

    Raises:
        ValueError: a tensor is missing, has another shape, or belongs to no part of ``module``.
    """
    own, body = module.state_dict(), {n: w for n, w in weights.items() if not n.startswith(_HEADS)}
    for name in sorted(body.keys() | {name for name in own if not name.startswith(_HEADS)}):
        has, needs = (tuple(state[name].shape) if name in state else None for state in (body, own))
        if has != needs:
            raise _differs(source, name, has, needs)
    heads = {} if rows is None else {n: weights[n][list(rows)] for n in own if n.startswith(_HEADS)}
    module.load_state_dict({**own, **body, **heads})


def _differs(source: str, tensor: str, has: Any, needs: Any) -> ValueError:
    shapes = ["nothing" if shape is None else "x".join(map(str, shape)) for shape in (has, needs)]
    return ValueError(
        f"{source}: {tensor} is {shapes[0]}, and the model has {shapes[1]}; "
        "all dimensions and the image size must be those of the weights"
    )


def _difference(shape: Shape, sub: Shape) -> str:
    """Return the first difference between two shapes, in words."""
    if type(shape) is not type(sub):
        return "the shape of another family than the sub-models"
    field = next(name for name in vars(shape) if getattr(shape, name) != getattr(sub, name))
    return f"{field} {getattr(shape, field)}, and the sub-models have {getattr(sub, field)}"
