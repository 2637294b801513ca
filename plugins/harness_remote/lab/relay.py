"""A TCP relay that delays bytes by :class:`~harness_remote.lab.link.LinkModel`: one process, one listener per route.

The supervisor starts it, with its routes as JSON on standard input. The listening sockets are inherited.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import selectors
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from harness_remote.lab.link import LinkModel, Port

__all__ = ["Model", "Relay", "Route", "main"]

LOOKAHEAD_S = 0.02
"""Bytes are read from the sender's socket this many seconds before their turn, so that ports are shared fairly and the
buffers here are bounded."""

CHUNK_S = 0.002
CHUNK_BYTES = (1460, 65_536)
MAX_CHUNKS = 1024
MAX_CONNECTIONS = 400  # select() supports 1024 descriptors; a connection has two
CONNECT_S = 5.0
PR_SET_TIMERSLACK = 29


@dataclass(frozen=True)
class Model:
    """The settings of all links: ``rate`` in bits per second (None: no limit), ``rtt`` in seconds.

    If ``shared``, boards share links by port instead of having one per pair.
    """

    rate: float | None
    rtt: float
    shared: bool


@dataclass(frozen=True)
class Route:
    """The route of connections from ``source`` to ``target``: from the inherited socket ``fd`` to ``address``."""

    fd: int
    source: str
    target: str
    address: tuple[str, int]


class Relay:
    """All routes of a lab with one :class:`Model`."""

    def __init__(self, model: Model, routes: Sequence[Route]) -> None:
        self._model = model
        self._routes = routes
        self._ports: dict[tuple[str, str], Port] = {}
        self._joined: set[asyncio.Future[None]] = set()

    def link(self, source: str, target: str) -> LinkModel:
        """Return the link for bytes from ``source`` to ``target``, whichever of them opened the connection."""
        names = [(source, "out"), ("in", target)] if self._model.shared else [(source, target)]
        ports = tuple(self._ports.setdefault(name, Port()) for name in names)
        return LinkModel(self._model.rate, self._model.rtt / 2, ports)

    async def start(self) -> list[asyncio.Server]:
        """Begin to accept connections, and return the servers."""
        return [await self._listen(route) for route in self._routes]

    async def _listen(self, route: Route) -> asyncio.Server:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._joined) >= MAX_CONNECTIONS:
                writer.transport.abort()
                return
            task = asyncio.ensure_future(self._join(route, reader, writer))
            self._joined.add(task)  # asyncio keeps no reference to a task whose connection is gone
            task.add_done_callback(self._joined.discard)

        return await asyncio.start_server(accept, sock=socket.socket(fileno=route.fd), backlog=64)

    async def _join(self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            far_reader, far_writer = await asyncio.wait_for(
                asyncio.open_connection(*route.address), CONNECT_S
            )
        except (OSError, asyncio.TimeoutError):
            writer.transport.abort()
            return
        await asyncio.sleep(begun + self._model.rtt - clock())  # a connection takes a round trip
        tasks = [
            asyncio.ensure_future(coroutine)
            for coroutine in (
                *_way(reader, far_writer, self.link(route.source, route.target)),
                *_way(far_reader, writer, self.link(route.target, route.source)),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        except OSError:  # one side is gone, so the other is closed too
            writer.transport.abort()
            far_writer.transport.abort()
        finally:
            for task in tasks:
                task.cancel()
            writer.close()
            far_writer.close()


_Sent = asyncio.Queue["tuple[float, bytes]"]


def _way(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: LinkModel
) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
    """Return the two tasks that carry one direction of a connection until its end, and forward the end."""
    sent: _Sent = asyncio.Queue(MAX_CHUNKS)
    return _take(reader, sent, link), _deliver(sent, writer)


async def _take(reader: asyncio.StreamReader, sent: _Sent, link: LinkModel) -> None:
    clock = asyncio.get_running_loop().time
    size = _chunk(link.rate)
    data = b"."
    while data:
        if (early := link.ahead(clock()) - LOOKAHEAD_S) > 0:
            await asyncio.sleep(early)
        data = await reader.read(size)
        await sent.put((link.due(clock(), len(data)), data))


async def _deliver(sent: _Sent, writer: asyncio.StreamWriter) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due, data = await sent.get()
        if (early := due - clock()) > 0:
            await asyncio.sleep(early)
        if not data:
            with suppress(OSError):  # the other side closed first
                writer.write_eof()
            return
        writer.write(data)
        await writer.drain()


def _chunk(rate: float | None) -> int:
    low, high = CHUNK_BYTES
    return high if rate is None else min(high, max(low, int(rate / 8 * CHUNK_S)))


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that uses select(), which waits with microsecond precision.

    asyncio's default is epoll, which waits with millisecond precision.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _be_punctual() -> None:
    """Use short timers, and get priority over the boards' computing if that is allowed."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def config(model: Model, routes: Sequence[Route]) -> str:
    """Return the JSON text that :func:`main` reads."""
    return json.dumps({"model": asdict(model), "routes": [asdict(route) for route in routes]})


def _parse(content: Mapping[str, Any]) -> Relay:
    routes = [Route(**{**route, "address": tuple(route["address"])}) for route in content["routes"]]
    return Relay(Model(**content["model"]), routes)


async def _serve(relay: Relay) -> None:
    servers = await relay.start()
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    """Relay until killed."""
    relay = _parse(json.load(sys.stdin))
    _be_punctual()
    precise_loop().run_until_complete(_serve(relay))


if __name__ == "__main__":
    main()
