"""Frames over one TCP connection. A frame is a length (4 bytes, big-endian) and that many bytes. TLS is optional.

TLS works in memory, beside the socket, so that one thread can receive while others send. OpenSSL's own sockets do not
allow that. Each side sends pings, so a silent connection is a broken one.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.worker.frames import FrameError
from harness_remote.wire.secrets import NAME, Identity

__all__ = ["SILENCE", "FrameSocket", "Pieces", "Silence", "accept", "connect", "has_aes", "server_context"]

Pieces = Sequence[bytes | memoryview]

_LENGTH = struct.Struct("!I")
_RECORD = 16_384  # the largest record of TLS
_BATCH = 4 * _RECORD  # sent as soon as it is sealed, so that the other side can open it meanwhile
_READ = 2**18

_TIMEVAL = struct.Struct("ll")


@dataclass(frozen=True)
class Silence:
    """The times after which a silent connection counts as broken.

    A side that has sent nothing for ``ping_s`` seconds sends a ping. A side that has received nothing for ``gone_s``
    seconds treats the other side as gone.
    """

    ping_s: float = 5.0
    gone_s: int = 20


SILENCE = Silence()


class FrameSocket:
    """An established connection. One thread receives; any thread may send, ping and hang up.

    ``sock`` is the socket below TLS. All methods raise ``OSError`` for a broken connection. ``receive`` raises
    ``FrameError`` for a frame of more than ``max_bytes``. The descriptor is closed with the last reference, because
    another thread may still be in a call.
    """

    def __init__(self, sock: socket.socket, tls: _Tls | None, max_bytes: int, silence: Silence) -> None:
        self.max_bytes = max_bytes
        self.silence = silence
        self.sock = sock
        self._tls = tls
        self._sending = threading.Lock()
        self._left = b""  # bytes of an offered frame that are not yet sent
        self._sent_at = time.monotonic()

    def send(self, frame: Pieces) -> None:
        """Send a frame that is given in pieces. Wait until the network takes it."""
        with self._sending:
            self._send([_LENGTH.pack(sum(map(len, frame))), *frame])

    def offer(self, frame: Pieces) -> Pieces | None:
        """Send a short frame without waiting. Return the pieces that must still go through :meth:`send`, or None."""
        if not self._sending.acquire(blocking=False):
            return frame
        try:
            sealed = self._sealed([_LENGTH.pack(sum(map(len, frame))), *frame])
            data = b"".join([self._left, *sealed])
            try:
                sent = self.sock.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            self._left = data[sent:]  # sent before the next frame
            self._sent_at = time.monotonic()
            return () if self._left else None
        finally:
            self._sending.release()

    def ping(self) -> None:
        """Send a ping, unless something was sent within ``ping_s``. Do not wait."""
        if time.monotonic() - self._sent_at >= self.silence.ping_s:
            self.offer(())

    def _send(self, pieces: Pieces) -> None:
        if self._left:
            left, self._left = self._left, b""
            self.sock.sendall(left)
        for data in self._sealed(pieces):
            self.sock.sendall(data)
        self._sent_at = time.monotonic()

    def _sealed(self, pieces: Pieces) -> Iterable[bytes]:
        return [b"".join(pieces)] if self._tls is None else self._tls.seal(pieces)

    def receive(self) -> memoryview | None:
        """Return the next frame, or None if the other side has closed the connection."""
        size = 0
        while not size:  # a ping
            head = bytearray(_LENGTH.size)
            if not self._fill(memoryview(head)):
                return None
            (size,) = _LENGTH.unpack(head)
        if size > self.max_bytes:
            raise FrameError(f"a frame of {size} bytes; allowed are {self.max_bytes}")
        frame = np.empty(size, np.uint8).data  # unlike a bytearray, not filled with zeros first
        return frame if self._fill(frame) else None

    def _fill(self, view: memoryview) -> bool:
        """Fill ``view``. Return False if the connection ends before it is full."""
        try:
            if self._tls is not None:
                return self._tls.open(view, self.sock)
            while len(view):
                view = view[(count := self.sock.recv_into(view)) :]
                if not count:
                    return False
        except BlockingIOError:
            raise OSError(f"nothing was heard for {self.silence.gone_s} s") from None
        return True

    def settle(self, max_bytes: int) -> None:
        """Remove the time limit of the set-up, and allow frames of up to ``max_bytes``.

        After this a receiving thread waits as long as the other side is there.
        """
        self.max_bytes = max_bytes
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(self.silence.gone_s, 0))

    @property
    def tls(self) -> tuple[str, str] | None:
        """The version and the cipher of TLS, or None for an unencrypted connection."""
        return None if self._tls is None else self._tls.agreed()

    def hang_up(self) -> None:
        """End the connection. A receiving thread then gets None, and a sending thread gets an error."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def last(self, frame: Pieces) -> None:
        """Send a short frame if the network takes it at once, and close the sending side."""
        with contextlib.suppress(OSError):
            self.offer(frame)
            self.sock.shutdown(socket.SHUT_WR)

    def drain(self, seconds: float) -> None:
        """Read until the other side hangs up, for at most ``seconds``. Only the receiving thread may call this.

        Unread bytes would reset the connection, and the other side would lose the last frame.
        """
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while (left := end - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not self.sock.recv(_READ):
                    return

    def __del__(self) -> None:
        self.sock.close()


class _Tls:
    """One side of TLS, between bytes in memory and a socket that others write to."""

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else NAME
        self._object = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(_READ))

    def agreed(self) -> tuple[str, str]:
        """Return the version and the cipher that both sides agreed on."""
        cipher = self._object.cipher()
        return str(self._object.version()), cipher[0] if cipher else ""

    def shake(self, sock: socket.socket) -> None:
        """Do the handshake over ``sock``. Raises ``OSError`` (``ssl.SSLError`` is one) if it fails."""
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(self._out.read())
                if not self._more(sock):
                    raise OSError("it closed the connection") from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    sock.sendall(self._out.read())  # the alert with the reason
                raise
            else:
                sock.sendall(self._out.read())
                return

    def seal(self, pieces: Pieces) -> Iterator[bytes]:
        """Yield the sealed bytes of the pieces, in batches that can be sent at once."""
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
        """Fill ``view`` with opened bytes. Return False if the connection ends before it is full."""
        while True:
            with self._lock:
                try:  # read only if bytes are pending, because OpenSSL's exception for too few is costly
                    while len(view) and (self._in.pending or self._object.pending()):
                        count: Any = self._object.read(len(view), view)
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


