"""Requests that workers send to each other in frames, and the answers, as typed values.

Only this file knows the keys of a frame's header (:mod:`harness.worker.frames`). A request has ``op`` and ``id``. Its
answer repeats ``id``, and ``part`` if there is one. It has ``queue_ns``, or the text ``error``.

A request with an unknown key is refused, because a half-understood request would give a wrong figure. An unknown key
of an answer is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

from harness.types import Answer
from harness.worker.frames import (
    DTYPES,
    MAX_TENSORS,
    FrameError,
    Pieces,
    header_of,
    pack,
    size_of,
    unpack,
    with_header,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.types.json import JsonObject

__all__ = [
    "MAX_NAME",
    "MAX_SLOTS",
    "Done",
    "Echo",
    "Failure",
    "Keep",
    "Request",
    "RequestRefused",
    "Run",
    "Statistics",
    "answer_of",
    "pack_done",
    "pack_failure",
    "pack_request",
    "read_request",
    "request_of",
    "requeued",
]

MAX_SLOTS = 4096
MAX_NAME = 200
"""Largest length of a part's name, in characters."""
MAX_ERROR = 2000
"""Largest length of an error's text, in characters."""
MAX_FILES = 20


class Statistics(NamedTuple):
    """The mean and standard deviation of each channel, with which raw pixels are normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Run(NamedTuple):
    """A request to run ``part`` on the frame's tensors, and on the tensors that are kept in ``slot``.

    ``wire`` is the element type in which the output is sent. ``places`` says for each input of the part whether it is
    a ``tensor`` of the frame or one of the ``slot``. It is empty if all inputs are tensors of the frame.
    ``normalise`` applies to uint8 tensors.
    """

    number: int
    part: str
    wire: str = "float32"
    rehearse: bool = False
    slot: int | None = None
    places: tuple[str, ...] = ()
    normalise: Statistics | None = None


class Keep(NamedTuple):
    """A request to keep the frame's tensors in ``slot``, in place of its earlier content."""

    number: int
    slot: int


class Echo(NamedTuple):
    """A request to answer with ``reply_bytes`` zeros at once.

    ``worker``: the board's worker must answer, not its agent.
    """

    number: int
    reply_bytes: int = 0
    worker: bool = False


Request: TypeAlias = Run | Keep | Echo


class Done(NamedTuple):
    """The answer to a request that was carried out. ``compute_ns`` is None if no part was run."""

    number: int
    part: str = ""
    outputs: Sequence[NDArray[Any]] = ()
    compute_ns: int | None = None


class Failure(NamedTuple):
    """The answer to a request that failed, or (``number`` None) the last message to a peer.

    ``files`` are the source files of the stack frames in which the error arose, outermost first.
    """

    number: int | None
    error: str
    part: str = ""
    files: tuple[str, ...] = ()


class RequestRefused(FrameError):
    """A frame is not a request, or not one that a peer may send. ``number`` and ``part`` are those that it names."""

    def __init__(self, why: str, number: int | None = None, part: str = "") -> None:
        super().__init__(why)
        self.number = number
        self.part = part


# --- requests ---


def pack_request(request: Request, tensors: Sequence[NDArray[Any]] = ()) -> Pieces:
    """Return the frame of a request.

    Raises:
        FrameError: the tensors do not fit into a frame (:func:`harness.worker.frames.pack`).
    """
    header: JsonObject
    if isinstance(request, Run):
        header = {"op": "run", "id": request.number, "part": request.part, "wire": request.wire}
        if request.rehearse:
            header["rehearse"] = True
        if request.slot is not None:
            header["slot"] = request.slot
        if request.places:
            header["from"] = request.places
        if request.normalise is not None:
            header["normalise"] = {"mean": request.normalise.mean, "std": request.normalise.std}
    elif isinstance(request, Keep):
        header = {"op": "keep", "id": request.number, "slot": request.slot}
    else:
        header = {"op": "echo", "id": request.number, "reply_bytes": request.reply_bytes}
        if request.worker:
            header["worker"] = True
    return pack(header, tensors)


def read_request(frame: bytes | memoryview) -> tuple[Request, list[NDArray[Any]]]:
    """Return the request in a frame, and the frame's tensors.

    Raises:
        RequestRefused: the frame has an unknown request, or a wrong value.
        FrameError: the bytes are not a frame.
    """
    header, tensors = unpack(frame)
    return _request(header), tensors


def request_of(frame: bytes | memoryview) -> Request:
    """Return the request in a frame. The tensors are not read.

    Raises:
        RequestRefused: the frame has an unknown request, or a wrong value.
        FrameError: the bytes are not a frame.
    """
    return _request(header_of(frame)[0])


def _request(header: JsonObject) -> Request:
    number, part = header.get("id"), header.get("part")
    try:
        if not _is_number(number):
            raise FrameError("id: a whole number below 2^63 in size")
        op = header.get("op")
        if op == "run":
            return _run(number, part, header)
        if op == "keep":
            _only(header, _KEEP_KEYS)
            return Keep(number, _slot(header.get("slot")))
        if op == "echo":
            _only(header, _ECHO_KEYS)
            size = header.get("reply_bytes", 0)
            if not _is_count(size):
                raise FrameError("reply_bytes: a whole number from 0")
            return Echo(number, size, _switch(header, "worker"))
        if not isinstance(op, str):
            raise FrameError("op: run, keep or echo")
        raise FrameError(f"no request {op[:40]!r} on this stream")
    except FrameError as error:
        raise RequestRefused(
            str(error), number=number if _is_number(number) else None, part=part if _is_name(part) else ""
        ) from None


