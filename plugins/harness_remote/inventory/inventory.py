"""The inventory: the user's boards in the file ``devices.yaml``. Edits keep its comments.

The file is ``$HARNESS_DEVICES``, else ``harness/devices.yaml`` in the user's configuration folder::

    pi1:
      backend: raspberry-pi
      host: 192.168.1.11
      certificate: pi1.crt      # beside this file; both come from `harness agent init` on the board
      token: pi1.token          # readable by its owner only (chmod 600)
      meters: [{ina226: {bus: 1}}]   # external: they watch the board from this host or another one

It is read with line numbers. An edit changes only the lines of one board, and the new text is read back before it is
saved.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.errors import SuiteError, nearest
from harness.store.files import write_atomically
from harness.store.home import expanded, user_folder
from harness.suite.entry_ref import EntryRef
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, parse_yaml, read_text
from harness.types import Params
from harness.types.fields import NAME, Name
from harness_remote import PORT
from harness_remote.wire.addresses import is_loopback
from harness_remote.wire.secrets import Credentials

__all__ = ["BACKENDS", "Board", "EmulatedLink", "Inventory", "check_name", "default_path", "target"]

BACKENDS = ("raspberry-pi", "jetson", "agent")
MAX_SECRET = 64 * 1024
HostPort = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:\[\]]+):\d{1,5}$", max_length=300)]
Host = Annotated[str, Field(pattern=r"^[^\s\[\]/]+$", max_length=253)]


class EmulatedLink(Params):
    """The link of an emulated board. A message takes half of ``rtt_ms``, and its bytes at ``rate_mbps``."""

    rate_mbps: float | None = Field(
        None, gt=0, le=1e6, description="rate of the link in megabits per second; none: no limit"
    )
    rtt_ms: float = Field(0.0, ge=0, le=60_000)
    ports: Literal["per-link", "shared"] = Field(
        "per-link",
        description="each pair of boards has a link of its own, or a board's transfers share its port",
    )


class Board(Params):
    """A board of the inventory. If it has no certificate and token, its host must be this machine."""

    backend: Literal["raspberry-pi", "jetson", "agent"]
    host: Host = Field(description="name or address at which this machine reaches the board")
    port: int = Field(PORT, ge=1, le=65535)
    certificate: str | None = Field(None, min_length=1, description="file of the agent's certificate (PEM)")
    token: str | None = Field(None, min_length=1, description="file of the token, readable by its owner only")
    labels: tuple[Name, ...] = ()
    memory_budget_mb: float | None = Field(
        None, gt=0, le=1e7, description="greatest total size of the weights of the board's parts"
    )
    meters: tuple[EntryRef, ...] = Field(
        (), description="external meters that watch the board, as in a suite"
    )
    via: Mapping[Name, HostPort] = Field(
        default_factory=dict,
        description="OTHER_BOARD: host:port, the address to which that board sends its frames",
    )
    frames_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port at which the board takes frames, if it is not the one that its agent states",
    )
    emulated: bool = Field(
        False, description="whether the board is virtual; its rows are in other tables than measured ones"
    )
    link: EmulatedLink | None = None

    @model_validator(mode="after")
    def _secured(self) -> Board:
        if (self.certificate is None) != (self.token is None):
            raise ValueError(
                "certificate and token go together: `harness agent init` on the board makes both"
            )
        if self.certificate is None and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} is another machine, which needs certificate and token: "
                "`harness agent init` on the board makes both"
            )
        if self.link is not None and not self.emulated:
            raise ValueError("link belongs to an emulated board")
        return self


@dataclass
class Inventory:
    """The boards of one file, with its text for edits."""

    path: Path
    boards: dict[str, Board] = field(default_factory=dict)
    source: Source = field(default_factory=lambda: Source("devices.yaml"))
    _text: str = ""
    _saved: str | None = None

    @classmethod
    def load(cls, path: Path | None = None) -> Inventory:
        """Read ``path``, by default the user's file. A file that does not exist is an empty inventory.

        Raises:
            SuiteError: something in it is wrong. The message gives file, line, key, and what is allowed.
        """
        path = path or default_path()
        if not os.path.lexists(path):
            return cls(path, source=Source(str(path)))
        text = read_text(path, "an inventory")
        return cls(path, *_read(text, path), text, text)

    def board(self, name: str, where: str = "") -> Board:
        """Return a board. Raises ``SuiteError`` for an unknown name; the message begins with ``where``."""
        if name not in self.boards:
            begin = f"{where}: " if where else ""
            hint = nearest(name, self.boards) if self.boards else "`harness devices add` adds one"
            raise SuiteError(f"{begin}no board {name!r} in {self.path}; {hint}")
        return self.boards[name]

    def credentials(self, name: str) -> Credentials:
        """Return the address and secrets of a board. Raises ``SuiteError`` if certificate or token cannot be used."""
        board = self.board(name)
        certificate, token = b"", ""
        if board.certificate is not None and board.token is not None:
            certificate = self._file(name, "certificate", board.certificate)
            if b"-----BEGIN CERTIFICATE-----" not in certificate:
                raise SuiteError(
                    f"{self.source.where(name, 'certificate')}: {board.certificate} is no PEM certificate"
                )
            token = self._file(name, "token", board.token, secret=True).decode("ascii", "replace").strip()
            if not token.isprintable() or not token.isascii() or " " in token or not token:
                raise SuiteError(f"{self.source.where(name, 'token')}: {board.token} holds no token")
        return Credentials(target(board.host, board.port), certificate, token)

    def add(self, name: str, board: Board) -> None:
        """Add a board. Raises ``SuiteError`` if the name is taken, or is none."""
        check_name(name, f"board {name!r}")
        if name in self.boards:
            raise SuiteError(f"{self.source.where(name)}: there is a board {name!r} already")
        end = "\n" if self._text and not self._text.endswith("\n") else ""
        self._edit(f"{self._text}{end}{_block(name, board)}", {**self.boards, name: board}, f"add {name}")

    def remove(self, name: str) -> None:
        """Remove a board. Raises ``SuiteError`` if the name is unknown, or another board refers to it."""
        self.board(name)
        for other, board in self.boards.items():
            if name in board.via:
                raise SuiteError(f"{self.source.where(other, 'via', name)}: names {name}; remove that first")
        places = [place for path, place in self.source.places.items() if path[:1] == (name,)]
        numbers = [int(place.rpartition(":")[2]) for place in places]
        lines = self._text.splitlines(keepends=True)
        left = {other: board for other, board in self.boards.items() if other != name}
        self._edit("".join(lines[: min(numbers) - 1] + lines[max(numbers) :]), left, f"remove {name}")

    def save(self) -> None:
        """Write the file in one step.

        Raises:
            SuiteError: it cannot be written, or has changed since it was read.
        """
        path = self.path.resolve()
        try:
            now = path.read_text() if path.exists() else None
            if now != self._saved:
                raise SuiteError(f"{self.path}: has changed meanwhile; try again")
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = stat.S_IMODE(path.stat().st_mode) if now is not None else 0o644
            write_atomically(path, self._text, mode, sync=True)
        except OSError as error:
            raise SuiteError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._saved = self._text

    def _edit(self, text: str, expected: Mapping[str, Board], what: str) -> None:
        """Accept ``text`` if it contains the expected boards. A file in an unusual form must be edited by hand.

        Raises:
            SuiteError: it does not contain them.
        """
        try:
            boards, source = _read(text, self.path)
        except SuiteError:
            boards = None
        if boards != expected:
            raise SuiteError(f"{self.path}: cannot {what}: its boards are not plain blocks; edit it by hand")
        self.boards, self.source, self._text = boards, source, text

    def _file(self, name: str, key: str, written: str, *, secret: bool = False) -> bytes:
        path = self.path.parent / expanded(written)
        where = self.source.where(name, key)
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise SuiteError(f"{where}: {path} is no file")
                if secret and stat.S_IMODE(status.st_mode) & 0o077:
                    raise SuiteError(f"{where}: others can read {path}: chmod 600 {path}")
                data = file.read(MAX_SECRET + 1)
        except OSError as error:
            raise SuiteError(f"{where}: {path}: {error.strerror or error}") from None
        if len(data) > MAX_SECRET:
            raise SuiteError(f"{where}: {path} is larger than a {key} may be")
        return data


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting, because the opening of a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def default_path() -> Path:
    """Return ``$HARNESS_DEVICES``, else the file in the user's configuration folder."""
    own = os.environ.get("HARNESS_DEVICES")
    if own:
        return Path(own)
    return (
        user_folder("XDG_CONFIG_HOME", "set HARNESS_DEVICES to the file of your boards")
        / "harness/devices.yaml"
    )


