"""Prepare nodes in child processes, several at once. If a child dies, its node fails and the run continues."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from harness.prepare.child import main
from harness.prepare.messages import Done, Failure, Make, Message, Note, Progress, TimePreprocessing
from harness.prepare.team import Setup
from harness.processes import died, start
from harness.types.plan import Node

__all__ = ["Jobs", "NodeWatcher"]


class NodeWatcher(Protocol):
    """A protocol for objects that show the progress of nodes. Its methods are called from the main thread."""

    def node_started(self, node: Node) -> None:
        """Show that a node is started."""
        ...

    def node_progress(self, node: Node, text: str, fraction: float | None) -> None:
        """Show the progress of a node. ``fraction`` is the share that is done, 0 to 1, or None if it is unknown."""
        ...

    def node_finished(self, node: Node, seconds: float) -> None:
        """Show that a node's artifact is made, after ``seconds``."""
        ...

    def node_failed(self, node: Node, failure: Failure) -> None:
        """Show that a node failed, and why."""
        ...

    def noted(self, text: str) -> None:
        """Show a line that a person should know."""
        ...

    def tick(self) -> None:
        """Update the display. This is called twice a second."""
        ...


@dataclass
class _Child:
    process: BaseProcess
    conn: Connection
    node: Node | None = None


class Jobs:
    """A pool of at most ``count`` preparing processes. Each is started when there is work for it.

    ``keep`` gets the stage, key and traceback of each node that fails. It returns the name of the file in which the
    traceback is, or "".
    """

    def __init__(
        self, setup: Setup, count: int, keep: Callable[[str, str, str], str] = lambda stage, key, trace: ""
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._setup, self._count, self._keep = setup, count, keep
        self._children: list[_Child] = []

    def prepare(self, nodes: Sequence[Node], watcher: NodeWatcher) -> dict[str, Failure]:
        """Make all nodes, each after its inputs. Return the failures by key.

        A node that depends on a failed node has the same failure.
        """
        waiting = {node.key: node for node in nodes}
        failures: dict[str, Failure] = {}
        running: set[str] = set()
        while waiting or running:
            for node in list(waiting.values()):
                broken = next((failures[key] for key in node.inputs if key in failures), None)
                if broken is not None:
                    failures[node.key] = broken
                    del waiting[node.key]
                elif not any(key in waiting or key in running for key in node.inputs):
                    child = self._idle()
                    if child is None:
                        break
                    del waiting[node.key]
                    running.add(node.key)
                    child.node = node
                    self._send(child, Make(node))
                    watcher.node_started(node)
            for child in self._news(timeout=0.5):
                self._listen(child, running, failures, watcher)
            watcher.tick()
        return failures

    def preprocess_ms(self, node: Node) -> float | None:
        """Return the milliseconds to preprocess one test image of a data node, or None if they cannot be measured."""
        child = self._idle()
        assert child is not None
        self._send(child, TimePreprocessing(node))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if child.conn.poll(0.5):
                try:
                    message = child.conn.recv()
                except (EOFError, OSError):
                    break
                if isinstance(message, Done):
                    return message.preprocess_ms
                if isinstance(message, Failure):
                    return None
        self._drop(child)
        return None

    def close(self) -> None:
        """End all children within a second. The checkpoints of unfinished nodes are kept."""
        for child in self._children:
            child.process.terminate()  # the child then frees its resources of the system
        end = time.monotonic() + 1
        for child in list(self._children):
            child.process.join(max(0.0, end - time.monotonic()))
            self._drop(child)

    def _idle(self) -> _Child | None:
        """Return a child without work, or None. A child is started if there are fewer than ``count``."""
        for idle in [child for child in self._children if child.node is None]:
            if idle.process.is_alive():
                return idle
            self._drop(idle)  # the system may have ended it because memory is short
        if len(self._children) >= self._count:
            return None
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=main, args=(theirs, self._setup), daemon=True)
        start(process)
        theirs.close()
        started = _Child(process, ours)
        self._children.append(started)
        return started

    def _send(self, child: _Child, order: Make | TimePreprocessing) -> None:
        with suppress(ConnectionError):  # it has just ended, and the next read notices that
            child.conn.send(order)

    def _news(self, timeout: float) -> list[_Child]:
        """Return the children that sent a message or ended within ``timeout`` seconds."""
        busy = [child for child in self._children if child.node is not None]
        ready: list[Any] = wait([child.conn for child in busy], timeout)
        return [child for child in busy if child.conn in ready]

    def _listen(
        self, child: _Child, running: set[str], failures: dict[str, Failure], watcher: NodeWatcher
    ) -> None:
        node = child.node
        assert node is not None
        try:
            message: Message = child.conn.recv()
        except (EOFError, OSError):
            child.process.join(5)
            failure = Failure(node.stage, node.plugin, died(child.process.exitcode))
            self._drop(child)
        else:
            if isinstance(message, Progress):
                watcher.node_progress(node, message.text, message.fraction)
                return
            if isinstance(message, Note):
                watcher.noted(message.text)
                return
            child.node = None
            if isinstance(message, Done):
                running.discard(node.key)
                watcher.node_finished(node, message.seconds)
                return
            failure = replace(message, traceback=self._keep(message.stage, node.key, message.trace))
            if self._setup.processes > 1:  # the other ranks may wait for a rank that failed
                self._drop(child)
        running.discard(node.key)
        failures[node.key] = failure
        watcher.node_failed(node, failure)

    def _drop(self, child: _Child) -> None:
        self._children.remove(child)
        child.process.kill()
        child.process.join(2)
        child.conn.close()
