"""The bytes that cross the links of a fleet in one query."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from harness.types import IMAGE, Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["crossing_bytes"]


def crossing_bytes(graph: Graph, remote: Collection[str], images: NDArray[np.float32]) -> dict[str, int]:
    """Return ``input_bytes`` of images and ``feature_bytes`` of outputs for the query ``images`` [n, ...].

    The request of each part in ``remote``, on another worker, carries all inputs of the part. These may include
    outputs that the same worker has computed, since every output goes to the central worker first. The answer carries
    the output. Headers of frames are not counted.
    """
    sizes = {
        part.name: len(images) * math.prod(part.output.shape) * np.dtype(part.wire_dtype).itemsize
        for part in graph.parts
    }
    sizes[IMAGE] = images.size * (1 if graph.input_wire == "uint8" else images.itemsize)
    sent = {"input_bytes": 0, "feature_bytes": 0}
    for part in graph.parts:
        if part.name not in remote:
            continue
        for source in part.inputs:
            sent["input_bytes" if source == IMAGE else "feature_bytes"] += sizes[source]
        sent["feature_bytes"] += sizes[part.name]
    return sent
