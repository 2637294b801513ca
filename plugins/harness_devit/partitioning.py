"""Data partitioning (section IV-B, Eq. 4): divide the classes into N groups, and the images with them.

Readings taken:

- Classes are drawn without replacement (Eq. 4), so each is in one group.
- Importance is taken on training images that the sub-teacher has not seen; the paper takes the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.methods import class_groups, own_images, subset
from harness.types import Context, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SubTask", "held_out", "partition_classes", "partition_data"]


@dataclass(frozen=True, kw_only=True)
class SubTask:
    """The dataset Omega_i of the ``classes`` that one sub-model answers for, labelled 0 ... N_i - 1 in their order.

    The images of ``train`` that the sub-teacher learns from are ``seen``. Importance is taken on the ``unseen`` ones.
    """

    name: str
    classes: tuple[int, ...]
    train: Split
    seen: Split
    unseen: Split
    validation: Split | None


def partition_data(ctx: Context, sizes: Sequence[int], share: float) -> list[SubTask]:
    """Return Omega_1 ... Omega_N of ``sizes`` classes each (Algorithm 1, lines 1 to 4).

    A sub-teacher does not see a ``share`` of its images.

    Raises:
        ValueError: a class has fewer than two training images, one of which is to be held out.
    """
    groups = partition_classes(sizes, ctx.seed)  # line 1
    return [_sub_task(ctx, f"sub{i}", group, share) for i, group in enumerate(groups, 1)]  # line 2


def partition_classes(sizes: Sequence[int], seed: int) -> tuple[tuple[int, ...], ...]:
    """Draw the classes 0 to sum(``sizes``) - 1 without replacement, in N groups of ``sizes`` classes (line 3)."""
    draw = np.random.RandomState(seed)  # its stream is the same in every version of numpy
    return class_groups(sizes, draw)


def _sub_task(ctx: Context, name: str, classes: tuple[int, ...], share: float) -> SubTask:
    """Return Omega_i, the images of ``classes`` (line 4). The sub-teacher does not see a ``share`` of them."""
    train = own_images(ctx.data.train, classes, needed_by="devit, data partition")
    validation = own_images(ctx.data.validation, classes) if len(ctx.data.validation) else None
    unseen = held_out(train.labels, share, ctx.seed)
    return SubTask(
        name=name,
        classes=classes,
        train=train,
        seen=subset(train, np.setdiff1d(np.arange(len(train)), unseen)),
        unseen=subset(train, unseen),
        validation=validation if validation is not None and len(validation) else None,
    )


def held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return the positions of a ``share`` of each class's images in ``labels`` [n], ascending: at least one, never all.

    If the share is 0, there are none.

    Raises:
        ValueError: a class has one image only.
    """
    if share == 0:
        return np.zeros(0, np.int64)
    positions = []
    for label in np.unique(labels):
        members = np.random.RandomState([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(
                f"devit, data partition: class {label} of a part has {len(members)} training image"
            )
        positions.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    return np.sort(np.concatenate(positions))
