"""Accuracy of a partition when parts do not answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.errors import DeviceError
from harness.measure.accuracy import chunk
from harness.measure.cell_data import CellData
from harness.types import IMAGE, Graph
from harness.types.figures import MissingLevel, MissingParts
from harness.worker.commands import Listen
from harness.worker.messages import Run, answer_of, pack_request
from harness.worker.process import WorkerProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float32]

__all__ = ["BATCH", "MAX_SUBSETS", "count_correct", "droppable", "missing_parts", "subsets"]


MAX_SUBSETS = 20
"""Largest number of sets of absent parts that are tried for one size. All single parts are tried."""


BATCH = 64
"""Number of images that are inferred at once."""


def droppable(graph: Graph) -> list[str]:
    """Return the names of the parts that may be missing: every part that takes their output has a stand-in for it."""
    names = []
    for part in graph.parts[:-1]:
        users = [user for user in graph.parts if part.name in user.inputs]
        if users and all(part.name in user.stand_ins for user in users):
            names.append(part.name)
    return names


def subsets(names: Sequence[str], size: int, seed: int) -> list[tuple[str, ...]]:
    """Return the sets of ``size`` absent parts that are tried.

    All sets are tried if ``size`` is 1 or there are at most :data:`MAX_SUBSETS`. Otherwise that many are drawn at
    random.
    """
    if size == 1 or comb(len(names), size) <= MAX_SUBSETS:
        return list(combinations(names, size))
    rng = Random(f"{seed} {size}")
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < MAX_SUBSETS:
        drawn.add(tuple(sorted(rng.sample(range(len(names)), size))))
    return [tuple(names[index] for index in picked) for picked in sorted(drawn)]


def count_correct(
    process: WorkerProcess, graph: Graph, data: CellData, most: int
) -> dict[int, NDArray[np.int64]]:
    """Count right answers on the test split for every set of up to ``most`` absent parts.

    Outputs that an absent part does not change are computed once. A set therefore costs only the parts after the
    missing ones.

    Returns:
        Number of absent parts -> number of right answers, int64 [sets], in the order of :func:`subsets`.
    """
    names = droppable(graph)
    seed = data.cell.seed
    drops = {size: subsets(names, size, seed) for size in range(1, min(most, len(names)) + 1)}
    correct = {size: np.zeros(len(sets), np.int64) for size, sets in drops.items()}
    with _Parts(process) as run:
        for start, images in data.preprocessed(chunk(data.images, BATCH)):
            for offset in range(0, len(images), BATCH):
                batch = images[offset : offset + BATCH]
                true = data.labels[start + offset : start + offset + len(batch)]
                whole = _outputs(graph, run, batch)
                for size, sets in drops.items():
                    for index, absent in enumerate(sets):
                        logits = _outputs(graph, run, batch, whole, absent)[graph.parts[-1].name]
                        correct[size][index] += int((logits.argmax(axis=1) == true).sum())
    return correct


def missing_parts(graph: Graph, correct: Mapping[int, NDArray[np.int64]], data: CellData) -> MissingParts:
    """Return top-1 in percent for each number of absent parts, from the counts of :func:`count_correct`."""
    names, n, seed = droppable(graph), len(data.labels), data.cell.seed
    stands_in = {
        name: "mean" if values else "zeros"
        for part in data.export.parts
        for name, values in part.stand_ins.items()
        if name in names
    }
    levels = []
    for size, counts in sorted(correct.items()):
        sets = subsets(names, size, seed)
        top1: list[float] = (counts * (100 / n)).tolist()
        worst = min(range(len(sets)), key=top1.__getitem__)
        levels.append(
            MissingLevel(
                missing=size,
                sets=len(sets),
                of=comb(len(names), size),
                mean=float(np.mean(top1)),
                min=min(top1),
                max=max(top1),
                worst=list(sets[worst]),
                top1={"+".join(absent): value for absent, value in zip(sets, top1, strict=True)},
            )
        )
    return MissingParts(on="host", n=n, stands_in=stands_in, levels=levels)


def _outputs(
    graph: Graph,
    run: _Parts,
    images: Array,
    whole: Mapping[str, Array] | None = None,
    absent: Sequence[str] = (),
) -> dict[str, Array]:
    """Return the output of every part that is not ``absent``.

    ``whole`` contains the outputs with no part absent. They are taken for all parts whose inputs are not changed.
    """
    values = {IMAGE: images}
    changed = set(absent)
    for part in graph.parts:
        if part.name in absent:
            continue
        if whole is not None and not changed.intersection(part.inputs):
            values[part.name] = whole[part.name]
            continue
        changed.add(part.name)
        inputs = [
            _stand_in(graph, part.stand_ins[source], source, len(images))
            if source in absent
            else values[source]
            for source in part.inputs
        ]
        values[part.name] = run(part.name, inputs)
    return values


def _stand_in(graph: Graph, values: Sequence[float], name: str, n: int) -> Array:
    """Return the stand-in for the output of part ``name``, [n, ...]: ``values`` for each image, or zeros."""
    shape = next(part.output.shape for part in graph.parts if part.name == name)
    single = np.reshape(np.asarray(values, np.float32), shape) if values else np.zeros(shape, np.float32)
    return np.repeat(single[None], n, axis=0)


class _Parts:
    """A function that runs single parts in a worker, through frames (:mod:`harness.worker.messages`)."""

    def __init__(self, process: WorkerProcess) -> None:
        listening = process.ask(Listen())
        try:
            self._conn = Client(listening.address, authkey=bytes.fromhex(listening.key))
        except (EOFError, OSError, AuthenticationError):
            raise DeviceError("the host's worker ended before it ran a part") from None

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._conn.close()

    def __call__(self, part: str, inputs: Sequence[Array]) -> Array:
        try:
            self._conn.send_bytes(b"".join(pack_request(Run(0, part), inputs)))
            answer = answer_of("the host", self._conn.recv_bytes())
        except (EOFError, OSError):
            raise DeviceError(f"the host's worker ended while it ran part {part}") from None
        if answer.output is None:
            raise DeviceError(f"part {part} on the host: {answer.error}")
        return answer.output
