"""Code for methods that split a model by its classes: class groups, their images, sub-models, fusion.

Sketches are also made with it, so importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.data.splits import relabel, subset
from harness.types import (
    IMAGE,
    Context,
    Edge,
    Lineage,
    Model,
    ModuleSpec,
    Part,
    Partition,
    Split,
    StandIn,
    TensorSpec,
)
from harness.types.json import Facts

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = [
    "Draw",
    "FINE_TUNING",
    "Piece",
    "class_groups",
    "fused_partition",
    "own_images",
    "resampled",
    "resumable",
]

FINE_TUNING: Facts = MappingProxyType({"warmup_epochs": 0, "early_stop": None})
"""For ``ctx.fit(..., **FINE_TUNING)``: a short training of trained weights, without warm-up and early stopping."""


# --- classes and their images ---------------------------------------------------------------------


class Draw(Protocol):
    """A random generator of numpy, a ``RandomState`` or a ``Generator``, seeded by the method.

    The two draw different permutations from one seed. Each method keeps its own, so its results stay the same.
    """

    def permutation(self, x: Any, /) -> NDArray[np.int64]:
        """Return ``x`` in random order, or the numbers 0 to x - 1."""
        ...


def class_groups(sizes: Sequence[int], draw: Draw) -> tuple[tuple[int, ...], ...]:
    """Return the classes 0 to sum(sizes) - 1 in random groups of these ``sizes``, each ascending."""
    order = draw.permutation(sum(sizes))
    return tuple(tuple(sorted(map(int, group))) for group in np.split(order, np.cumsum(sizes)[:-1]))


def own_images(data: Split, group: Sequence[int], needed_by: str | None = None) -> Split:
    """Return the images of the classes in ``group``. Their labels are 0, 1 ... in the order of ``group``.

    Raises:
        ValueError: a class has no image, and ``needed_by`` is given, which begins the message.
    """
    members = np.flatnonzero(np.isin(data.labels, group))
    absent = set(group) - set(np.asarray(data.labels)[members].tolist())
    if absent and needed_by is not None:
        raise ValueError(f"{needed_by}: class {min(absent)} has no training image")
    return relabel(subset(data, members), {label: i for i, label in enumerate(group)})


def resampled(
    data: Split, group: Sequence[int], classes: int, negatives: int | None, draw: Draw
) -> tuple[Split, NDArray[np.int64]]:
    """Return the images of ``group``, labelled 1 ... k, and some images of the other classes, labelled 0.

    A sub-model of a single class then has something to distinguish it from. There are ``negatives`` images of each
    other class. The default is n / (10 ``classes``) - k for n images in ``data``, as in EC-SNN, and at least one.

    The second value is the number of images taken from each class, int64 [classes].
    """
    labels = np.asarray(data.labels)
    wanted = negatives or max(1, round(len(labels) / (10 * classes)) - len(group))
    taken = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        taken.append(members if label in group else draw.permutation(members)[:wanted])
    mapping = {label: group.index(label) + 1 if label in group else 0 for label in range(classes)}
    images = relabel(subset(data, np.sort(np.concatenate(taken))), mapping)
    return images, np.array([len(members) for members in taken])


# --- sub-models -----------------------------------------------------------------------------------


def resumable(ctx: Context, name: str, make: Callable[[], Model], *, source: Model, **facts: Any) -> Model:
    """Return ``make()``, which is called once for all steps that share ``name``, ``source`` and ``facts``.

    ``facts`` are JSON, and contain all parameters that determine the result. A step that starts again after a kill
    finds its finished sub-models. Other steps find them too, so rows of one ablation share the sub-models that they
    do not vary. The rest of the key is that of ``ctx.once``.
    """
    weights = hashlib.sha256()
    for key, tensor in source.module.state_dict().items():
        weights.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    spec = [source.spec.factory, dict(source.spec.params)]
    about = {"name": name, "spec": spec, "weights": weights.hexdigest(), **facts}
    return ctx.once(json.dumps(about, sort_keys=True), make)


# --- sub-models and their fusion ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A module that becomes a part, with its spec and the shape of its output without the batch dimension."""

    module: torch.nn.Module
    spec: ModuleSpec
    output: tuple[int, ...]


def fused_partition(
    source: Model,
    subs: Sequence[Piece],
    fusion: Piece,
    *,
    missing: StandIn,
    lineage: Sequence[Lineage],
    groups: Sequence[Sequence[int]] = (),
    names: tuple[str, str] = ("sub", "fusion"),
) -> Partition:
    """Return a partition with the parts ``sub1`` ... ``subN`` and ``fusion``.

    The sub-models read the image, and the fusion reads the outputs of all sub-models. ``missing`` is the stand-in for
    a sub-model that does not answer. ``groups`` are those of ``Partition``.
    """
    image = (Edge(source=IMAGE, tensor=source.input),)
    parts = [
        Part(
            name=f"{names[0]}{i}",
            module=sub.module,
            spec=sub.spec,
            inputs=image,
            output=TensorSpec(shape=sub.output),
        )
        for i, sub in enumerate(subs, 1)
    ]
    outputs = tuple(Edge(source=part.name, tensor=part.output, missing=missing) for part in parts)
    answer = Part(
        name=names[1],
        module=fusion.module,
        spec=fusion.spec,
        inputs=outputs,
        output=TensorSpec(shape=fusion.output),
    )
    return Partition(
        parts=(*parts, answer),
        classes=source.classes,
        lineage=tuple(lineage),
        groups=tuple(tuple(group) for group in groups),
    )
