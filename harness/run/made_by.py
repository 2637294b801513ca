"""The origin of a results folder: the suite, the command, and the state of the harness.

``suite.yaml`` is the suite of the last run, which ``harness run`` reruns. An earlier suite is kept as
``suite-HASH.yaml``. ``runs.jsonl`` has a line for each run. A ``suite.yaml`` that no run wrote is a person's own: it
stays, and the suite of the run is in ``suite-HASH.yaml``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from harness.errors import StorageError
from harness.store.files import append_line, read_regular, write_atomically
from harness.types.json import JsonObject

__all__ = ["MadeBy", "ProjectState", "keep_origin", "project_state"]

GIT_S = 20.0
"""Longest time of one git command, in seconds."""

LARGEST = 2**22
"""Largest size in bytes of an earlier suite that is kept. No suite is as large."""

MOST_RUNS_BYTES = 2**28
"""Largest size in bytes of ``runs.jsonl`` that is read. A line has about 500 bytes."""


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
    digest = _digest(content)
    path, runs = folder / "suite.yaml", folder / "runs.jsonl"
    try:
        earlier = _earlier(path)
        own = earlier is None or _digest(earlier) in _written(runs)
        file = path if own else folder / f"suite-{digest[:8]}.yaml"
        line = {
            "run_id": run_id,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": made_by.command,
            "suite_file": file.name,
            "suite_sha256": digest,
            "harness": (project_state() if project is None else project).to_json(),
        }
        append_line(runs, json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
        if own and earlier is not None and earlier != content:
            write_atomically(folder / f"suite-{_digest(earlier)[:8]}.yaml", earlier)
        if not own or earlier != content:
            write_atomically(file, content)
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _written(runs: Path) -> set[str]:
    """Return the hashes of the suites that runs wrote to ``suite.yaml``."""
    digests = set()
    for line in read_regular(runs, MOST_RUNS_BYTES).splitlines() if runs.exists() else ():
        try:
            run = json.loads(line)
        except (ValueError, RecursionError):  # a torn line
            continue
        if isinstance(run, dict) and run.get("suite_file", "suite.yaml") == "suite.yaml":
            digests.add(str(run.get("suite_sha256")))
    return digests


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
        # git sets GIT_DIR for its hooks, and it would name the repository of the hook
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        timeout=GIT_S,
        check=False,
    )
    if done.returncode:
        raise OSError(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
    return done.stdout.strip()
