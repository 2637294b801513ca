"""Frames over one TCP connection, with TLS where there is a certificate: a length (4 bytes, big-endian), a frame.

TLS is done in memory, beside the socket, so that one thread may receive while others send, which OpenSSL's own
sockets do not allow. Each side says now and then that it is there: a silent connection is a broken one.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.worker.frames import FrameError
from harness_remote.wire.secrets import NAME, Identity

__all__ = ["PING_S", "FrameSocket", "Pieces", "accept", "connect", "has_aes", "server_context"]

PING_S = 5.0
GONE_S = 20
"""Seconds without a byte after which the other side is gone."""

Pieces = Sequence[bytes | memoryview]

_LENGTH = struct.Struct("!I")
_RECORD = 16_384  # what TLS seals at once
_BATCH = 4 * _RECORD  # sent as soon as it is sealed: the other side opens it meanwhile
_READ = 2**18

_TIMEVAL = struct.Struct("ll")


class FrameSocket:
    """A connection that is set up. One thread receives; any may send, ping and hang up.

    All methods raise ``OSError`` for what is broken, and ``receive`` ``FrameError`` for more than ``max_bytes``. The
    descriptor is closed with the last reference: another thread may still be in a call.
    """

    def __init__(self, sock: socket.socket, tls: _Tls | None, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._sock = sock
        self._tls = tls
        self._sending = threading.Lock()
        self._left = b""  # of what was offered
        self._sent_at = time.monotonic()

    def send(self, frame: Pieces) -> None:
        """A frame in pieces."""
        with self._sending:
            self._send([_LENGTH.pack(sum(map(len, frame))), *frame])

    def offer(self, frame: Pieces) -> Pieces | None:
        """Send a short frame without waiting: what is still to be given to :meth:`send`, if anything."""
        if not self._sending.acquire(blocking=False):
            return frame
        try:
            sealed = self._sealed([_LENGTH.pack(sum(map(len, frame))), *frame])
            data = b"".join([self._left, *sealed])
            try:
                sent = self._sock.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            self._left = data[sent:]  # goes before what comes next
            self._sent_at = time.monotonic()
            return () if self._left else None
        finally:
            self._sending.release()

    def ping(self) -> None:
        """Say that this side is there, unless it was heard lately, or is sending. Waits for nothing."""
        if time.monotonic() - self._sent_at >= PING_S:
            self.offer(())

    def _send(self, pieces: Pieces) -> None:
        if self._left:
            left, self._left = self._left, b""
            self._sock.sendall(left)
        for data in self._sealed(pieces):
            self._sock.sendall(data)
        self._sent_at = time.monotonic()

    def _sealed(self, pieces: Pieces) -> Iterable[bytes]:
        return [b"".join(pieces)] if self._tls is None else self._tls.seal(pieces)

    def receive(self) -> memoryview | None:
        """The next frame; ``None`` where the other side has closed."""
        size = 0
        while not size:  # a ping
            head = bytearray(_LENGTH.size)
            if not self._fill(memoryview(head)):
                return None
            (size,) = _LENGTH.unpack(head)
        if size > self.max_bytes:
            raise FrameError(f"a frame of {size} bytes; allowed are {self.max_bytes}")
        frame = np.empty(size, np.uint8).data  # which is not zeroed first
        return frame if self._fill(frame) else None

    def _fill(self, view: memoryview) -> bool:
        """False where the connection ends before ``view`` is full."""
        try:
            if self._tls is not None:
                return self._tls.open(view, self._sock)
            while len(view):
                view = view[(count := self._sock.recv_into(view)) :]
                if not count:
                    return False
        except BlockingIOError:
            raise OSError(f"nothing was heard for {GONE_S} s") from None
        return True

    def settle(self, max_bytes: int) -> None:
        """From now on wait for as long as the other side lives, and take frames of up to ``max_bytes``."""
        self.max_bytes = max_bytes
        self._sock.settimeout(None)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(GONE_S, 0))

    def hang_up(self) -> None:
        """Whoever receives then gets ``None``, and whoever sends an error."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def last(self, frame: Pieces) -> None:
        """Send a short frame, if the network takes it at once, and no more."""
        with contextlib.suppress(OSError):
            self.offer(frame)
            self._sock.shutdown(socket.SHUT_WR)

    def drain(self, seconds: float) -> None:
        """Until the other side hangs up: else what it had sent would cost it our last frame. By the receiving thread."""
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while (left := end - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._sock.recv(_READ):
                    return

    def __del__(self) -> None:
        self._sock.close()


class _Tls:
    """One side of TLS, between bytes in memory and a socket that others write."""

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else NAME
        self._object = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(_READ))

    def shake(self, sock: socket.socket) -> None:
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(self._out.read())
                if not self._more(sock):
                    raise OSError("it closed the connection") from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    sock.sendall(self._out.read())  # why, for the other side
                raise
            else:
                sock.sendall(self._out.read())
                return

    def seal(self, pieces: Pieces) -> Iterator[bytes]:
        small = sum(map(len, pieces)) <= _RECORD
        for piece in [b"".join(pieces)] if small else [b"".join(pieces[:2]), *pieces[2:]]:
            view = memoryview(piece)
            while view:
                batch, view = view[:_BATCH], view[_BATCH:]
                with self._lock:
                    while batch:
                        batch = batch[self._object.write(batch) :]
                    sealed = self._out.read() if len(view) or self._out.pending > _RECORD else b""
                if sealed:
                    yield sealed
        with self._lock:
            rest = self._out.read()
        if rest:
            yield rest

    def open(self, view: memoryview, sock: socket.socket) -> bool:
        """Fill ``view``; false where the connection ends before."""
        while True:
            with self._lock:
                try:  # not without need: that there is too little is told by a costly exception
                    while len(view) and (self._in.pending or self._object.pending()):
                        count: Any = self._object.read(len(view), view)  # how many
                        if not count:  # the other side has ended TLS
                            return False
                        view = view[count:]
                except ssl.SSLWantReadError:
                    pass
            if not len(view):
                return True
            if not self._more(sock):
                return False

    def _more(self, sock: socket.socket) -> bool:
        count = sock.recv_into(self._buffer)
        with self._lock:
            self._in.write(self._buffer[:count])
        return count > 0


