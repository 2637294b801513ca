"""Jobs: commands over images, each in its own thread, with the answer in a file.

A job runs even if no client is connected. Its answer stays in the session's folder until the lease ends, so a client
may disconnect and fetch the answer later.
"""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from harness.devices import WorkerProcess
from harness.errors import DeviceError, HarnessError
from harness.worker.commands import Command
from harness_remote.wire import codec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Job", "Jobs", "read_images"]

MAX_RESULTS = 16
MAX_IMAGES_BYTES = 256 * 2**20  # the agent and the worker each hold them in memory
END_S = 5.0


@dataclass
class Job:
    """A command that runs, or has ended with an answer in the file ``result`` or with an ``error``."""

    id: str = field(default_factory=lambda: token_urlsafe(16))
    done: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    result: Path | None = None
    error: HarnessError | None = None


class Jobs:
    """The jobs of one session. The newest :data:`MAX_RESULTS` answers are kept. Any thread may use the object.

    ``folder`` holds the answers. ``name`` is the board's name for messages.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._jobs: dict[str, Job] = {}
        self._ended = ""

    @property
    def running(self) -> bool:
        """True while a job runs."""
        return any(not job.done.is_set() for job in list(self._jobs.values()))

    def start(self, command: Command[Any], worker: WorkerProcess) -> Job:
        """Let the worker run a command, in a new thread, and return the job.

        Raises:
            DeviceError: the system has no more threads.
        """
        job = Job()
        while len(self._jobs) >= MAX_RESULTS:
            oldest = self._jobs.pop(next(iter(self._jobs)))
            if oldest.result is not None:
                oldest.result.unlink(missing_ok=True)
        thread = threading.Thread(target=self._run, args=(job, command, worker), daemon=True)
        self._jobs[job.id] = job
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            del self._jobs[job.id]
            raise DeviceError(f"{command.name} on {self._name}: {error}") from None
        return job

    def get(self, id: str) -> Job:
        """Return a job. Raises ``DeviceError`` if there is none with this id."""
        try:
            return self._jobs[id]
        except KeyError:
            raise DeviceError(f"no job {id[:40]!r} on {self._name}") from None

    def end(self, why: str) -> None:
        """Let the running jobs end with the error ``why``. The caller ends their worker."""
        self._ended = why

    def wait(self) -> None:
        """Wait for each running job, for at most 5 seconds each."""
        for job in list(self._jobs.values()):
            job.done.wait(END_S)

    def _run(self, job: Job, command: Command[Any], worker: WorkerProcess) -> None:
        path = self._folder / f"{job.id}.answer"
        try:
            path.write_bytes(codec.pack(worker.ask(command)))
            job.result = path
        except HarnessError as error:
            job.error = error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "its disk is full" if full else error.strerror or str(error)
            job.error = DeviceError(f"{self._name} cannot keep the result: {why}")
            with suppress(OSError):
                path.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - the client that follows the job gets it as its error
            job.error = DeviceError(f"{command.name} on {self._name}: {type(error).__name__}: {error}")
        finally:
            if self._ended:
                job.error = DeviceError(self._ended)
            elif job.cancelled and job.result is None:
                job.error = DeviceError(f"the job on {self._name} was cancelled")
            job.done.set()


def read_images(path: Path) -> NDArray[np.float32]:
    """Return the images [n, ...] of an .npy file, as float32.

    Raises:
        DeviceError: the file contains anything else, or more than :data:`MAX_IMAGES_BYTES`.
    """
    import numpy as np

    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if (
            not isinstance(mapped, np.ndarray)
            or mapped.dtype != np.float32
            or mapped.ndim < 2
            or not mapped.size
        ):
            raise ValueError("float32 [n, ...] is needed")
        if mapped.nbytes > MAX_IMAGES_BYTES:
            raise ValueError(f"{mapped.nbytes} bytes; allowed are {MAX_IMAGES_BYTES}")
    except Exception as error:  # noqa: BLE001 - numpy's reader raises many kinds for invalid files
        raise DeviceError(f"the images: {str(error)[:200]}") from None
    return np.array(mapped, np.float32)
