"""Building timm models: the factories that module specs name, and loading pretrained weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.methods import seeded
from harness.types import Context, Model, ModuleSpec, TensorSpec

__all__ = ["check_input", "pretrained_model", "seeded_model", "timm_model", "vit"]


def vit(
    *,
    image_size: Sequence[int],
    patch_size: int,
    channels: int,
    classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    class_token: bool = True,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Return a ViT by its dimensions (:class:`harness_timm.vit.ViTShape`), with timm's initialisation."""
    return VisionTransformer(
        img_size=tuple(image_size),
        patch_size=patch_size,
        in_chans=channels,
        num_classes=classes,
        global_pool="token" if class_token else "avg",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        class_token=class_token,
        drop_path_rate=drop_path_rate,
    )


def timm_model(
    *,
    name: str,
    classes: int,
    channels: int,
    image_size: Sequence[int],
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return timm's model ``name`` with random weights, for images [channels, *image_size].

    Raises:
        ValueError: timm has no such model, or cannot build it so.
    """
    _check_name(name)
    arguments: dict[str, Any] = {
        "num_classes": classes,
        "in_chans": channels,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        **(args or {}),
    }
    return _create(name, image_size, arguments)


def pretrained_model(spec: ModuleSpec, weights: Path | None) -> nn.Module:
    """Return what ``spec`` (of :func:`timm_model`) builds, with the hub's weights or those of a safetensors file.

    Every tensor must fit. The exceptions are a head of another class count, which is new, and what timm itself adapts
    (input channels, position embeddings).

    Raises:
        ValueError: the weights cannot be read, or belong to another model.
    """
    params = dict(spec.params)
    name, classes = params["name"], params["classes"]
    _check_name(name)
    arguments: dict[str, Any] = {
        "in_chans": params["channels"],
        "drop_rate": params["drop_rate"],
        "drop_path_rate": params["drop_path_rate"],
        **params["args"],
        "pretrained": True,
    }
    config = timm.get_pretrained_cfg(name)
    source_classes = config.num_classes
    if weights is not None:
        heads = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier or ())
        source_classes = _classes_in(weights, heads)
        # read from this file and nowhere else; channels, unlike classes, are always timm's to adapt
        arguments["pretrained_cfg_overlay"] = {
            "file": str(weights),
            "num_classes": source_classes,
            "custom_load": False,
        }
    # built with the source's own head, so that timm loads strictly
    model = _create(name, params["image_size"], {**arguments, "num_classes": source_classes})
    if source_classes != classes:
        model.reset_classifier(classes)
    return model


def seeded_model(ctx: Context, spec: ModuleSpec) -> Model:
    """Return what ``spec`` builds for the data of ``ctx``, with random weights by its seed."""
    info, module = ctx.data.info, seeded(spec.build, ctx.seed)
    return Model(module=module, spec=spec, input=TensorSpec(shape=info.shape), classes=info.classes)


def check_input(model: nn.Module, shape: tuple[int, int, int], classes: int, what: str) -> None:
    """Check ``model`` with one blank image [channels, height, width]; ``what`` begins the message.

    Raises:
        ValueError: it does not run, or does not give [1, classes].
    """
    training = model.training
    try:
        with torch.no_grad():
            out = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{what} does not take images of shape {shape}: {_line(error)}") from error
    finally:
        model.train(training)
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (1, classes):
        got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ValueError(f"{what} gives {got} for one image, not (1, {classes}): it is no classifier")


def _create(name: str, image_size: Sequence[int], arguments: Mapping[str, Any]) -> nn.Module:
    if timm.get_pretrained_cfg(name).fixed_input_size:  # CNNs and the like take any size, and no img_size
        arguments = {"img_size": tuple(image_size), **arguments}
    try:
        return timm.create_model(name, **arguments)
    except Exception as error:  # the hub's client raises its HTTP library's own errors
        what = "weights for " if arguments.get("pretrained") else ""
        raise ValueError(f"timm cannot give {what}{name!r}: {_line(error)}") from error


def _check_name(name: str) -> None:
    base, _, tag = name.partition(".")
    known = timm.list_models()
    if base in known:
        known = timm.list_models(f"{base}.*", include_tags=True)
        if not tag or name in known:
            return
    near = difflib.get_close_matches(name, known, n=3)
    guess = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists what there is"
    raise ValueError(f"unknown timm model {name!r}: {guess}")


def _classes_in(weights: Path, heads: Sequence[str]) -> int:
    """Return the rows of the classifier stored in a safetensors file, 0 if it has none."""
    try:
        with safe_open(weights, framework="pt") as file:
            stored = [f"{head}.weight" for head in heads if f"{head}.weight" in file.keys()]  # noqa: SIM118
            return int(file.get_slice(stored[0]).get_shape()[0]) if stored else 0
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights: {weights} is not a readable safetensors file: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """Return the error's text as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
