"""The preparing child process: nodes in over a pipe, progress and results out."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.plugins import load_plugins
from harness.prepare.nodes import failure, run_node
from harness.prepare.team import Leader
from harness.store.artifacts import Store
from harness.train.ranks import ALONE

__all__ = ["main"]


def main(conn: Connection, root: str, block: tuple[str, ...], threads: int, processes: int = 1) -> None:
    """Serve nodes from ``conn`` until it closes. A parent that dies takes this process along.

    With several ``processes`` this is rank 0 of as many, which train together.
    """
    from harness.processes import die_with_parent

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    die_with_parent()
    import torch

    torch.set_num_threads(threads)
    plugins = load_plugins(block)
    store = Store(Path(root))
    speaking = threading.Lock()

    def say(*message: Any) -> None:
        with speaking:
            conn.send(message)

    def give_up(*message: Any) -> None:
        with speaking:
            conn.send(message)
            os._exit(1)

    leader = Leader(processes, Path(root), block, threads, give_up) if processes > 1 else None
    while True:
        try:
            node: Mapping[str, Any] = conn.recv()
        except EOFError:
            return
        started = time.monotonic()
        try:
            tell = partial(say, "progress", node["key"])
            answer = run_node(node, plugins, store, tell, leader or ALONE)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the run goes on
            message = failure(node, error)
            say(*(message if leader is None else leader.cause(message)))
        else:
            say("done", node["key"], time.monotonic() - started, answer)
