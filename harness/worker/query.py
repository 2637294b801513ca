"""One query on its way through a partition, and the ways in which it can end."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.types import GraphPart

__all__ = ["SUBSTITUTED", "UNANSWERED", "WHOLE", "QueryInFlight"]

Array = NDArray[np.float32]

WHOLE, SUBSTITUTED, UNANSWERED = 0, 1, 2
"""The outcomes: answered by all parts, answered with a stand-in for a part, not answered in time."""


@dataclass
class QueryInFlight:
    """A query on its way through the graph. Times are in nanoseconds of this process's clock.

    ``waiting``: parts that are not started. ``values``: the image, and outputs by part. ``sent``: part -> (time of
    the request, bytes of the request). ``spent``: times by ``KIND:PART``.
    """

    number: int
    images: Array
    due_ns: int
    begin_ns: int
    slot: int | None
    waiting: dict[str, GraphPart]
    values: dict[str, Array]
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    stood_in: list[str] = field(default_factory=list)
    outcome: int = WHOLE
    end_ns: int = 0
    output: Array | None = None
    pixels: NDArray[np.uint8] | None = None

    @property
    def done(self) -> bool:
        """Return whether the query has ended."""
        return self.end_ns > 0
