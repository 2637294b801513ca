"""Check whether the answers of a window are those of the model. Otherwise its latencies mean nothing.

There are three checks. Each uses inputs that are drawn at random, so that no plugin knows them:

1. A sample of the window's answers is compared with the answers to the same images after the window.
2. Times with the window's images are compared with times with changed images (by a millionth of the values' range).
3. Answers to random test images are compared with the answers to the same images, changed by as little.

The first check finds a runtime that returns before it has computed. The second one finds a runtime that remembers
answers. The third one finds a runtime that looks up test images. Training on test data cannot be found in this way.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

from harness.measure.parity import compare
from harness.types import Graph, Samples
from harness.types.figures import WindowCheck
from harness.worker.answers import changed_images
from harness.worker.loadgen.queries import batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.measure.accuracy import Infer
    from harness.measure.cell_data import CellData

    Images = NDArray[np.float32]

__all__ = ["check_answers"]

REMEMBERS = 2.0
"""A runtime remembers answers if every query with changed images takes longer than this number of medians of the others."""
DRAWN = 8
"""Smallest number of test images whose answers are compared with those to the changed images."""
ROUNDING = 0.01
"""Relative difference that the change itself may cause, in addition to twice the runtime's tolerance."""


def check_answers(
    samples: Samples, infer: Infer, data: CellData, cycled: Images, graph: Graph, tolerance: float
) -> tuple[WindowCheck, str]:
    """Check a window's answers. Return the figures, and the problem in one line, or an empty text.

    Args:
        samples: the samples of the window.
        infer: inference by the workers of the window.
        data: the cell's test images.
        cycled: the window's images, float32 [m, channels, height, width].
        graph: the parts, and the form in which images are sent.
        tolerance: the runtime's tolerance, as for parity.
    """
    n, answers = samples.answers.n, samples.answers
    if answers.logits is None or answers.first is None or answers.size is None:
        return WindowCheck(why="the device keeps no answers of its window"), ""
    again = np.concatenate([infer(images) for images in _queried(samples, cycled)])
    compared = compare(again, answers.logits, tolerance)
    slower, remembers = _slower(samples)
    found = WindowCheck(n=n, compared=len(answers.first), max_rel=compared.max_rel, changed_ratio=slower)
    if not compared.ok:
        return found, f"answers of the window are not those after it: {compared.reason}"
    if remembers:
        return found, (
            f"the runtime remembers answers: a query with images that changed by a millionth takes {slower:.3g} times "
            "as long as one with the window's images"
        )
    images = data.images_at(_drawn(len(data.images), data.cell.task.measure.batch))
    changed = changed_images(images, graph, np.random.default_rng(secrets.randbits(64)))
    if graph.input_wire == "uint8":  # one level of a pixel is a real change with an unknown effect
        return found, ""
    moved = compare(infer(images), infer(changed), 2 * tolerance + ROUNDING)
    found = found.model_copy(update={"changed_n": len(images), "changed_max_rel": moved.max_rel})
    if not moved.ok:
        return found, (
            "answers to random test images change with the images' last digits, so they are not computed from the "
            f"pictures: {moved.reason}"
        )
    return found, ""


def _queried(samples: Samples, cycled: Images) -> list[Images]:
    """Return the images of each sampled answer. They are inferred as they were: a quantised batch has one scale."""
    first, size = samples.answers.first, samples.answers.size
    assert first is not None
    assert size is not None
    whole = np.concatenate(batches(cycled, samples.batch))
    return [whole[start : start + n] for start, n in zip(first.tolist(), size.tolist(), strict=True)]


def _slower(samples: Samples) -> tuple[float | None, bool]:
    """Return a ratio of times, and whether every query with changed images is slow.

    The ratio is the median time with changed images, divided by that with the window's images.
    """
    same, changed = samples.answers.same_ns, samples.answers.changed_ns
    if same is None or changed is None or not len(same):
        return None, False
    usual = float(np.median(same))
    return float(np.median(changed)) / max(usual, 1.0), bool(changed.min() > REMEMBERS * max(usual, 1.0))


def _drawn(n: int, batch: int) -> NDArray[np.int64]:
    """Return indices of test images in whole batches, drawn with a seed that no plugin knows."""
    random = np.random.default_rng(secrets.randbits(64))
    size = -(-DRAWN // batch) * batch
    return np.sort(random.choice(n, size, replace=size > n)).astype(np.int64)
