"""Read images for training and evaluation, in this process or ahead of their use in worker processes.

Decoding and augmenting an image of ImageNet takes milliseconds of one core. The pixels of a sample depend only on the
sample, its repetition and the seed of the epoch, so the number of worker processes never changes a result.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.data.splits import ImageSplit
from harness.errors import CellError, DeviceError, HarnessError, first_line, source_files
from harness.processes import die_with_parent, died, starting

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AHEAD", "CHUNK", "Draws", "Loader", "Pixels", "StoredPixels", "epoch_draws"]

CHUNK = 16
"""The number of images of one task of a worker process. Sixteen images of 224 x 224 pixels are 2.4 MB."""

AHEAD = 8
"""The number of tasks that each worker process has, finished or not, before their images are used."""


IMPORTED = ("harness.train.random_images", "torch.utils.data", "timm.data", "PIL.Image")
"""What worker processes import. It takes seconds and hundreds of megabytes, so it is done once for all."""


@dataclass(frozen=True)
class Draws:
    """Samples of one batch: positions in a split, int64 [n], the repetition of each, int64 [n], and the epoch's seed."""

    index: NDArray[np.int64]
    repeat: NDArray[np.int64]
    seed: int = 0

    @classmethod
    def of(cls, index: NDArray[np.int64], seed: int = 0) -> Draws:
        """Return the samples ``index``, each for the first time."""
        return cls(index, np.zeros(len(index), np.int64), seed)

    def part(self, first: int, last: int) -> Draws:
        """Return samples ``first`` to ``last`` - 1."""
        return Draws(self.index[first:last], self.repeat[first:last], self.seed)

    def __len__(self) -> int:
        return len(self.index)


def epoch_draws(samples: int, repeats: int, seed: Sequence[int]) -> Draws:
    """Return the samples of an epoch in random order, as many as there are.

    With ``repeats`` r only a share 1/r of the samples is drawn, each r times in a row (repeated augmentation: Hoffer et
    al., "Augment your batch", 2020, as DeiT does it).
    """
    order = np.random.default_rng(seed).permutation(samples)
    index = np.repeat(order, repeats)[:samples]
    return Draws(index, np.tile(np.arange(repeats), samples)[:samples])


class Pixels(Protocol):
    """A source of images. It can be pickled, so that a worker process can read it too."""

    def pixels(self, draws: Draws) -> NDArray[np.uint8]:
        """Return the images of ``draws``: uint8 [n, height, width, channels]."""
        ...


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """The images of a split as they are evaluated, without augmentation."""

    split: ImageSplit

    def pixels(self, draws: Draws) -> NDArray[np.uint8]:
        """Return the images of ``draws``, decoded and resized: uint8 [n, height, width, channels]."""
        return self.split.raw(draws.index)


class Loader:
    """Reads images of one or more sources, with ``workers`` processes or, if that is 0, in this one.

    The processes start when images are first read, and end with :meth:`close` or with this process. Each holds its own
    reader of every source. The process from which they are forked stays until this one ends.
    """

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers
        self._sources: list[Pixels] = []
        self._tasks = _Tasks()
        self._loader: Any = None
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, source: Pixels) -> int:
        """Return the number by which :meth:`read` knows ``source``. Add all sources before the first read.

        Raises:
            ValueError: the source cannot be sent to a worker process.
        """
        assert self._loader is None
        if self.workers:
            try:
                pickle.dumps(source)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                raise ValueError(
                    "the data set cannot be read in another process (its load is no function at a module's top level: "
                    f"{first_line(error)}); use prepare: {{workers: 0}}"
                ) from None
        self._sources.append(source)
        return len(self._sources) - 1

    def read(self, source: int, batches: Sequence[Draws]) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of each batch, in order: uint8 [n, height, width, channels].

        Raises:
            CellError: a worker process ended.
            DeviceError: reading an image raised an error that is not a :class:`~harness.errors.HarnessError`.
        """
        if not self.workers:
            for draws in batches:
                yield self._sources[source].pixels(draws)
            return
        self._tasks.items = [
            (source, draws.part(first, first + CHUNK))
            for draws in batches
            for first in range(0, len(draws), CHUNK)
        ]
        done = self._results()
        for draws in batches:
            images: NDArray[np.uint8] | None = None
            for first in range(0, len(draws), CHUNK):
                chunk = next(done)
                if images is None:
                    images = np.empty((len(draws), *chunk.shape[1:]), np.uint8)
                images[first : first + CHUNK] = chunk
            if images is not None:
                yield images

    def close(self) -> None:
        """End the worker processes."""
        self._loader = None  # torch ends them when nothing refers to its loader

    def _results(self) -> Iterator[NDArray[np.uint8]]:
        """Yield what the worker processes return for each task, in order."""
        try:
            loader, before = self._started(), multiprocessing.active_children()
            with starting():
                results = iter(loader)
            self._processes += [child for child in multiprocessing.active_children() if child not in before]
            for result in results:
                if isinstance(result, _Failure):
                    raise result.error()
                yield result
        except RuntimeError as error:
            codes = [process.exitcode for process in self._processes if process.exitcode]
            if "DataLoader worker" not in str(error) or not codes:
                raise
            raise CellError(died(codes[0], "a process that reads images"), stage="data") from None

    def _started(self) -> Any:
        if self._loader is None:
            import torch
            from torch.utils.data import DataLoader

            # Each worker is forked from one process that has imported what all need, which they share.
            context: Any = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(IMPORTED))
            # A daemon may not have children. These end with this process anyway.
            multiprocessing.current_process().daemon = False
            self._loader = DataLoader(
                _Reading(tuple(self._sources)),
                batch_size=None,
                sampler=self._tasks,
                num_workers=self.workers,
                prefetch_factor=AHEAD,
                persistent_workers=True,
                collate_fn=_as_is,  # arrays travel through a pipe: shared memory is short in a container
                worker_init_fn=_begin,
                multiprocessing_context=context,
                generator=torch.Generator(),  # otherwise torch draws from the generator of the training
            )
        return self._loader


class _Tasks:
    """The tasks of one pass, which torch's loader iterates over."""

    items: Sequence[tuple[int, Draws]] = ()

    def __iter__(self) -> Iterator[tuple[int, Draws]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class _Failure:
    """An error in a worker process: itself if it is one of the harness, else its text and its source files."""

    known: HarnessError | None
    text: str
    files: tuple[str, ...]

    def error(self) -> HarnessError:
        return self.known or DeviceError(self.text, files=self.files)


class _Reading:
    """What a worker process does: it reads the images of a task. An error becomes a result."""

    def __init__(self, sources: tuple[Pixels, ...]) -> None:
        self._sources = sources

    def __getitem__(self, task: tuple[int, Draws]) -> NDArray[np.uint8] | _Failure:
        source, draws = task
        try:
            return self._sources[source].pixels(draws)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the training process reports it
            known = isinstance(error, HarnessError) and not isinstance(error, CellError)
            text = first_line(error, kind=True)
            return _Failure(error if known else None, text, source_files(error))  # type: ignore[arg-type]


def _as_is(value: Any) -> Any:
    return value


def _begin(number: int) -> None:
    """Prepare a worker process. Ctrl-C is for the training process, which ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # a plugin may print, and standard output is only for the command's own output
    die_with_parent()
