"""Builders of timm models: the factories that module specs name, and the loading of pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.methods import seeded
from harness.types import Context, Model, ModuleSpec, TensorSpec
from harness_timm.catalogue import check_name
from harness_timm.hub import hub_file, url_file
from harness_timm.source import WeightsSource, heads_of
from harness_timm.weights import read_checkpoint

__all__ = ["check_input", "keep_rows", "pretrained_model", "seeded_model", "timm_model", "vit"]


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
    check_name(name)
    arguments: dict[str, Any] = {
        "num_classes": classes,
        "in_chans": channels,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        **(args or {}),
    }
    return _create(name, image_size, arguments)


def pretrained_model(spec: ModuleSpec, source: WeightsSource, rows: Sequence[int] | None) -> nn.Module:
    """Return the module of ``spec`` (of :func:`timm_model`) with the weights of ``source``.

    ``rows`` are the rows of the weights' head for the classes of the model. None makes a new head. Every other tensor
    must fit, except that timm itself adapts input channels and position embeddings.

    Raises:
        ValueError: the weights cannot be read, or belong to another model.
        SuiteError: the weights are not here, and the hub does not give them.
    """
    params = dict(spec.params)
    name, classes = params["name"], params["classes"]
    config = timm.get_pretrained_cfg(name)
    file = source.file
    if file is None and config.hf_hub_id:
        file = hub_file(name, config)
    elif file is None and not config.custom_load:
        file = url_file(name, config)
    safe = file is not None and (file == source.file or file.suffix == ".safetensors")
    if file is not None and safe:
        read_checkpoint(file)  # a file in a cache may be damaged, too
    arguments: dict[str, Any] = {
        "in_chans": params["channels"],
        "drop_rate": params["drop_rate"],
        "drop_path_rate": params["drop_path_rate"],
        **params["args"],
        "pretrained": True,
        "num_classes": source.classes,  # built with the weights' own head, so that timm loads strictly
    }
    with TemporaryDirectory() as folder:
        if file is not None:
            # timm takes a file by another name for a pickle
            link = Path(folder) / ("weights.safetensors" if safe else "weights.bin")
            link.symlink_to(file.resolve())
            arguments["pretrained_cfg_overlay"] = {
                "file": str(link),
                "num_classes": source.classes,
                "input_size": (source.channels, *config.input_size[1:]),
                "custom_load": False,
            }
        model = _create(name, params["image_size"], arguments)
    if rows is None:
        model.reset_classifier(classes)
    elif tuple(rows) != tuple(range(source.classes)):
        keep_rows(model, rows, source.classes, heads_of(config))
    return model


def keep_rows(model: nn.Module, rows: Sequence[int], classes: int, heads: Sequence[str]) -> None:
    """Give a model of ``classes`` classes a head with the ``rows`` of its classifiers ``heads``, in this order.

    Raises:
        ValueError: the head has another form.
    """
    index = torch.tensor(rows)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.rpartition(".")[0] in heads and tensor.shape[:1] == (classes,):
            state[name] = tensor[index]
    model.reset_classifier(len(rows))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"timm cannot choose classes of this head: {_line(error)}") from error


def seeded_model(ctx: Context, spec: ModuleSpec) -> Model:
    """Return the model of ``spec`` for the data of ``ctx``, with random weights from the seed of ``ctx``."""
    info, module = ctx.data.info, seeded(spec.build, ctx.seed)
    return Model(module=module, spec=spec, input=TensorSpec(shape=info.shape), classes=info.classes)


def check_input(model: nn.Module, shape: tuple[int, int, int], classes: int, what: str) -> None:
    """Run ``model`` on one blank image [channels, height, width]. Messages begin with ``what``.

    Raises:
        ValueError: it does not run, drops pixels that no patch covers, or does not return [1, classes].
    """
    embedding = getattr(model, "patch_embed", None)
    if isinstance(embedding, PatchEmbed) and not embedding.dynamic_img_pad:
        for pixels, patch in zip(shape[1:], embedding.patch_size, strict=True):
            if pixels % patch:
                raise ValueError(
                    f"{what} does not take images of shape {shape}: {pixels} pixels are no multiple of its patches' {patch}"
                )
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


def _line(error: BaseException) -> str:
    """Return the error's text as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
