"""Model splitting (section 4.2, Algorithm 1, lines 6 to 19): heads per sub-model under a memory budget.

This file imports no torch, because planning calls it.

Readings taken:

- s = (h - hp) / h is the KEPT share, so a sub-model with k = h - hp heads is the plain ViT of k heads of the source's
  head size.
- Its size m_i is that of the part as deployed, in float32.
- hp = hp_1 ... hp_N, the heads removed of each sub-model before the loop, is an input of Algorithm 1 whose values the
  paper does not print. By default it is 0. For a ViT-Base under 180 MB, hp = 6, 6, 8, 9, 10 for N = 1, 2, 3, 5, 10 give
  the sizes that the paper prints, and the loop then ends at once.
- Line 12, the assignment, is tried here with the devices' memory alone. The placer decides where the parts run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from harness.methods import even_shares, fused_sketch, image_sketch
from harness.types import Fleet, ModuleSpec, Sketch
from harness_timm.vit import TIMM_FACTORY, TRUNCATED_FACTORY, VIT_FACTORY, ViTShape, base_of

__all__ = [
    "Fusion",
    "Policy",
    "edvit_sketch",
    "initial_heads",
    "mlp_spec",
    "part_classes",
    "split",
    "sub_shape",
    "sub_spec",
]

MIB = 2**20
BUDGET_SHARE = 0.55  # 180 MB for a ViT-Base of 327 MB (section 5.2)

Policy: TypeAlias = Literal["largest-first", "uniform-divisors"]
"""Which heads are removed next: one of the largest sub-model (line 17), or of all, down the divisors of the heads."""

Fusion: TypeAlias = Literal["mlp", "retrain", "average"]
"""A row of Table 3."""


def sub_shape(shape: ViTShape, heads: int, classes: int) -> ViTShape:
    """Return the source's ``shape`` with ``heads`` of its heads: s d channels, s h heads, s c neurons."""
    return replace(shape, dim=shape.dim // shape.heads * heads, heads=heads, classes=classes)


def sub_spec(spec: ModuleSpec, dim: int, heads: int, classes: int) -> ModuleSpec:
    """Return how any process builds the sub-model: the source's own factory, with other dimensions.

    Raises:
        ValueError: the factory takes no dimensions.
    """
    params = dict(spec.params)
    if spec.factory == VIT_FACTORY:
        return replace(spec, params={**params, "dim": dim, "heads": heads, "classes": classes})
    if spec.factory == TIMM_FACTORY:
        args = {**(params.get("args") or {}), "embed_dim": dim, "num_heads": heads}
        return replace(spec, params={**params, "classes": classes, "args": args})
    if spec.factory == TRUNCATED_FACTORY:
        base = sub_spec(ModuleSpec(**params["base"]), dim, heads, classes)
        return replace(spec, params={**params, "base": base_of(base), "classes": classes})
    raise ValueError(f"edvit cannot build a narrower model of {spec.factory}: it takes vit and timm's ViTs")


def mlp_spec(dims: Sequence[int], hidden: int, classes: int) -> ModuleSpec:
    """Return how any process builds the fusion MLP: ``dims`` are the channels of the features it reads."""
    params = {"dims": list(dims), "hidden": hidden, "classes": classes}
    return ModuleSpec(factory="harness_edvit.fusion:fusion_mlp", params=params)


def part_classes(classes: int, parts: int) -> list[int]:
    """Return |C_1| ... |C_N|, which differ by at most one (line 5).

    Raises:
        ValueError: there are more parts than classes.
    """
    if parts > classes:
        raise ValueError(f"parts: {parts} is more than the {classes} classes; allowed are 1 to {classes}")
    return even_shares(classes, parts)


def initial_heads(parts: int, heads: int, hp: int | Sequence[int]) -> list[int]:
    """Return the heads that each of ``parts`` sub-models keeps before the loop: h - hp_1 ... h - hp_N.

    ``hp`` is one number for all sub-models, or one for each.

    Raises:
        ValueError: there is not one number per sub-model, or a sub-model would keep no head.
    """
    removed = [hp] * parts if isinstance(hp, int) else list(hp)
    if len(removed) != parts:
        raise ValueError(f"hp: {len(removed)} values for {parts} sub-models; write one number, or {parts}")
    if max(removed) >= heads:
        raise ValueError(f"hp: {max(removed)} of {heads} heads leaves none; allowed are 0 to {heads - 1}")
    return [heads - number for number in removed]


def split(
    heads: int,
    initial: Sequence[int],
    size: Callable[[int], int],
    budget: float,
    policy: Policy,
    assignable: Callable[[Sequence[int]], bool],
) -> list[int]:
    """Return the heads kept per sub-model of a source of ``heads``, within ``budget`` bytes together (lines 6 to 19).

    They start from ``initial``, a number per sub-model. A sub-model of k heads has ``size(k)`` bytes. ``assignable`` says
    whether devices can hold sub-models of these sizes.

    Raises:
        ValueError: even one head each is too much.
    """
    kept = list(initial)
    parts = len(kept)
    while True:  # line 6
        sizes = [size(k) for k in kept]  # line 8, of the sizes alone
        if sum(sizes) <= budget and assignable(sizes):  # lines 11 to 14
            return kept
        if max(kept) == 1:
            break
        if policy == "uniform-divisors":
            kept = [max(k for k in range(1, kept[0]) if heads % k == 0)] * parts
        else:
            largest = max(range(parts), key=lambda i: sizes[i])  # the first of equals
            kept[largest] -= 1  # line 17
    smallest = parts * size(1) / MIB
    if sum(sizes) > budget:
        raise ValueError(
            f"memory_budget_mb: {budget / MIB:.4g} is too small for {parts} sub-models of one head each; "
            f"the smallest that fits is {math.ceil(smallest * 1000) / 1000:g}"
        )
    raise ValueError(
        f"the devices have no memory for {parts} sub-models of one head each ({smallest:.3g} MiB)"
    )


def edvit_sketch(
    spec: ModuleSpec | None,
    fleet: Fleet,
    *,
    parts: int,
    budget_mb: float | None,
    hp: int | Sequence[int],
    policy: Policy,
    fusion: Fusion,
    shrinking: float,
) -> Sketch:
    """Return ``sub1`` ... ``subN``, which read the image, and ``fusion``, which reads their features.

    All sub-models together have at most ``budget_mb`` MiB, by default 0.55 of the source's size. ``hp`` are the heads
    removed of all, or of each, before Algorithm 1's loop. ``shrinking`` is lambda of the MLP. With averaged softmax ``fusion`` reads logits. The order of their classes is drawn when sub-models are
    trained, so it has no spec yet.

    Raises:
        ValueError: more parts than classes, a budget nothing fits in, no head left by ``hp``, or a source of unknown
            dimensions.
    """
    shape = ViTShape.from_spec(spec)
    if shape is None or spec is None:
        raise ValueError(
            "edvit needs the dimensions of a ViT; planning knows those of `vit`, and of timm's standard vit_* "
            "and deit_* without args"
        )
    owned = part_classes(shape.classes, parts)
    average = fusion == "average"
    budget = MIB * budget_mb if budget_mb else BUDGET_SHARE * shape.weight_bytes()

    def deployed(heads: int, own: int) -> ViTShape:
        return sub_shape(shape, heads, own + 1 if average else 0)

    kept = split(
        shape.heads,
        initial_heads(parts, shape.heads, hp),
        lambda heads: deployed(heads, max(owned)).weight_bytes(),
        budget,
        policy,
        lambda sizes: _assignable(sizes, fleet),
    )
    subs = [deployed(heads, own) for heads, own in zip(kept, owned, strict=True)]
    wide = sum(sub.dim for sub in subs)
    hidden = max(1, int(shrinking * wide))
    weights = 0 if average else wide * hidden + hidden * shape.classes
    biases = 0 if average else hidden + shape.classes
    return fused_sketch(
        [
            image_sketch(
                f"sub{i}",
                sub,
                sub.classes if average else sub.dim,
                sub_spec(spec, sub.dim, sub.heads, sub.classes),
            )
            for i, sub in enumerate(subs, 1)
        ],
        params=weights + biases,
        macs=weights,
        classes=shape.classes,
        spec=None if average else mlp_spec([sub.dim for sub in subs], hidden, shape.classes),
        decisions={
            "heads": kept,
            "classes": owned,
            "size_mb": [round(sub.weight_bytes() / MIB, 4) for sub in subs],
            "budget_mb": round(budget / MIB, 4),
        },
    )


def _assignable(sizes: Sequence[int], fleet: Fleet) -> bool:
    """Return whether the greedy finds memory for all ``sizes``. A plan without devices has no limit."""
    left = [device.memory_bytes for device in fleet.devices]
    for size in sorted(sizes, reverse=True):
        if not left:
            return True
        device = max(range(len(left)), key=lambda k: left[k])
        if left[device] < size:
            return False
        left[device] -= size
    return True
