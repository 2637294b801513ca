"""Builders of timm models: the factories that module specs name, and the loading of pretrained weights."""

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
        ValueError: timm has no such model, or cannot build it with these arguments.
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
    """Return the module of ``spec`` (of :func:`timm_model`) with weights from the hub or from a safetensors file.

    Every tensor must fit, with two exceptions: a head for another number of classes is new, and timm itself adapts
    input channels and position embeddings.

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
        # timm must read only this file; it always adapts the channels itself, but not the classes
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
    """Return the model of ``spec`` for the data of ``ctx``, with random weights from the seed of ``ctx``."""
    info, module = ctx.data.info, seeded(spec.build, ctx.seed)
    return Model(module=module, spec=spec, input=TensorSpec(shape=info.shape), classes=info.classes)


def check_input(model: nn.Module, shape: tuple[int, int, int], classes: int, what: str) -> None:
    """Run ``model`` on one blank image [channels, height, width]. Messages begin with ``what``.

    Raises:
        ValueError: it does not run, or does not return [1, classes].
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
    if timm.get_pretrained_cfg(name).fixed_input_size:  # CNNs accept any size, and have no img_size
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
    """Return the rows of the classifier in a safetensors file, or 0 if it has none."""
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
