"""The first frames of a connection between boards: the central node's ticket, and the agent's welcome or refusal."""

from __future__ import annotations

from harness.worker.frames import FrameError, Pieces, header_of, pack
from harness.worker.messages import Failure, pack_failure

__all__ = ["pack_refusal", "pack_ticket", "pack_welcome", "refusal_of", "ticket_of"]


def pack_ticket(ticket: str) -> Pieces:
    """Return the frame with which a board asks to be let in."""
    return pack({"ticket": ticket})


def ticket_of(frame: bytes | memoryview) -> str:
    """Return the ticket in a board's first frame.

    Raises:
        FrameError: the frame has none.
    """
    ticket = header_of(frame)[0].get("ticket")
    if not isinstance(ticket, str):
        raise FrameError("no ticket")
    return ticket


def pack_welcome() -> Pieces:
    """Return the frame that lets a board in."""
    return pack({"id": None})


def pack_refusal(why: str) -> Pieces:
    """Return the frame that says why no answers come, or no more."""
    return pack_failure(Failure(None, why))


def refusal_of(frame: bytes | memoryview) -> str:
    """Return why an agent refuses this board; empty if the frame is a welcome.

    Raises:
        FrameError: the frame is neither.
    """
    error = header_of(frame)[0].get("error", "")
    if not isinstance(error, str):
        raise FrameError("an answer to the ticket whose error is no text")
    return error
