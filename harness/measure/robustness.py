"""Accuracy of a partition when parts do not answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import DeviceError
from harness.measure.accuracy import chunk
from harness.measure.cell_data import CellData
from harness.types import IMAGE, Graph

if TYPE_CHECKING:
    from harness.worker.process import WorkerProcess

__all__ = ["BATCH", "MAX_SUBSETS", "droppable", "missing_block", "subsets", "without"]


MAX_SUBSETS = 20
"""Subsets of missing parts tried of one size, where not all are: every single part is."""


BATCH = 64
"""Images at once where parts are missing."""


def droppable(graph: Graph) -> list[str]:
    """Parts for which something stands in wherever their output is taken."""
    found = []
    for part in graph.parts[:-1]:
        users = [one for one in graph.parts if part.name in one.inputs]
        if users and all(part.name in one.missing for one in users):
            found.append(part.name)
    return found


def subsets(names: Sequence[str], size: int, seed: int) -> list[tuple[str, ...]]:
    """Sets of ``size`` missing parts: all of them where they are few or single, else some drawn from ``seed``."""
    if size == 1 or comb(len(names), size) <= MAX_SUBSETS:
        return list(combinations(names, size))
    rng = Random(f"{seed} {size}")
    found: dict[tuple[int, ...], None] = {}
    while len(found) < MAX_SUBSETS:
        found[tuple(sorted(rng.sample(range(len(names)), size)))] = None
    return [tuple(names[index] for index in picked) for picked in sorted(found)]


def without(process: WorkerProcess, graph: Graph, data: CellData, most: int) -> dict[str, Any]:
    """Right answers on the test split for every set of up to ``most`` missing parts, int64 [sets], by number.

    What no missing part changes is computed once: a set costs only the parts that come after it.
    """
    names = droppable(graph)
    seed = data.cell.seed
    drops = {size: subsets(names, size, seed) for size in range(1, min(most, len(names)) + 1)}
    right = {size: np.zeros(len(sets), np.int64) for size, sets in drops.items()}
    with _Parts(process) as run:
        for start, ready in data.preprocessed(chunk(data.images, BATCH)):
            for offset in range(0, len(ready), BATCH):
                batch = ready[offset : offset + BATCH]
                truth = data.labels[start + offset : start + offset + len(batch)]
                whole = _outputs(graph, run, batch)
                for size, sets in drops.items():
                    for index, absent in enumerate(sets):
                        logits = _outputs(graph, run, batch, whole, absent)[graph.parts[-1].name]
                        right[size][index] += int((logits.argmax(axis=1) == truth).sum())
    return {f"right:{size}": count for size, count in right.items()}


def missing_block(graph: Graph, counted: Mapping[str, Any], data: CellData, most: int) -> dict[str, Any]:
    """A record's ``accuracy.missing``: top-1 in percent for each number of missing parts."""
    names, n, seed = droppable(graph), len(data.labels), data.cell.seed
    stands_in = {
        name: "mean" if values else "zeros"
        for part in data.export.parts
        for name, values in part.missing.items()
        if name in names
    }
    levels = []
    for size in range(1, min(most, len(names)) + 1):
        sets = subsets(names, size, seed)
        top1 = (np.asarray(counted[f"right:{size}"]) * (100 / n)).tolist()
        worst = min(range(len(sets)), key=top1.__getitem__)
        levels.append(
            {
                "missing": size,
                "sets": len(sets),
                "of": comb(len(names), size),
                "mean": float(np.mean(top1)),
                "min": min(top1),
                "max": max(top1),
                "worst": list(sets[worst]),
                "top1": {"+".join(absent): value for absent, value in zip(sets, top1, strict=True)},
            }
        )
    return {"on": "host", "n": n, "stands_in": stands_in, "levels": levels}


def _outputs(
    graph: Graph, run: _Parts, images: Any, whole: Mapping[str, Any] | None = None, absent: Sequence[str] = ()
) -> dict[str, Any]:
    """Every part's output; of parts that nothing ``absent`` comes before, that of the ``whole`` run."""
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
            _stand_in(graph, part.missing[one], one, len(images)) if one in absent else values[one]
            for one in part.inputs
        ]
        values[part.name] = run(part.name, inputs)
    return values


def _stand_in(graph: Graph, values: Sequence[float], name: str, n: int) -> Any:
    shape = next(part.output.shape for part in graph.parts if part.name == name)
    one = np.reshape(np.asarray(values, np.float32), shape) if values else np.zeros(shape, np.float32)
    return np.repeat(one[None], n, axis=0)


class _Parts:
    """Runs single parts in a worker, by the frames that peers answer (:mod:`harness.worker.frames`)."""

    def __init__(self, process: WorkerProcess) -> None:
        from multiprocessing.connection import Client

        from harness.worker.commands import Listen

        listening = process.ask(Listen())
        self._conn = Client(listening.address, authkey=bytes.fromhex(listening.key))

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._conn.close()

    def __call__(self, part: str, inputs: Sequence[Any]) -> Any:
        from harness.worker.frames import pack, unpack

        try:
            self._conn.send_bytes(b"".join(pack({"op": "run", "id": 0, "part": part}, inputs)))
            header, tensors = unpack(self._conn.recv_bytes())
        except (EOFError, OSError):
            raise DeviceError(f"the host's worker ended while it ran part {part}") from None
        if "error" in header:
            raise DeviceError(f"part {part} on the host: {header['error']}")
        return tensors[0]
