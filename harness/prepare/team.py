"""Several processes that make one node together. Rank 0 leads; it is the child that was given the node."""

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
from harness.store.artifacts import Store
from harness.train.ranks import PATIENCE_S, T, Team
from harness.types.plan import Node, StepTask

__all__ = ["Follower", "Leader", "Setup", "follow"]

ECHO_S = 1.0
"""A rank that dies makes the others fail within this time."""


@dataclass(frozen=True)
class Setup:
    """How preparing processes work.

    ``root``: of the store. ``block``: plugins that are left out. ``threads``: of each process. ``processes``: that
    make one node together. ``finish_s``: how long rank 0 waits for the others when it has made a node.
    """

    root: Path
    block: tuple[str, ...] = ()
    threads: int = 1
    processes: int = 1
    finish_s: float = PATIENCE_S


class Leader(Team):
    """Rank 0. It starts the other ranks with the first node.

    ``give_up`` is called with the failure of another rank, from any thread, and ends the process. ``follower`` is
    what the processes of the other ranks run.
    """

    def __init__(
        self, setup: Setup, give_up: Callable[[Failure], None], follower: Callable[..., None] | None = None
    ) -> None:
        super().__init__(0, setup.processes)
        self._setup, self._give_up, self._follower = setup, give_up, follower or follow
        self._followers: dict[Connection, BaseProcess] = {}
        self._done = threading.Semaphore(0)
        self._asking = threading.Lock()  # of two threads that ask for an exit code at once, one gets none
        self._node: Node | None = None

    @contextmanager
    def run_on_all(self, node: Node) -> Iterator[None]:
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
        made = make()
        # pickled here, for a connection's own pickler would share a tensor's memory
        data = pickle.dumps((what, made))
        for conn in self._followers:
            conn.send_bytes(data)
        return made

    def cause(self, failed: Failure) -> Failure:
        """Return the death of a rank if that is behind ``failed``, else ``failed``."""
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
        multiprocessing.current_process().daemon = False  # a daemon may have no children; these end with it
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

        A thread does so while the main thread computes, or waits for a rank that will not come.
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
    """Any other rank. ``conn`` leads to rank 0."""

    def __init__(self, rank: int, count: int, conn: Connection) -> None:
        super().__init__(rank, count)
        self._conn = conn

    def broadcast_object(self, what: str, make: Callable[[], T]) -> T:
        sent, made = pickle.loads(self._conn.recv_bytes())
        if sent != what:
            raise RuntimeError(
                f"training processes went different ways: the first is at {sent}, another at {what}"
            )
        return made  # type: ignore[no-any-return]


def follow(conn: Connection, rank: int, port: int, device: str, setup: Setup) -> None:
    """Run each node that rank 0 sends, and answer None or the failure. The main function of a follower's process."""
    os.dup2(2, 1)  # the parent's standard output is for its answer; a plugin may print
    die_with_parent()
    ranks = Follower(rank, setup.processes, conn)
    ranks.join(port, device, setup.threads)
    plugins, store = load_plugins(setup.block), Store(setup.root)
    while True:
        node = conn.recv()
        try:
            run_along(node, plugins, store, ranks)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; rank 0 reports it
            conn.send(failure(node, error, plugins))
        else:
            conn.send(None)
