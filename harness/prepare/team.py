"""Several processes that make one node together."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.errors import CellError
from harness.prepare.messages import Failure
from harness.processes import start
from harness.train.ranks import _PATIENCE_S, T, _Team
from harness.types.plan import Node, StepTask

__all__ = ["Follower", "Leader", "follow"]


_ECHO_S = 1.0  # a rank that dies makes the others fail within this time


class Leader(_Team):
    """Rank 0: starts the others with the first node. ``give_up`` gets the message of a failure elsewhere and ends
    the process."""

    def __init__(
        self, count: int, root: Path, block: tuple[str, ...], threads: int, give_up: Callable[[Failure], None]
    ) -> None:
        super().__init__(0, count)
        self._root, self._block, self._threads, self._give_up = root, block, threads, give_up
        self._followers: dict[Connection, BaseProcess] = {}
        self._done = threading.Semaphore(0)
        self._asking = threading.Lock()  # of two threads that ask for an exit code at once, one gets none
        self._node: Node | None = None

    @contextmanager
    def together(self, node: Node) -> Iterator[None]:
        assert isinstance(node.task, StepTask)
        self._node = node
        if not self._followers:
            self._start(node.task.device)
        for conn in self._followers:
            conn.send(node)
        yield
        limit = time.monotonic() + _PATIENCE_S
        for _ in self._followers:
            if not self._done.acquire(timeout=max(0.0, limit - time.monotonic())):
                text = f"another training process is not done {_PATIENCE_S:g} s after the first"
                raise CellError(text, stage=node.stage)

    def lead(self, what: str, decide: Callable[[], T]) -> T:
        decided = decide()
        data = pickle.dumps(
            (what, decided)
        )  # by value: a connection's own pickler would share a tensor's memory
        for conn in self._followers:
            conn.send_bytes(data)
        return decided

    def cause(self, failure: Failure) -> Failure:
        """What to tell of a failure: the death of a rank, if that is behind it."""
        from harness.processes import died

        time.sleep(_ECHO_S)
        with self._asking:
            for rank, process in enumerate(self._followers.values(), start=1):
                if process.exitcode is not None:
                    return self._failed(rank, died(process.exitcode))
        return failure

    def _failed(self, rank: int, why: str) -> Failure:
        text = f"training process {rank + 1} of {self.count}: {why}"
        assert self._node is not None
        return Failure(self._node.stage, self._node.plugin, text)

    def _start(self, device: str) -> None:

        context = multiprocessing.get_context("spawn")
        multiprocessing.current_process().daemon = False  # a daemon may have no children; these end with it
        listener = socket.create_server(("127.0.0.1", 0), backlog=self.count)
        port = listener.getsockname()[1]
        for rank in range(1, self.count):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, self.count, port, str(self._root), self._block, self._threads, device)
            process = context.Process(target=follow, args=arguments, daemon=True)
            start(process)
            theirs.close()
            self._followers[ours] = process
        threading.Thread(target=self._watch, daemon=True).start()
        self.join(port, device, self._threads, listener.detach())

    def _watch(self) -> None:
        """While the main thread computes, or waits for a rank that will not come."""
        while True:
            connections = list(self._followers)
            for conn in wait(connections):
                assert isinstance(conn, Connection)
                try:
                    failure = conn.recv()
                except (EOFError, OSError):
                    failure = self._failed(connections.index(conn) + 1, "its connection ended")
                if failure is None:
                    self._done.release()
                else:
                    self._give_up(self.cause(failure))


class Follower(_Team):
    """Any other rank."""

    def __init__(self, rank: int, count: int, conn: Connection) -> None:
        super().__init__(rank, count)
        self._conn = conn

    def lead(self, what: str, decide: Callable[[], T]) -> T:
        at, decided = pickle.loads(self._conn.recv_bytes())
        if at != what:
            raise RuntimeError(
                f"training processes went different ways: the first is at {at}, another at {what}"
            )
        return decided  # type: ignore[no-any-return]


def follow(
    conn: Connection,
    rank: int,
    count: int,
    port: int,
    root: str,
    block: tuple[str, ...],
    threads: int,
    device: str,
) -> None:
    """A follower's process: run each node that rank 0 runs, answer ``None`` or the failure."""
    from harness.plugins import load_plugins
    from harness.prepare import nodes as prepare
    from harness.processes import die_with_parent
    from harness.store.artifacts import Store

    die_with_parent()
    ranks = Follower(rank, count, conn)
    ranks.join(port, device, threads)
    plugins, store = load_plugins(block), Store(Path(root))
    while True:
        node = conn.recv()
        try:
            prepare.run_along(node, plugins, store, ranks)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; rank 0 tells
            conn.send(prepare.failure(node, error, plugins))
        else:
            conn.send(None)