def target(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_name(name: str, where: str) -> None:
    """Raise ``SuiteError`` if a board may not have this name. ``where`` begins the message."""
    if not re.fullmatch(NAME, name) or len(name) > 80:
        raise SuiteError(f"{where}: a name is letters, digits, - and _, 80 at most")


def _read(text: str, path: Path) -> tuple[dict[str, Board], Source]:
    tree, source = parse_yaml(text, str(path))
    if tree is None:  # an empty file, or only comments
        return {}, source
    if not isinstance(tree, Mapping):
        raise SuiteError(f"{source.where()}: expected boards, NAME: {{backend: ..., host: ...}}")
    for name in tree:
        check_name(name, source.where(name))
    boards: dict[str, Board] = {name: validated(Board, tree[name], source, (name,)) for name in tree}
    for name, board in boards.items():
        for other in board.via:
            if other == name or other not in boards:
                others = [known for known in boards if known != name]
                where = source.where(name, "via", other)
                raise SuiteError(f"{where}: no other board of that name; {nearest(other, others)}")
    return boards, source


def _block(name: str, board: Board) -> str:
    """Return a board as YAML, without the fields that have their defaults."""
    from ruamel.yaml import YAML

    values = board.model_dump(mode="json", exclude_defaults=True, exclude={"meters"})
    if board.meters:
        values["meters"] = [
            {meter.name: dict(meter.params)} if meter.params else meter.name for meter in board.meters
        ]
    writer = YAML()
    writer.width = 1000
    stream = io.StringIO()
    writer.dump({name: values}, stream)
    return stream.getvalue()