def _context(protocol: int, aes: bool | None) -> ssl.SSLContext:
    """Return a context for TLS 1.3 with AES, or for TLS 1.2 with ChaCha20 on a processor without AES instructions.

    A Raspberry Pi 4 has no such instructions. On it ChaCha20 is about three times as fast (RFC 8439, 1), and Python
    cannot set the order of TLS 1.3's ciphers. ``aes`` says whether there are instructions; None checks the processor.
    """
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with contextlib.suppress(ssl.SSLError):  # a library without ChaCha20
        context.set_ciphers("ECDHE+CHACHA20")  # sets the ciphers of 1.2; those of 1.3 stay
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        if not (has_aes() if aes is None else aes):
            context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@functools.cache
def has_aes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this processor has instructions for AES, or True if the system does not say."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return True
    return "aes" in words


def server_context(identity: Identity, aes: bool | None = None) -> ssl.SSLContext:
    """Return the context of TLS for a server. ``aes`` has the meaning that it has for :func:`connect`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, aes)
    context.num_tickets = 0  # no client resumes a session
    with tempfile.NamedTemporaryFile() as file:  # mode 600; OpenSSL cannot load a key from memory
        file.write(identity.key_pem + b"\n" + identity.certificate_pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def accept(
    sock: socket.socket, context: ssl.SSLContext | None, max_bytes: int, silence: Silence = SILENCE
) -> FrameSocket:
    """Set up the server's side of a connection. ``context`` None means no TLS.

    Raises:
        OSError: the client closes the connection, or the TLS handshake fails.
    """
    return _set_up(sock, context, max_bytes, silence, server=True)


def connect(
    target: str,
    certificate: bytes,
    timeout_s: float,
    max_bytes: int,
    silence: Silence = SILENCE,
    aes: bool | None = None,
) -> FrameSocket:
    """Set up the client's side of a connection to ``host:port``, without TLS if ``certificate`` is empty.

    The time limit holds until :meth:`FrameSocket.settle`. ``aes`` says whether the processor has instructions for
    AES; None checks the processor.

    Raises:
        OSError: the target cannot be reached, or shows another certificate.
    """
    host, _, port = target.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    context = None
    if certificate:
        context = _context(ssl.PROTOCOL_TLS_CLIENT, aes)  # this protocol checks certificate and name
        context.load_verify_locations(cadata=certificate.decode("ascii"))
    return _set_up(sock, context, max_bytes, silence, server=False)


def _set_up(
    sock: socket.socket, context: ssl.SSLContext | None, max_bytes: int, silence: Silence, *, server: bool
) -> FrameSocket:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = None if context is None else _Tls(context, server=server)
        if tls is not None:
            tls.shake(sock)
        return FrameSocket(sock, tls, max_bytes, silence)
    except BaseException:
        sock.close()
        raise
