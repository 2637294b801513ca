"""Add a board that was set up to the inventory, with its certificate and token in files beside the inventory."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SuiteError
from harness.store.files import write_atomically
from harness.store.home import expanded
from harness_remote.inventory.inventory import Board, Inventory, check_name

__all__ = ["Enrolment"]


@dataclass(frozen=True)
class Enrolment:
    """The place of a board in the inventory. ``known`` is true if the board is in it already, at this address."""

    inventory: Inventory
    name: str
    host: str
    port: int
    known: bool

    @classmethod
    def of(cls, name: str, host: str, port: int) -> Enrolment:
        """Return the place for a board. Raises ``SuiteError`` if another board has the name, or it is none.

        The name becomes a part of the names of files, so it is checked before anything is written.
        """
        check_name(name, f"board {name!r}")
        inventory = Inventory.load()
        there = inventory.boards.get(name)
        if there is not None and (there.host, there.port) != (host, port):
            raise SuiteError(
                f"{inventory.path} has a board {name!r} at {there.host}:{there.port}, not {host}:{port}: "
                f"take another name, or `harness devices remove {name}` first"
            )
        if there is not None and not (there.certificate and there.token):
            raise SuiteError(
                f"{inventory.path}: {name!r} has no certificate: `harness devices remove {name}` first"
            )
        return cls(inventory, name, host, port, there is not None)

    def save(self, backend: str, certificate: str, token: str) -> None:
        """Write certificate and token, and add the board. Raises ``SuiteError`` if a file cannot be written."""
        folder = self.inventory.path.parent
        there = self.inventory.boards.get(self.name)
        files = (there.certificate, there.token) if there else (f"{self.name}.crt", f"{self.name}.token")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in zip(files, (certificate, f"{token}\n"), strict=True):
                write_atomically(folder / expanded(str(file)), content, 0o600)
        except OSError as error:
            raise SuiteError(f"cannot write {error.filename}: {error.strerror}") from None
        if not self.known:
            board = Board(
                backend=backend, host=self.host, port=self.port, certificate=files[0], token=files[1]
            )
            self.inventory.add(self.name, board)
            self.inventory.save()
