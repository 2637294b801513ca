"""Check whether the answers of a window are those of the model. Otherwise its latencies mean nothing.

There are three checks. Each uses inputs that are drawn at random:

1. A sample of the window's answers is compared with the answers to the same images after the window.
2. Times with the window's images are compared with times with pictures that the runtime never saw.
3. Answers to random test images are compared with the answers to the same images, changed by a millionth.

The first check finds a runtime that returns before it has computed. The second one finds a runtime that remembers
answers. The third one finds a runtime that looks up test images. These are mistakes, or shortcuts, of a runtime. Code
that wants to deceive runs in the process that measures it and cannot be found in this way. Nor can training on test
data.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

from harness.measure.parity import compare
from harness.types import Graph, Samples, WindowAnswers
from harness.types.figures import WindowCheck
from harness.worker.answers import changed_images, remembers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.measure.accuracy import Infer
    from harness.measure.cell_data import CellData

    Images = NDArray[np.float32]

__all__ = ["check_answers"]

DRAWN = 8
"""Smallest number of test images whose answers are compared with those to the changed images."""
ROUNDING = 0.01
"""Relative difference that the change itself may cause, in addition to twice the runtime's tolerance."""
REPEATED = 0.05
"""Largest relative difference of answers to the same images. A runtime may differ more from the built module."""
LOOK_S = 5.0
"""Seconds for which each comparison may run, estimated from the window's latencies. It has at least one query."""


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
    answers, batch = samples.answers, data.cell.task.measure.batch
    if answers.logits is None or answers.first is None or answers.size is None:
        outcome = samples.parts.outcome
        missed = outcome is not None and len(outcome) and outcome.all()
        why = "no query of the window was answered whole" if missed else "no answers of the window were kept"
        return WindowCheck(why=why), ""
    affordable = max(1, int(LOOK_S / max(_seconds(samples), 1e-9)))  # images
    compared, again, seen = _again(answers, infer, cycled, affordable, batch)
    max_rel, different = _difference(again, seen, min(tolerance, REPEATED))
    slower = _slower(answers)
    found = WindowCheck(n=answers.n, compared=compared, max_rel=max_rel, changed_ratio=slower)
    if different:
        return found, f"answers of the window are not those after it: {different}"
    same, new = answers.same_ns, answers.changed_ns
    if same is not None and new is not None and remembers(same, new):
        return found, (
            f"the runtime remembers answers: a query with new pictures takes {slower:.3g} times as long as one "
            "with the window's images"
        )
    if graph.input_wire == "uint8":  # one level of a pixel is a real change with an unknown effect
        return found, ""
    images = data.images_at(_drawn(len(data.images), batch, affordable))
    plain = infer(images)
    if bad := np.count_nonzero(~np.isfinite(plain).all(axis=1)):
        return found, f"answers to {bad} of {len(plain)} random test images are not finite"
    changed = infer(changed_images(images, graph, np.random.default_rng(secrets.randbits(64))))
    max_rel, different = _difference(plain, changed, 2 * tolerance + ROUNDING)
    found = found.model_copy(update={"changed_n": len(images), "changed_max_rel": max_rel})
    if different:
        return found, (
            "answers to random test images change with the images' last digits, so they are not computed from the "
            f"pictures: {different}"
        )
    return found, ""


def _seconds(samples: Samples) -> float:
    """Return the seconds that one image takes, without the time that queries waited."""
    trace = samples.trace
    spent = trace.latency_ns if trace.queue_ns is None else trace.latency_ns - trace.queue_ns
    return float(np.median(spent)) / 1e9 / samples.batch


def _again(
    answers: WindowAnswers, infer: Infer, cycled: Images, affordable: int, batch: int
) -> tuple[int, Images, Images]:
    """Return how many of the kept answers are compared, the answers after the window, and those of the window.

    The images are inferred in the queries in which they came, since a quantised batch has one scale. At most
    ``affordable`` images are inferred, but at least one query.
    """
    assert answers.first is not None
    assert answers.size is not None
    assert answers.logits is not None
    kept = list(zip(answers.first.tolist(), answers.size.tolist(), strict=True))
    picked: list[tuple[int, int]] = []
    for key in np.random.default_rng(secrets.randbits(64)).permutation(sorted(set(kept))).tolist():
        affordable -= key[1]
        if picked and affordable < 0:
            break
        picked.append((key[0], key[1]))
    full = [key for key in picked if key[1] == batch]
    again: dict[tuple[int, int], Images] = {}
    for group in [full] * bool(full) + [[key] for key in picked if key[1] != batch]:
        indices = np.concatenate([np.arange(first, first + size) for first, size in group])
        logits = infer(cycled[indices % len(cycled)])  # few images are repeated to fill a query
        again.update(zip(group, np.split(logits, len(group)), strict=True))
    seen = np.split(answers.logits, np.cumsum(answers.size)[:-1])
    pairs = [(again[key], logits) for key, logits in zip(kept, seen, strict=True) if key in again]
    after, before = zip(*pairs, strict=True)
    return len(pairs), np.concatenate(after), np.concatenate(before)


def _difference(reference: Images, got: Images, tolerance: float) -> tuple[float | None, str]:
    """Return the greatest relative difference, and what is wrong with it, or an empty text."""
    if np.isfinite(reference).all() and np.array_equal(reference, got):  # also if all are zero
        return 0.0, ""
    compared = compare(reference, got, tolerance)
    return compared.max_rel, compared.reason or ""


def _slower(answers: WindowAnswers) -> float | None:
    """Return the median time with new pictures, divided by that with the window's images."""
    same, changed = answers.same_ns, answers.changed_ns
    if same is None or changed is None or not len(same):
        return None
    return float(np.median(changed)) / max(float(np.median(same)), 1.0)


def _drawn(n: int, batch: int, affordable: int) -> NDArray[np.int64]:
    """Return indices of test images in whole batches, drawn with a seed that no plugin knows."""
    random = np.random.default_rng(secrets.randbits(64))
    size = -(-min(DRAWN, affordable) // batch) * batch
    return np.sort(random.choice(n, size, replace=size > n)).astype(np.int64)