def _context(protocol: int) -> ssl.SSLContext:
    """TLS 1.3, which takes AES; 1.2 with ChaCha20 where one side has no instructions for AES, as a Raspberry Pi 4.

    There ChaCha20 is about three times as fast (RFC 8439, 1); the order of 1.3's ciphers cannot be set from Python.
    """
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with contextlib.suppress(ssl.SSLError):  # a library without it
        context.set_ciphers("ECDHE+CHACHA20")  # 1.2's; 1.3's stay
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        if not has_aes():
            context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@functools.cache
def has_aes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions for AES, as far as its system tells."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return True
    return "aes" in words


def server_context(identity: Identity) -> ssl.SSLContext:
    """What :func:`accept` proves itself with."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody comes twice
    with tempfile.NamedTemporaryFile() as file:  # mode 600; OpenSSL takes no key from memory
        file.write(identity.key_pem + b"\n" + identity.certificate_pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def accept(sock: socket.socket, context: ssl.SSLContext | None, max_bytes: int) -> FrameSocket:
    """The server's side of a connection."""
    return _set_up(sock, context, max_bytes, server=True)


def connect(target: str, certificate: bytes, timeout_s: float, max_bytes: int) -> FrameSocket:
    """The client's side, to ``host:port``; without ``certificate`` in the clear. The time limit holds until it settles.

    Raises:
        OSError: it cannot be reached, or shows another certificate.
    """
    host, _, port = target.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    context = None
    if certificate:
        context = _context(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and name
        context.load_verify_locations(cadata=certificate.decode("ascii"))
    return _set_up(sock, context, max_bytes, server=False)


def _set_up(
    sock: socket.socket, context: ssl.SSLContext | None, max_bytes: int, *, server: bool
) -> FrameSocket:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = None if context is None else _Tls(context, server=server)
        if tls is not None:
            tls.shake(sock)
        return FrameSocket(sock, tls, max_bytes)
    except BaseException:
        sock.close()
        raise
