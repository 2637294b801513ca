"""The files of a lab that is up, and whether it still is. A process id alone proves nothing, because ids are reused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.store.files import read_regular, write_atomically
from harness.store.home import user_folder
from harness_remote.lab.labfile import Lab
from harness_remote.lab.namespaces import Mode

__all__ = ["INVENTORY", "LOG", "Settings", "State", "folder_of", "started_at", "states"]

STATE, INVENTORY, LOG = "state.json", "devices.yaml", "lab.log"
_MOST_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a supervisor. ``serve`` is the command of a board's agent, without its options."""

    folder: Path
    lab: Lab
    mode: Mode
    serve: tuple[str, ...]

    def dump(self) -> str:
        """Return the settings as JSON text."""
        content = {"folder": str(self.folder), "lab": self.lab.model_dump_json(), "mode": self.mode}
        return json.dumps({**content, "serve": self.serve})

    @classmethod
    def parse(cls, text: str) -> Settings:
        """Return the settings that :meth:`dump` wrote."""
        content = json.loads(text)
        return cls(
            folder=Path(content["folder"]),
            lab=Lab.model_validate_json(content["lab"]),
            mode=content["mode"],
            serve=tuple(content["serve"]),
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """A lab that was brought up.

    ``pid`` and ``started`` (ticks since boot) identify its keeper's process. ``notes`` say where the lab differs from
    its file.
    """

    lab: str
    pid: int
    started: int
    mode: Mode
    boards: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write the state into the lab's folder."""
        write_atomically(folder / STATE, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """Return the saved state, or None if there is no file or the file contains no state."""
        try:
            content = json.loads(read_regular(folder / STATE, _MOST_BYTES))
            return cls(**{**content, "boards": tuple(content["boards"]), "notes": tuple(content["notes"])})
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    @staticmethod
    def remove(folder: Path) -> None:
        """Delete the saved state, if there is one."""
        (folder / STATE).unlink(missing_ok=True)

    @property
    def up(self) -> bool:
        """True if the keeper still runs."""
        return started_at(self.pid) == self.started


def started_at(pid: int) -> int | None:
    """Return the start time of a process in the kernel's ticks since boot, or None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _root() -> Path:
    return user_folder("XDG_STATE_HOME", "set XDG_STATE_HOME to a folder for labs") / "harness/lab"


def folder_of(lab: str) -> Path:
    """Return the lab's folder. It may not exist yet."""
    return _root() / lab


def states() -> dict[str, State]:
    """Return every lab that was not taken down, including labs whose keeper has ended."""
    saved = {path.parent.name: State.load(path.parent) for path in sorted(_root().glob(f"*/{STATE}"))}
    return {name: state for name, state in saved.items() if state is not None}
