"""The preparing process. Orders come in over a pipe, and progress and results go out."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from harness.plugins import load_plugins
from harness.prepare.messages import Done, Failure, Make, Message, Note, Progress, TimePreprocessing
from harness.prepare.nodes import failure, preprocess_ms, run_node
from harness.prepare.team import Leader, Setup
from harness.processes import die_with_parent
from harness.quiet import as_started
from harness.store.artifacts import Store
from harness.train.ranks import SINGLE_PROCESS

__all__ = ["main"]


def main(conn: Connection, setup: Setup) -> None:
    """Carry out orders from ``conn`` until it closes. This process ends when its parent ends.

    If ``setup`` asks for several processes, this one is rank 0.
    """
    os.dup2(2, 1)  # a plugin may print, and the parent's standard output is only for the parent's own output
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    die_with_parent()
    as_started()
    import torch

    torch.set_num_threads(setup.threads)
    plugins = load_plugins(setup.block)
    sending = threading.Lock()

    def send(message: Message) -> None:
        with sending:
            conn.send(message)

    def give_up(message: Failure) -> None:
        with sending:
            conn.send(message)
            os._exit(1)

    def progress(text: str, fraction: float | None) -> None:
        send(Progress(text, fraction))

    store = Store(setup.root, report=lambda text: send(Note(text)))
    leader = Leader(setup, give_up) if setup.processes > 1 else None
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
                run_node(order.node, plugins, store, progress, leader or SINGLE_PROCESS, setup.workers)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the run continues
            message = failure(order.node, error, plugins)
            send(message if leader is None else leader.cause(message))
        else:
            send(Done(time.monotonic() - started, answer))
