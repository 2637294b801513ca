"""What can be said of a board of the inventory by asking it."""

from __future__ import annotations

from datetime import date
from typing import Any

import harness
from harness.errors import BoardLost, HarnessError
from harness_remote import agent_pb2 as pb
from harness_remote.client.client import Client, Timeouts
from harness_remote.client.device import Reach
from harness_remote.client.framestream import probe_link
from harness_remote.client.peer import open_peer
from harness_remote.inventory.boards import info_of
from harness_remote.inventory.inventory import Inventory, target

__all__ = ["check_board"]

ANSWER_S = 15.0
WORKER_S = 60.0


def check_board(inventory: Inventory, name: str) -> dict[str, Any]:
    """Reach, version, lease, clock, link, and what the board says of itself; ``problem`` where it is not ``usable``.

    ``frames``: why it is no part of a fleet whose central node is this workstation, empty if it can be.
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
        _ask(name, reach, found)
        info_of(name, board.backend, board, found)
    except (HarnessError, ValueError) as error:
        return {**found, "problem": str(error)}
    return {**found, "usable": True}


def _ask(name: str, reach: Reach, found: dict[str, Any]) -> None:
    client = Client(name, reach.credentials, Timeouts(answer=ANSWER_S, work=WORKER_S))
    try:
        health = client.health()
        found |= {"version": health.version, "leased": health.leased, "link": None, "frames": None}
        found.update({key: value for key, value in client.describe().items() if key != "harness"})
        clock = client.clock()
        found["clock"] = {"offset_s": clock.offset_ns / 1e9, "error_ms": clock.error_ns / 1e6}
        if health.leased:
            return
        try:
            client.acquire()
        except BoardLost:  # someone was faster
            found["leased"] = True
            return
        client.call("Open", pb.OpenRequest(threads=1), pb.Done, work=True)
        found["link"] = probe_link(client)
        found["frames"] = _frames(reach, client)
    finally:
        client.close()


def _frames(reach: Reach, client: Client) -> str:
    try:
        details = {**reach.details("", client), "device": reach.board}
        open_peer(details, lambda answer: None).close()
    except OSError as error:
        return str(error)
    return ""
