"""Reach a board with the system's ssh and scp, so that the keys and configuration of ``ssh TARGET`` apply."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DeviceError, last_line

__all__ = ["Remote", "RemoteError", "connected"]

_CONNECT_S = 15
_PASSWORD_S = 120  # a person types the password
_COPY_S = 900


class RemoteError(DeviceError):
    """A command failed on the board. ``output`` is the text that it printed."""

    def __init__(self, message: object, output: str = "") -> None:
        super().__init__(message)
        self.output = output


@dataclass(frozen=True)
class Remote:
    """A board. ``options`` are options of ssh and scp."""

    target: str
    port: int | None
    options: tuple[str, ...]

    def run(self, script: str, *arguments: str, seconds: float = 60) -> str:
        """Run a POSIX shell script on the board, with ``arguments`` as ``$1``, ``$2`` and so on. Return its output.

        Raises:
            RemoteError: the script fails, or takes longer than ``seconds``.
            DeviceError: the connection fails.
        """
        words = shlex.join(["sh", "-c", script, "sh", *arguments])
        return self._call(["ssh", *self._port("-p"), self.target, words], seconds)

    def copy(self, files: list[Path], folder: str) -> None:
        """Copy files to a folder on the board, relative to the home folder. Raises as :meth:`run`."""
        sources = [str(file) for file in files]
        self._call(["scp", "-q", *self._port("-P"), *sources, f"{self.target}:{folder}/"], _COPY_S)

    def hostname(self) -> str:
        """Return the host of the target, from ssh's configuration."""
        output = self._call(["ssh", "-G", *self._port("-p"), self.target], _CONNECT_S)
        match = re.search(r"^hostname (\S+)$", output, re.MULTILINE)
        return match[1] if match else self.target.rpartition("@")[2]

    def _port(self, option: str) -> list[str]:
        return [option, str(self.port)] if self.port else []

    def _call(self, words: list[str], seconds: float) -> str:
        command = [words[0], *self.options, *words[1:]]
        # output to files, because a connection that stays in the background may hold a pipe open
        with (
            tempfile.TemporaryFile("w+", errors="replace") as out,
            tempfile.TemporaryFile("w+", errors="replace") as err,
        ):
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=seconds, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                raise RemoteError(
                    f"{self.target}: not done in {seconds:g} s; is it still reachable?"
                ) from None
            out.seek(0)
            err.seek(0)
            output, errors = out.read(), err.read()
        if code == 255 or (words[0] == "scp" and code):
            raise _connection_error(self.target, errors)
        if code:
            reason = last_line(errors or output, f"exit code {code}").removeprefix("error: ")
            raise RemoteError(f"{self.target}: {reason}", output + errors)
        return output


@contextmanager
def connected(target: str, port: int | None) -> Iterator[Remote]:
    """Open one connection that all commands share, so that ssh asks for a password once. It is closed at the end.

    Raises:
        DeviceError: there is no ssh here, or no connection; the message says why, and what to do.
    """
    if missing := [tool for tool in ("ssh", "scp") if not shutil.which(tool)]:
        raise DeviceError(f"{' and '.join(missing)} not found here: apt install openssh-client")
    if target.startswith("-") or not re.fullmatch(r"[^\s]+", target):
        raise DeviceError(f"--ssh {target!r}: expected user@host")
    with tempfile.TemporaryDirectory(prefix="harness-ssh-") as folder:
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        options = [
            "-o",
            f"ConnectTimeout={_CONNECT_S}",
            "-o",
            "ServerAliveInterval=15",
            "-o",
            "ServerAliveCountMax=4",
            "-o",
            f"ControlPath={folder}/c",
            "-o",
            f"BatchMode={'no' if asks else 'yes'}",
        ]
        remote = Remote(target, port, tuple(options))
        master = Remote(target, port, (*options, "-o", "ControlMaster=yes", "-o", "ControlPersist=600"))
        try:
            master.run("true", seconds=_PASSWORD_S if asks else 2 * _CONNECT_S)
            yield remote
        finally:
            where = ["-p", str(port), target] if port else [target]
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    ["ssh", *options, "-O", "exit", *where], capture_output=True, timeout=10, check=False
                )


def _connection_error(target: str, said: str) -> DeviceError:
    """Return an error with one line of the text that ssh or scp printed, and advice."""
    host = target.rpartition("@")[2]
    for pattern, fix in (
        (
            r"IDENTIFICATION HAS CHANGED",
            f"its host key is another than before; if you know why: ssh-keygen -R {host}",
        ),
        (
            r"Host key verification failed",
            f"its host key is not known yet: `ssh {target}` once, and accept it",
        ),
        (r"Permission denied|Too many authentication", f"no key or password fits: ssh-copy-id {target}"),
        (
            r"Could not resolve|Name or service not known",
            f"no such host {host!r}: is it misspelt, or try its address",
        ),
        (
            r"Connection refused",
            "no ssh server listens there: `sudo raspi-config` or `sudo systemctl enable --now ssh` on the board",
        ),
        (
            r"timed out|No route to host|Network is unreachable",
            "it does not answer: is it on, and in this network?",
        ),
        (r"No space left on device|disk quota", "its disk is full: free some space there"),
    ):
        if re.search(pattern, said, re.IGNORECASE):
            return DeviceError(f"{target}: {fix} ({last_line(said)})")
    return DeviceError(f"{target}: ssh failed: {last_line(said)}")
