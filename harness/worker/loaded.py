"""A part that a worker has loaded: a runtime's session with the tensors that its artifact declares."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DeviceError, first_line
from harness.types import Artifact, Session
from harness.types.json import Facts

__all__ = ["LoadedPart"]

FLOAT32 = np.dtype(np.float32)


class LoadedPart:
    """A session whose answers are checked when they arrive (:class:`harness.types.Session`).

    ``output`` is the declared shape of one sample's answer. The attributes ``facts`` and ``device_memory`` are those
    of the session. If the part ``replays``, ``rehearse`` is too. A runtime's own session never does, since its
    answers would not be checked for a memory.
    """

    def __init__(self, name: str, session: Session, artifact: Artifact, *, replays: bool = False) -> None:
        self._part = f"runtime {artifact.runtime}: part {name}"
        self._session = session
        self._inputs = [np.dtype(spec.dtype) for spec in artifact.inputs]
        self.output = tuple(artifact.output.shape)
        self._replays = replays
        self._runs = 0

    @property
    def facts(self) -> Facts:
        """Return what actually runs, according to the session."""
        return self._session.facts

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def __getattr__(self, name: str) -> Any:
        if name == "rehearse" and not self._replays:
            raise AttributeError(name)
        return getattr(self._session, name)

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Run one forward pass.

        ``inputs`` are [n, ...] in the declared element types; the output is float32 [n, *output]. The answer is in
        host memory when the function returns. An answer that is computed when it is read is computed here. The second
        run also checks whether the session changes its inputs. The first run does not, since it is timed.

        Raises:
            DeviceError: the answer is not what the artifact declares, or the session changed an input.
        """
        given = self._cast(inputs)
        self._runs += 1
        if self._runs == 2:
            return self._watched(given)
        return self._checked(self._session.run(given), len(given[0]))

    def _cast(self, inputs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return the inputs in the declared element types. They are the same object if they have these types."""
        if [value.dtype for value in inputs] == self._inputs:
            return inputs
        return tuple(
            value.astype(dtype, copy=False) for value, dtype in zip(inputs, self._inputs, strict=True)
        )

    def _watched(self, given: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        before = _checksums(given)
        answer = self._checked(self._session.run(given), len(given[0]))
        if before != _checksums(given):
            raise DeviceError(f"{self._part} changes its inputs in place; a session may only read them")
        return answer

    def _checked(self, answer: Any, n: int) -> NDArray[np.float32]:
        """Return the answer as an array in host memory."""
        if type(answer) is not np.ndarray:
            answer = self._array(answer)
        if answer.dtype != FLOAT32 or answer.shape[1:] != self.output or len(answer) != n:
            raise DeviceError(self._refused(answer, n))
        checked: NDArray[np.float32] = answer
        return checked

    def _array(self, answer: Any) -> NDArray[Any]:
        """Return another kind of answer as an array in host memory."""
        try:
            return np.asarray(answer)
        except (TypeError, ValueError, RuntimeError) as error:  # as of a tensor on a GPU, or with a gradient
            raise DeviceError(
                f"{self._part} answers a {type(answer).__name__}, which is no array in host memory: "
                f"{first_line(error)}"
            ) from error

    def _refused(self, answer: NDArray[Any], n: int) -> str:
        found = f"{answer.dtype} {list(answer.shape)}"
        return f"{self._part} answers {found}; its artifact declares float32 {[n, *self.output]}"


def _checksums(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Return a checksum of each array. A copy for comparison would count as the model's memory."""
    return [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]
