"""The preparing process: orders come in over a pipe, progress and results go out."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from harness.plugins import load_plugins
from harness.prepare.messages import Done, Failure, Make, Message, Progress, TimePreprocessing
from harness.prepare.nodes import failure, preprocess_ms, run_node
from harness.prepare.team import Leader
from harness.processes import die_with_parent
from harness.store.artifacts import Store
from harness.train.ranks import ALONE

__all__ = ["main"]


def main(conn: Connection, root: str, block: tuple[str, ...], threads: int, processes: int = 1) -> None:
    """Carry out orders from ``conn`` until it closes. This process ends when its parent ends.

    With several ``processes`` this is rank 0 of as many, which train together.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    die_with_parent()
    import torch

    torch.set_num_threads(threads)
    plugins = load_plugins(block)
    store = Store(Path(root))
    sending = threading.Lock()

    def send(message: Message) -> None:
        with sending:
            conn.send(message)

    def give_up(message: Failure) -> None:
        with sending:
            conn.send(message)
            os._exit(1)

    leader = Leader(processes, Path(root), block, threads, give_up) if processes > 1 else None
    while True:
        try:
            order: Make | TimePreprocessing = conn.recv()
        except EOFError:
            return
        started = time.monotonic()
        answer = None
        try:
            if isinstance(order, TimePreprocessing):
                answer = preprocess_ms(order.node, plugins)
            else:
                run_node(
                    order.node,
                    plugins,
                    store,
                    lambda text, fraction: send(Progress(text, fraction)),
                    leader or ALONE,
                )
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the run continues
            message = failure(order.node, error, plugins)
            send(message if leader is None else leader.cause(message))
        else:
            send(Done(time.monotonic() - started, answer))
