"""The answers of a window. They are read inside the timed call, a sample is kept, and the runtime gets new pictures.

A runtime that returns before it has computed, or that remembers its answers, would give the times of something else.
Therefore every answer is read within the measured time. A sample of the answers, drawn with a seed that no plugin
knows, goes to the harness, which compares it with the answers of the accuracy run (:mod:`harness.measure.answers`).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import normalise, to_pixels
from harness.errors import DeviceError
from harness.types import Graph, WindowAnswers

__all__ = ["AnswerWatch", "changed_images", "new_pictures", "remembers", "time_changed"]

Array = NDArray[np.float32]

KEPT = 32
"""Largest number of answers that are compared after a window."""
KEPT_BYTES = 2**24
"""Largest number of bytes of these answers. At least one answer is kept."""
CHANGE = 1e-6
"""Largest change of a value in changed images, relative to the value."""
SHIFT = 8
"""New pictures are shifted by up to this part of their size in each direction."""
CONTRAST = 0.1
"""Largest relative change of the contrast of new pictures."""
PAIRS = 50
"""Largest number of pairs of queries, with known and with new pictures, that are timed."""
LEAST_PAIRS = 2
PAIRS_NS = 1_000_000_000
"""Time in nanoseconds after which no further pair begins, if ``LEAST_PAIRS`` have run."""
CERTAIN_PAIRS = 8
"""Smallest number of pairs that show a memory: the new ones of 8 pairs are all slower by chance once in 12870 times."""
SLOWER = 1.25
"""Factor by which new pictures must take longer."""


class AnswerWatch:
    """A reader of every answer, which keeps a random sample of them.

    ``inputs`` are the queries of the window: views [n, ...] of one contiguous array, in its order. ``answer`` is the
    shape of the answer to one batch, [batch, classes].
    """

    def __init__(self, inputs: Sequence[Array], answer: tuple[int, ...], seed: int | None = None) -> None:
        self._first = inputs[0]
        # numpy.random would be loaded within the window: 4 MB that would count as the model's
        self._random = Random(secrets.randbits(64) if seed is None else seed)
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

        The values are added and subtracted alternately. This reads all of them, and a NaN or infinity remains. A sum
        of large values, such as those that mask a class, would overflow.
        """
        total = self._sum
        if len(answer) != len(total):  # the last images of a multi-stream query
            total = total[: len(answer)]
        if self._n & 1:
            total -= answer
        else:
            total += answer
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
            slot = self._random.randrange(most)
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

    Each value changes by up to a millionth of itself, so zeros remain. If images cross a link as pixels (``graph``),
    one pixel of each image changes by one level, since a smaller change would be lost.
    """
    if graph is not None and graph.input_wire == "uint8":
        pixels = to_pixels(images, graph.mean, graph.std)
        flat = pixels.reshape(len(pixels), -1)
        at = np.arange(len(flat)), random.integers(flat.shape[1], size=len(flat))
        flat[at] = np.where(flat[at] < 255, flat[at] + 1, 254)
        return normalise(flat.reshape(pixels.shape), graph.mean, graph.std)
    factors = random.random(images.shape, np.float32)
    factors *= 2 * CHANGE
    factors += 1 - CHANGE
    factors *= images
    return factors


def new_pictures(images: Array, graph: Graph | None, random: np.random.Generator) -> Array:
    """Return pictures of the same kind that nobody has seen.

    They are ``images`` [n, channels, height, width], mirrored, shifted, and with another contrast, all at random. A
    cache whose key is rounded does not know them. A model whose time depends on the picture takes as long for them.
    Of inputs of another shape only the contrast differs.
    """
    pictures = np.empty_like(images)
    for index, image in enumerate(images):
        if image.ndim == 3:
            steps = [size // SHIFT for size in image.shape[1:]]
            shift = [int(random.integers(-step, step + 1)) for step in steps]
            image = np.roll(image[:, :, ::-1], shift, axis=(1, 2))
        np.multiply(image, np.float32(random.uniform(1 - CONTRAST, 1 + CONTRAST)), out=pictures[index])
    return changed_images(pictures, graph, random)


def remembers(same_ns: NDArray[np.int64], changed_ns: NDArray[np.int64]) -> bool:
    """Return whether new pictures take longer: nearly all of their times are ``SLOWER`` times nearly all of the others.

    A tenth of the times on each side, the most favourable ones, may be disturbed.
    """
    n = len(same_ns)
    spare = n // 10
    return n > 0 and bool(np.sort(changed_ns)[spare] > SLOWER * np.sort(same_ns)[n - 1 - spare])


def time_changed(
    query: Callable[[Array], object], inputs: Sequence[Array], graph: Graph | None, seed: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Measure queries with the window's images and with new pictures alternately.

    Return both times, each int64 [pairs] in nanoseconds. A runtime that remembers its answers is fast with the first
    and slow with the second.

    Before each pair there is a query with the images that precede these in the window: a runtime that knows its last
    image again is then as fast as it was there. At random there are two, since a machine that stalls at equal
    intervals could otherwise stall at each new picture. Both queries of a pair read from a buffer that was written beforehand
    and has since been left for one query, so their caches are equally warm. Few pairs are enough if they show no
    memory.
    """
    random = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    known, new = np.empty_like(inputs[0]), np.empty_like(inputs[0])
    times = np.zeros((2, PAIRS), np.int64)
    begin = time.perf_counter_ns()
    for index in range(PAIRS):
        images = inputs[index % len(inputs)]
        known[:], new[:] = images, new_pictures(images, graph, random)
        for _ in range(int(random.integers(1, 3))):
            query(inputs[(index - 1) % len(inputs)])
        for row, queried in enumerate((known, new)):
            start = time.perf_counter_ns()
            query(queried)
            times[row, index] = time.perf_counter_ns() - start
        n = index + 1
        same, changed = times[:, :n]
        late = n >= LEAST_PAIRS and time.perf_counter_ns() - begin >= PAIRS_NS
        if late and (n >= CERTAIN_PAIRS or not remembers(same, changed)):
            break
    return same.copy(), changed.copy()