_COMMON = frozenset({"op", "id", "tensors"})
_RUN_KEYS = _COMMON | {"part", "wire", "rehearse", "slot", "from", "normalise"}
_KEEP_KEYS = _COMMON | {"slot"}
_ECHO_KEYS = _COMMON | {"reply_bytes", "worker"}


def _run(number: int, part: Any, header: JsonObject) -> Run:
    _only(header, _RUN_KEYS)
    if not _is_name(part):
        raise FrameError(f"part: a name of at most {MAX_NAME} characters")
    wire = header.get("wire", "float32")
    if wire not in DTYPES:
        raise FrameError(f"wire: one of {', '.join(DTYPES)}")
    return Run(
        number,
        part,
        wire,
        _switch(header, "rehearse"),
        _slot(header["slot"]) if "slot" in header else None,
        _places(header["from"]) if "from" in header else (),
        _statistics(header["normalise"]) if "normalise" in header else None,
    )


def _places(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise FrameError("from: a list of tensor and slot")
    for place in value:
        if place not in ("tensor", "slot"):
            raise FrameError("from: a list of tensor and slot")
    return tuple(value)


def _only(header: JsonObject, known: frozenset[str]) -> None:
    if not header.keys() <= known:
        unknown = next(key for key in header if key not in known)
        raise FrameError(f"unknown key {unknown[:40]!r}; known are {', '.join(sorted(known))}")


def _slot(slot: Any) -> int:
    if type(slot) is not int or not 0 <= slot < MAX_SLOTS:
        raise FrameError(f"slot: 0 to {MAX_SLOTS - 1}")
    return slot


def _switch(header: JsonObject, key: str) -> bool:
    value = header.get(key, False)
    if value is not True and value is not False:
        raise FrameError(f"{key}: true or false")
    return bool(value)


def _statistics(value: Any) -> Statistics:
    if isinstance(value, dict) and value.keys() == {"mean", "std"}:
        mean, std = value["mean"], value["std"]
        if _are_numbers(mean) and _are_numbers(std) and len(mean) == len(std):
            return Statistics(tuple(mean), tuple(std))
    raise FrameError("normalise: mean and std, a number for each channel")


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _is_number(value: Any) -> TypeGuard[int]:
    return type(value) is int and -(2**63) < value < 2**63


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_NAME


# --- answers ---


def pack_done(done: Done, queue_ns: int) -> Pieces:
    """Return the frame of an answer. ``queue_ns``: nanoseconds in the device that were not spent on computing."""
    header: JsonObject = {"id": done.number}
    if done.part:
        header["part"] = done.part
    if done.compute_ns is not None:
        header["compute_ns"] = done.compute_ns
    header["queue_ns"] = queue_ns
    return pack(header, done.outputs)


def pack_failure(failure: Failure) -> Pieces:
    """Return the frame of an error answer. ``error`` and ``files`` are shortened so that they fit into a header."""
    header: JsonObject = {"id": failure.number}
    if failure.part:
        header["part"] = failure.part
    header["error"] = failure.error[:MAX_ERROR]
    if files := [file for file in failure.files if len(file) < 1000 and file.isascii()][-MAX_FILES:]:
        header["files"] = files
    return pack(header)


def answer_of(device: str, frame: bytes | memoryview) -> Answer:
    """Return the answer in a frame of ``device``. After a frame without an answer the peer counts as lost."""
    try:
        header, tensors = unpack(frame)
        return _answer(device, header, tensors, size_of([frame]))
    except FrameError as error:
        return Answer(peer=device, query=-1, part="", error=f"answers with {error}", lost=True)


def _answer(device: str, header: JsonObject, tensors: Sequence[NDArray[Any]], size: int) -> Answer:
    number, part, error = header.get("id"), header.get("part", ""), header.get("error", "")
    if number is not None and not _is_number(number):
        raise FrameError("an id that is no whole number")
    if not _is_name(part) or not isinstance(error, str):
        raise FrameError("a part or an error that is no text")
    queue_ns, compute_ns = header.get("queue_ns", 0), header.get("compute_ns", 0)
    if not _is_count(queue_ns) or not _is_count(compute_ns):
        raise FrameError("a time that is no number of nanoseconds")
    files = header.get("files", [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise FrameError("files that are no list of names")
    return Answer(
        peer=device,
        query=-1 if number is None else number,
        part=part,
        output=tensors[0] if tensors else None,
        error=error,
        files=tuple(files),
        queue_ns=queue_ns,
        compute_ns=compute_ns,
        received_bytes=size,
    )


def requeued(answer: bytes | memoryview, spent_ns: int) -> Pieces:
    """Return the answer with ``queue_ns`` set to ``spent_ns`` minus its computing time. The tensors are not read.

    Raises:
        FrameError: the bytes are not an answer.
    """
    header, body = header_of(answer)
    compute_ns = header.get("compute_ns", 0)
    if not _is_count(compute_ns):
        raise FrameError("an answer whose compute_ns is no number of nanoseconds")
    header["queue_ns"] = max(0, spent_ns - compute_ns)
    return with_header(header, body)
