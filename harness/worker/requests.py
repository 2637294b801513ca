"""The requests that a worker answers over its socket, when another worker is the central one."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import normalise
from harness.types import Session
from harness.types.json import JsonObject
from harness.worker.frames import DTYPES, FrameError
from harness.worker.peers import MAX_KEPT_BYTES, MAX_SLOTS

__all__ = ["Requests"]

Array = NDArray[np.float32]


class Requests:
    """Answers ``run`` and ``keep`` (:mod:`harness.worker.frames`) with the sessions of a worker.

    ``busy`` is held while a request is answered. ``first_ns`` is the time of the first one. The images that are kept
    hold at most ``max_kept_bytes``.
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

    def answer(
        self, header: JsonObject, tensors: Sequence[NDArray[Any]]
    ) -> tuple[JsonObject, Sequence[Array]]:
        """Return header and tensors of the answer to one frame.

        Raises:
            FrameError: the request is unknown or is not what its header says. A session may raise anything else.
        """
        with self._busy:
            match header.get("op"):
                case "run":
                    return self._run(header, tensors)
                case "keep":
                    self._keep(header, tensors)
                    return {}, ()
                case op:
                    raise FrameError(f"no such request: {op!r}")

    def _keep(self, header: JsonObject, tensors: Sequence[NDArray[Any]]) -> None:
        """Keep tensors in a slot, in place of what was there."""
        slot = header.get("slot")
        if type(slot) is not int or not 0 <= slot < MAX_SLOTS:
            raise FrameError(f"slot: 0 to {MAX_SLOTS - 1}")
        self._slots.pop(slot, None)
        kept = [_pixels(tensor, header) for tensor in tensors]
        held = (tensor.nbytes for tensors in (kept, *self._slots.values()) for tensor in tensors)
        if sum(held) > self._max_kept_bytes:
            raise FrameError(f"images that are kept: at most {self._max_kept_bytes} bytes in all")
        self._slots[slot] = kept

    def _run(self, header: JsonObject, tensors: Sequence[NDArray[Any]]) -> tuple[JsonObject, Sequence[Array]]:
        """Run a part on tensors, and on those that its slot keeps."""
        part = header.get("part")
        if not isinstance(part, str) or part not in self._sessions:
            raise FrameError(f"no part {part!r} is loaded")
        start = time.perf_counter_ns()
        sent = iter([_pixels(tensor, header) for tensor in tensors])
        kept = iter(self._slots.get(header.get("slot", -1), ()))
        places = header.get("from") or ["tensor"] * len(tensors)
        try:
            inputs = tuple([next(kept if place == "slot" else sent) for place in places])
        except StopIteration:
            raise FrameError(f"part {part!r}: too few tensors, or an empty slot") from None
        session = self._sessions[part]
        run = session.run
        if header.get("rehearse") is True:
            run = getattr(session, "rehearse", run)
        output = run(inputs)
        spent = time.perf_counter_ns() - start
        self.first_ns = self.first_ns or spent
        wire = header.get("wire", "float32")
        if wire not in DTYPES:
            raise FrameError(f"wire: {wire!r}; allowed: {', '.join(DTYPES)}")
        return {"compute_ns": spent}, [output.astype(np.dtype(wire), copy=False)]


def _pixels(tensor: NDArray[Any], header: JsonObject) -> Array:
    """Return a tensor as the model takes it: raw pixels are normalised here."""
    if tensor.dtype.name != "uint8" or "normalise" not in header:
        return tensor
    statistics = header["normalise"]
    return normalise(tensor, statistics["mean"], statistics["std"])
