"""Where a lab that is up keeps its files, and whether it still is: a process id alone says nothing later."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.store.files import write_atomically
from harness_remote.lab.labfile import Lab
from harness_remote.lab.namespaces import Mode

__all__ = ["INVENTORY", "LOG", "Settings", "State", "folder_of", "started_at", "states"]

STATE, INVENTORY, LOG = "state.json", "devices.yaml", "lab.log"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a supervisor is started with; ``serve`` is the command of a board's agent, without its options."""

    folder: Path
    lab: Lab
    mode: Mode
    serve: tuple[str, ...]

    def dump(self) -> str:
        told = {"folder": str(self.folder), "lab": self.lab.model_dump_json(), "mode": self.mode}
        return json.dumps({**told, "serve": self.serve})

    @classmethod
    def parse(cls, text: str) -> Settings:
        told = json.loads(text)
        return cls(
            folder=Path(told["folder"]),
            lab=Lab.model_validate_json(told["lab"]),
            mode=told["mode"],
            serve=tuple(told["serve"]),
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known of a lab: its keeper's process, with the time of its start, and what is not as asked for."""

    lab: str
    pid: int
    started: int
    mode: Mode
    boards: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        write_atomically(folder / STATE, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """What was saved; ``None`` where nothing was, or it is no state."""
        try:
            told = json.loads((folder / STATE).read_text())
            return cls(**{**told, "boards": tuple(told["boards"]), "notes": tuple(told["notes"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @staticmethod
    def remove(folder: Path) -> None:
        (folder / STATE).unlink(missing_ok=True)

    @property
    def up(self) -> bool:
        return started_at(self.pid) == self.started


def started_at(pid: int) -> int | None:
    """When a process was started, in the kernel's ticks since boot; ``None`` if it is not there, or dead."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if told[0] in "ZX" else int(told[19])


def _root() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "harness" / "lab"


def folder_of(lab: str) -> Path:
    """The lab's folder; it may not be there yet."""
    return _root() / lab


def states() -> dict[str, State]:
    """Every lab that was not taken down, up or not."""
    found = {path.parent.name: State.load(path.parent) for path in sorted(_root().glob(f"*/{STATE}"))}
    return {name: state for name, state in found.items() if state is not None}
