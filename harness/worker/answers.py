"""The answers of a window. They are read inside the timed call, a sample is kept, and the runtime gets changed
images.

A runtime that returns before it has computed, or that remembers its answers, would give the times of something else.
Therefore every answer is read within the measured time. A sample of the answers, drawn with a seed that no plugin
knows, goes to the harness, which compares it with the answers of the accuracy run (:mod:`harness.measure.answers`).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import normalise, to_pixels
from harness.errors import DeviceError
from harness.types import Graph, WindowAnswers

__all__ = ["AnswerWatch", "changed_images", "time_changed"]

Array = NDArray[np.float32]

KEPT = 16
"""Largest number of answers that are compared after a window."""
KEPT_BYTES = 2**24
"""Largest number of bytes of these answers. At least one answer is kept."""
CHANGE = 1e-6
"""Largest change of a value in changed images, relative to the largest value of the images."""
PAIRS = 50
"""Largest number of pairs of queries, unchanged and changed, that are timed."""
LEAST_PAIRS = 3
PAIRS_NS = 1_000_000_000
"""Time in seconds after which no further pair begins, if ``LEAST_PAIRS`` have run."""


class AnswerWatch:
    """A reader of every answer, which keeps a random sample of them.

    ``inputs`` are the queries of the window: views [n, ...] of one contiguous array, in its order. ``answer`` is the
    shape of the answer to one batch, [batch, classes].
    """

    def __init__(self, inputs: Sequence[Array], answer: tuple[int, ...], seed: int | None = None) -> None:
        self._first = inputs[0]
        self._random = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
        most = min(KEPT, max(1, KEPT_BYTES // max(1, 4 * math.prod(answer))))
        self._sum = np.full(answer, 0, np.float32)
        self._answers = np.full((most, *answer), 0, np.float32)  # writing puts it into memory now
        self._images: list[Array] = []
        self._n = self._next = 0
        self._weight = 1.0

    @property
    def nbytes(self) -> int:
        """Return the size of the sample in bytes."""
        return self._sum.nbytes + self._answers.nbytes

    def watch(self, query: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Return a function that calls ``query`` and reads each answer before it returns."""

        def watched(images: Array) -> Array:
            answer = query(images)
            self.read(images, answer)
            return answer

        return watched

    def read(self, images: Array, answer: Array) -> None:
        """Read the answer [n, ...] to ``images``, where n is at most the batch.

        This takes a part of the query's time.

        The values are summed. This reads all of them, and a NaN or infinity remains in the sum.
        """
        if len(answer) == len(self._sum):
            self._sum += answer
        else:  # the last images of a multi-stream query
            self._sum[: len(answer)] += answer
        if self._n == self._next:
            self._keep(images, answer)
        self._n += 1

    def _keep(self, images: Array, answer: Array) -> None:
        """Put an answer into the sample, and draw the next one to keep (K.-H.

        Li, ACM TOMS 20(4), 1994, algorithm L).
        """
        most, slot = len(self._answers), len(self._images)
        if slot < most:
            self._images.append(images)
        else:
            slot = int(self._random.integers(most))
            self._images[slot] = images
        self._answers[slot, : len(answer)] = answer
        skipped = 0
        if len(self._images) == most:
            self._weight *= math.exp(math.log(1 - self._random.random()) / most)
            skipped = int(math.log(1 - self._random.random()) / math.log1p(-self._weight))
        self._next = self._n + 1 + skipped

    def seen(self) -> WindowAnswers:
        """Return the sample.

        Raises:
            DeviceError: an answer is not finite.
        """
        if not np.isfinite(self._sum).all():
            raise DeviceError(
                f"answers of the window are not finite: NaN or infinity among {self._n} answers"
            )
        if not self._images:
            return WindowAnswers()
        start = _address(self._first)
        offsets = [_address(images) - start for images in self._images]
        sizes = [len(images) for images in self._images]
        return WindowAnswers(
            n=self._n,
            first=np.array(offsets, np.int64) // self._first[0].nbytes,
            size=np.array(sizes, np.int64),
            logits=np.concatenate(
                [answer[:size] for answer, size in zip(self._answers, sizes, strict=False)]
            ),
        )


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def changed_images(images: Array, graph: Graph | None, random: np.random.Generator) -> Array:
    """Return images with invisible changes: other bytes, but the same picture.

    Each value changes by up to a millionth of the largest one. If images cross a link as pixels (``graph``), one
    pixel of each image changes by one level, since a smaller change would be lost.
    """
    if graph is not None and graph.input_wire == "uint8":
        pixels = to_pixels(images, graph.mean, graph.std)
        flat = pixels.reshape(len(pixels), -1)
        at = np.arange(len(flat)), random.integers(flat.shape[1], size=len(flat))
        flat[at] = np.where(flat[at] < 255, flat[at] + 1, 254)
        return normalise(flat.reshape(pixels.shape), graph.mean, graph.std)
    scale = CHANGE * float(np.abs(images).max() or 1.0)
    noise = random.uniform(-scale, scale, images.shape).astype(np.float32)
    changed: Array = images + noise
    return changed


def time_changed(
    query: Callable[[Array], object], inputs: Sequence[Array], graph: Graph | None, seed: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Measure queries with the window's images and with changed ones alternately.

    Return both times, each int64 [pairs] in nanoseconds. A runtime that remembers its answers is fast with the first
    and slow with the second.
    """
    random = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    same: list[int] = []
    changed: list[int] = []
    begin = time.perf_counter_ns()
    for index in range(PAIRS):
        images = inputs[index % len(inputs)]
        other = changed_images(images, graph, random)
        pair = ((images, same), (other, changed))
        for queried, times in pair if index % 2 else reversed(pair):  # the second query finds warm caches
            start = time.perf_counter_ns()
            query(queried)
            times.append(time.perf_counter_ns() - start)
        if index + 1 >= LEAST_PAIRS and time.perf_counter_ns() - begin >= PAIRS_NS:
            break
    return np.array(same, np.int64), np.array(changed, np.int64)
