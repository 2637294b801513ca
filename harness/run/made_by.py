"""The origin of a results folder: the suite, the command, and the state of the harness.

``suite.yaml`` is the suite of the last run, which ``harness run`` reruns. An earlier suite is kept as
``suite-HASH.yaml``. ``runs.jsonl`` has a line for each run.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from harness.errors import StorageError
from harness.store.files import append_line, write_atomically
from harness.types.json import JsonObject

__all__ = ["MadeBy", "ProjectState", "keep_origin", "project_state"]

GIT_S = 20.0
"""Longest time of one git command, in seconds."""

LARGEST = 2**22
"""Largest size in bytes of an earlier suite that is kept. No suite is as large."""


@dataclass(frozen=True)
class MadeBy:
    """The start of a run. ``suite``: its suite as YAML, ``--set`` included. ``command``: the command line."""

    suite: str
    command: str


@dataclass(frozen=True)
class ProjectState:
    """The version of the harness, the commit of its checkout, and whether tracked files differ from the commit.

    ``commit`` and ``dirty`` are None, with ``why``, if the harness does not run from a git checkout.
    """

    version: str
    commit: str | None
    dirty: bool | None
    why: str = ""

    def to_json(self) -> JsonObject:
        """Return the state as a line of ``runs.jsonl`` has it: ``why`` only if there is a reason."""
        values = asdict(self)
        return values if self.why else {key: value for key, value in values.items() if key != "why"}


def keep_origin(folder: Path, run_id: str, made_by: MadeBy, project: ProjectState | None = None) -> None:
    """Write the suite and a line about the run into a results folder.

    ``project``: the state of the harness, by default :func:`project_state`.

    Raises:
        StorageError: the folder cannot be written.
    """
    content = made_by.suite.encode()
    line = {
        "run_id": run_id,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": made_by.command,
        "suite_sha256": hashlib.sha256(content).hexdigest(),
        "harness": (project_state() if project is None else project).to_json(),
    }
    path = folder / "suite.yaml"
    try:
        earlier = _earlier(path)
        if earlier is not None and earlier != content:
            digest = hashlib.sha256(earlier).hexdigest()
            write_atomically(folder / f"suite-{digest[:8]}.yaml", earlier)
        if earlier != content:
            write_atomically(path, content)
        append_line(folder / "runs.jsonl", json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from None


def _earlier(path: Path) -> bytes | None:
    """Return the content of an earlier suite, or ``None`` if there is none or it is not a suite."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        return None
    return path.read_bytes()


def project_state(root: Path | None = None) -> ProjectState:
    """Return the state of the harness, whose checkout is ``root``."""
    version = metadata.version("edge-harness")
    root = root or Path(__file__).resolve().parents[2]
    try:
        if not (root / ".git").exists():
            raise OSError(f"installed without a checkout: {root.name} has no .git")
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError) as error:
        return ProjectState(version, commit=None, dirty=None, why=str(error))
    return ProjectState(version, commit, dirty)


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(root), *words],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=GIT_S,
        check=False,
    )
    if done.returncode:
        raise OSError(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
    return done.stdout.strip()
