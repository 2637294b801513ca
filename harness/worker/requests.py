"""Answer the requests that a worker gets over its socket when another worker is the central one."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import normalise
from harness.types import Session
from harness.worker.frames import FrameError
from harness.worker.messages import Done, Keep, Run, Statistics

__all__ = ["Requests"]

Array = NDArray[np.float32]
MAX_KEPT_BYTES = 2**30


class Requests:
    """The answers to ``Run`` and ``Keep`` (:mod:`harness.worker.messages`), from the sessions of a worker.

    ``busy`` is held while a request is answered. ``first_ns`` is the time of the first request. Kept images take at
    most ``max_kept_bytes`` bytes.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        busy: threading.RLock | None = None,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self.first_ns = 0
        self._sessions = sessions
        self._busy = busy or threading.RLock()
        self._max_kept_bytes = max_kept_bytes
        self._slots: dict[int, list[Array]] = {}

    def answer(self, request: Run | Keep, tensors: Sequence[NDArray[Any]]) -> Done:
        """Return the answer to one request.

        Raises:
            FrameError: the part is not loaded, or the tensors do not fit. A session may raise anything else.
        """
        with self._busy:
            if isinstance(request, Run):
                return self._run(request, tensors)
            self._keep(request.slot, tensors)
            return Done(request.number)

    def _keep(self, slot: int, tensors: Sequence[NDArray[Any]]) -> None:
        """Keep tensors in a slot, in place of its earlier content."""
        self._slots.pop(slot, None)
        held = (tensor.nbytes for kept in (tensors, *self._slots.values()) for tensor in kept)
        if sum(held) > self._max_kept_bytes:
            raise FrameError(f"images that are kept: at most {self._max_kept_bytes} bytes in all")
        self._slots[slot] = list(tensors)

    def _run(self, request: Run, tensors: Sequence[NDArray[Any]]) -> Done:
        """Run a part on the tensors, and on those that are kept in its slot."""
        part = request.part
        if part not in self._sessions:
            raise FrameError(f"no part {part!r} is loaded")
        start = time.perf_counter_ns()
        sent = iter([_pixels(tensor, request.normalise) for tensor in tensors])
        kept = iter(self._slots.get(-1 if request.slot is None else request.slot, ()))
        places = request.places or ("tensor",) * len(tensors)
        try:
            inputs = tuple([next(kept if place == "slot" else sent) for place in places])
        except StopIteration:
            raise FrameError(f"part {part!r}: too few tensors, or an empty slot") from None
        session = self._sessions[part]
        run = session.run
        if request.rehearse:
            run = getattr(session, "rehearse", run)
        output = run(inputs)
        spent = time.perf_counter_ns() - start
        self.first_ns = self.first_ns or spent
        return Done(request.number, part, [output.astype(np.dtype(request.wire), copy=False)], spent)


def _pixels(tensor: NDArray[Any], statistics: Statistics | None) -> Array:
    """Return a tensor in the form that the model takes. Raw pixels are normalised."""
    if tensor.dtype.name != "uint8" or statistics is None:
        return tensor
    return normalise(tensor, statistics.mean, statistics.std)
