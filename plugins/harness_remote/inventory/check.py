"""Check whether a board of the inventory can be used, and measure its clock and link."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import harness
from harness.errors import BoardLost, HarnessError
from harness_remote.client.client import Client, Timeouts
from harness_remote.client.probe import probe_link
from harness_remote.client.transport import Reach
from harness_remote.inventory.boards import info_of
from harness_remote.inventory.inventory import Inventory, target
from harness_remote.wire.board import BoardDescription
from harness_remote.wire.commands import Open

__all__ = ["BoardCheck", "check_board"]

ANSWER_S = 15.0
WORKER_S = 60.0


@dataclass(kw_only=True)
class BoardCheck:
    """The result of a check. ``problem`` is the reason why the board is not ``usable``.

    ``version`` is the version of the agent's harness. ``leased`` is true if someone holds the board.
    ``clock_offset_s`` is the board's clock minus this host's, within ``clock_error_ms``. ``link``
    (:func:`~harness_remote.client.probe.probe_link`) is measured over the port for frames, if nobody else holds the
    board. ``frames`` is the reason why the board cannot be part of a fleet whose central device is this host: empty
    if it can, None if it was not tried. Values that were not read are None.
    """

    name: str
    target: str
    backend: str
    emulated: bool
    checked: str = field(default_factory=lambda: date.today().isoformat())
    usable: bool = False
    problem: str = ""
    version: str | None = None
    leased: bool = False
    link: dict[str, float] | None = None
    frames: str | None = None
    clock_offset_s: float | None = None
    clock_error_ms: float | None = None
    description: BoardDescription | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the check in the form of ``harness devices check --json``. docs/hardware.md is filled from it."""
        head = ("name", "target", "backend", "emulated", "checked")
        shown: dict[str, Any] = {key: getattr(self, key) for key in head}
        shown |= {"harness": harness.__version__, "usable": self.usable, "problem": self.problem}
        if self.version is not None:
            reached = ("version", "leased", "link", "frames")
            shown |= {key: getattr(self, key) for key in reached}
        if self.description is not None:
            described = asdict(self.description)
            shown |= {key: value for key, value in described.items() if key != "harness"}
        if self.clock_offset_s is not None:
            shown["clock"] = {"offset_s": self.clock_offset_s, "error_ms": self.clock_error_ms}
        return shown


def check_board(inventory: Inventory, name: str) -> BoardCheck:
    """Connect to a board, and return its description and whether it can be used. An error becomes its ``problem``."""
    board = inventory.boards[name]
    check = BoardCheck(
        name=name, target=target(board.host, board.port), backend=board.backend, emulated=board.emulated
    )
    try:
        credentials = inventory.credentials(name)
        reach = Reach(board=name, credentials=credentials, via={}, frames_port=board.frames_port)
        info_of(name, board.backend, board, _ask(reach, check))
        check.usable = True
    except (HarnessError, ValueError) as error:
        check.problem = str(error)
    return check


def _ask(reach: Reach, check: BoardCheck) -> BoardDescription:
    """Fill ``check`` with the board's answers, and return its description."""
    client = Client(check.name, reach.credentials, Timeouts(answer=ANSWER_S, work=WORKER_S))
    try:
        health = client.health()
        check.version, check.leased = health.version, health.leased
        description = check.description = client.describe()
        clock = client.clock()
        check.clock_offset_s, check.clock_error_ms = clock.offset_ns / 1e9, clock.error_ns / 1e6
        if health.leased:
            return description
        try:
            client.acquire()
        except BoardLost:  # another client was faster
            check.leased = True
            return description
        client.work(Open(threads=1))
        check.frames = ""
        try:
            check.link = probe_link({**reach.details("", client), "device": reach.board}, ANSWER_S)
        except OSError as error:
            check.frames = str(error)
        return description
    finally:
        client.close()
