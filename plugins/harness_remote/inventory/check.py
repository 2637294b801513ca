"""What can be said of a board of the inventory by asking it."""

from __future__ import annotations

from dataclasses import asdict
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

__all__ = ["check_board"]

ANSWER_S = 15.0
WORKER_S = 60.0


def check_board(inventory: Inventory, name: str) -> dict[str, Any]:
    """Return reach, version, lease, clock, link, and the board's description; ``problem`` if it is not ``usable``.

    ``frames`` is why the board cannot be part of a fleet whose central node is this workstation, and empty if it can.
    ``link`` is measured where frames pass: None if they do not, or if someone else holds the board.
    """
    board = inventory.boards[name]
    found: dict[str, Any] = {
        "name": name,
        "target": target(board.host, board.port),
        "backend": board.backend,
        "emulated": board.emulated,
        "checked": date.today().isoformat(),
        "harness": harness.__version__,
        "usable": False,
        "problem": "",
    }
    try:
        credentials = inventory.credentials(name)
        reach = Reach(board=name, credentials=credentials, via={}, frames_port=board.frames_port)
        info_of(name, board.backend, board, _ask(name, reach, found))
    except (HarnessError, ValueError) as error:
        return {**found, "problem": str(error)}
    return {**found, "usable": True}


def _ask(name: str, reach: Reach, found: dict[str, Any]) -> BoardDescription:
    """Put what the board answers into ``found``, and return its description."""
    client = Client(name, reach.credentials, Timeouts(answer=ANSWER_S, work=WORKER_S))
    try:
        health = client.health()
        found |= {"version": health.version, "leased": health.leased, "link": None, "frames": None}
        described = client.describe()
        found.update({key: value for key, value in asdict(described).items() if key != "harness"})
        clock = client.clock()
        found["clock"] = {"offset_s": clock.offset_ns / 1e9, "error_ms": clock.error_ns / 1e6}
        if health.leased:
            return described
        try:
            client.acquire()
        except BoardLost:  # someone was faster
            found["leased"] = True
            return described
        client.work(Open(threads=1))
        found["frames"] = ""
        try:
            found["link"] = probe_link({**reach.details("", client), "device": reach.board}, ANSWER_S)
        except OSError as error:
            found["frames"] = str(error)
        return described
    finally:
        client.close()
