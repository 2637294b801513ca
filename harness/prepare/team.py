"""Several processes that make one node together. Rank 0 leads them; it is the child that got the order."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.errors import CellError
from harness.plugins import load_plugins
from harness.prepare.messages import Failure
from harness.prepare.nodes import failure, run_along
from harness.processes import die_with_parent, died, start
from harness.quiet import as_started
from harness.store.artifacts import Store
from harness.train.ranks import PATIENCE_S, T, Team
from harness.types.plan import Node, StepTask

__all__ = ["Follower", "Leader", "Setup", "follow"]

ECHO_S = 1.0
"""Time in seconds within which the other ranks fail after one rank dies."""


@dataclass(frozen=True)
class Setup:
    """The settings of preparing processes.

    ``root``: the folder of the store. ``block``: plugins that are not loaded. ``threads``: of each process.
    ``processes``: the number that make one node together. ``finish_s``: seconds that rank 0 waits for the others
    after it made a node. ``workers``: processes that each of them has to read images.
    """

    root: Path
    block: tuple[str, ...] = ()
    threads: int = 1
    processes: int = 1
    finish_s: float = PATIENCE_S
    workers: int = 0


class Leader(Team):
    """Rank 0. It starts the other ranks with the first node.

    ``give_up`` is called with the failure of another rank, from any thread, and ends the process. ``follower`` is the
    main function of the other ranks' processes.
    """

    def __init__(
        self, setup: Setup, give_up: Callable[[Failure], None], follower: Callable[..., None] | None = None
    ) -> None:
        super().__init__(0, setup.processes)
        self._setup, self._give_up, self._follower = setup, give_up, follower or follow
        self._followers: dict[Connection, BaseProcess] = {}
        self._done = threading.Semaphore(0)
        self._asking = threading.Lock()  # only one of two threads that ask for an exit code at once gets it
        self._node: Node | None = None

    @contextmanager
    def run_on_all(self, node: Node) -> Iterator[None]:
        """Have the other ranks run ``node`` as well. At the end of the block, wait for them.

        Raises:
            CellError: a rank is not done within ``finish_s`` seconds.
        """
        assert isinstance(node.task, StepTask)
        self._node = node
        if not self._followers:
            self._start(node.task.device)
        for conn in self._followers:
            conn.send(node)
        yield
        limit = time.monotonic() + self._setup.finish_s
        for _ in self._followers:
            if not self._done.acquire(timeout=max(0.0, limit - time.monotonic())):
                text = f"another training process is not done {self._setup.finish_s:g} s after the first"
                raise CellError(text, stage=node.stage)

    def broadcast_object(self, what: str, make: Callable[[], T]) -> T:
        """Return ``make()``, and send it to the other ranks."""
        made = make()
        # pickled here, since the pickler of a connection would share a tensor's memory
        data = pickle.dumps((what, made))
        for conn in self._followers:
            conn.send_bytes(data)
        return made

    def cause(self, failed: Failure) -> Failure:
        """Return the death of a rank if it caused ``failed``, else ``failed``. This takes a second."""
        time.sleep(ECHO_S)
        with self._asking:
            for rank, process in enumerate(self._followers.values(), start=1):
                if process.exitcode is not None:
                    return self._failed(rank, died(process.exitcode))
        return failed

    def _failed(self, rank: int, why: str) -> Failure:
        assert self._node is not None
        text = f"training process {rank + 1} of {self.count}: {why}"
        return Failure(self._node.stage, self._node.plugin, text)

    def _start(self, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        # A daemon may not have children. The children end with this process anyway.
        multiprocessing.current_process().daemon = False
        listener = socket.create_server(("127.0.0.1", 0), backlog=self.count)
        port = listener.getsockname()[1]
        for rank in range(1, self.count):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, port, device, self._setup)
            process = context.Process(target=self._follower, args=arguments, daemon=True)
            start(process)
            theirs.close()
            self._followers[ours] = process
        threading.Thread(target=self._watch, daemon=True).start()
        self.join(port, device, self._setup.threads, listener.detach())

    def _watch(self) -> None:
        """Note each rank that is done, and give up when one fails.

        This runs in a thread, since the main thread computes, or may wait for a rank that has failed.
        """
        while True:
            connections = list(self._followers)
            for conn in wait(connections):
                assert isinstance(conn, Connection)
                try:
                    failed: Failure | None = conn.recv()
                except (EOFError, OSError):
                    failed = self._failed(connections.index(conn) + 1, "its connection ended")
                if failed is None:
                    self._done.release()
                else:
                    self._give_up(self.cause(failed))


class Follower(Team):
    """Any rank other than 0. ``conn`` is the connection to rank 0."""

    def __init__(self, rank: int, count: int, conn: Connection) -> None:
        super().__init__(rank, count)
        self._conn = conn

    def broadcast_object(self, what: str, make: Callable[[], T]) -> T:
        """Return the object that rank 0 made. ``make`` is not called.

        Raises:
            RuntimeError: rank 0 sent something other than ``what``.
        """
        sent, made = pickle.loads(self._conn.recv_bytes())
        if sent != what:
            raise RuntimeError(
                f"the training processes are at different steps: the first one at {sent}, another one at {what}"
            )
        return made  # type: ignore[no-any-return]


def follow(conn: Connection, rank: int, port: int, device: str, setup: Setup) -> None:
    """Run each node that rank 0 sends, and answer with None or the failure.

    It is the main function of a follower's process.
    """
    os.dup2(2, 1)  # a plugin may print, and the parent's standard output is only for the parent's own output
    die_with_parent()
    as_started()
    ranks = Follower(rank, setup.processes, conn)
    ranks.join(port, device, setup.threads)
    plugins, store = load_plugins(setup.block), Store(setup.root)
    while True:
        node = conn.recv()
        try:
            run_along(node, plugins, store, ranks, setup.workers)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; rank 0 reports it
            conn.send(failure(node, error, plugins))
        else:
            conn.send(None)
