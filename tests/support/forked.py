"""Run the command line in a fork of the test's process: a new process without the time of its imports."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: bytes
    err: bytes

    @property
    def message(self) -> str:
        return self.err.decode(errors="replace")


def forked(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str | None] | None = None,
    closed: Sequence[int] = (),
    stdout: str | None = None,
    encoding: str = "utf-8",
    seconds: int = 60,
) -> Ended:
    """Run ``harness ARGUMENTS``. It is killed after ``seconds``.

    ``environment`` changes the environment; None removes a variable. ``closed`` are the standard descriptors that are
    closed. ``stdout`` is a file to which the output goes. ``encoding`` is that of the standard streams.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(stdout, os.O_WRONLY) if stdout else out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_run(arguments, environment or {}, closed, encoding, seconds))
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return Ended(os.waitstatus_to_exitcode(status), *texts)


def _run(
    arguments: Sequence[str],
    environment: Mapping[str, str | None],
    closed: Sequence[int],
    encoding: str,
    seconds: int,
) -> int:
    try:
        signal.alarm(seconds)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        for descriptor in closed:
            os.close(descriptor)
        sys.stdin = None if 0 in closed else open(os.devnull)  # type: ignore[assignment]  # noqa: SIM115
        sys.stdout = None if 1 in closed else io.TextIOWrapper(open(1, "wb"), encoding)  # type: ignore[assignment]  # noqa: SIM115
        sys.stderr = None if 2 in closed else io.TextIOWrapper(open(2, "wb"), encoding)  # type: ignore[assignment]  # noqa: SIM115
        sys.argv = ["harness", *arguments]
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the test sees it as the interpreter would show it
        import traceback

        os.write(2, "".join(traceback.format_exception(error)).encode())
        return 1
    return 0
