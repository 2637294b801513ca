"""The transport to a board's worker: commands over gRPC, files by their hash, other boards by ticket."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from harness.errors import BoardLost, DeviceError
from harness.machine.energy.durations import longest_s
from harness.types import Artifact, Clock, Device, DeviceInfo, MeterInfo, PeerAddress, RuntimeEntry, Workload
from harness.worker.commands import Command, Connect, Infer, Load, Measure
from harness_remote.client.client import Client
from harness_remote.wire.commands import (
    InferFile,
    Join,
    LoadFile,
    MeasureFile,
    Neighbour,
    Open,
    Serve,
    ShippedArtifact,
)
from harness_remote.wire.secrets import Credentials
from harness_remote.wire.wire import PEER

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LATE", "BoardTransport", "Reach"]

A = TypeVar("A")

PIECE_BYTES = 4 * 2**20
SLACK_S = 300.0
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
LATE = "detached: it measured for longer than expected, and was connected at the end"


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The addresses of a board, and the credentials for it.

    ``credentials`` are for this host's calls. ``via`` maps the name of another board to the host:port at which that
    board reaches this board's frame port. Boards that are not in ``via`` use ``frames_port``, or the port that the
    agent gives.
    """

    board: str
    credentials: Credentials
    via: Mapping[str, str]
    frames_port: int | None = None

    def details(self, central: str, client: Client) -> dict[str, Any]:
        """Let the open worker serve. Return the details with which ``central`` opens it as a peer.

        ``central`` is the name of a board, or "" for this host.
        """
        served = client.work(Serve())
        host = self.credentials.target.rpartition(":")[0]
        return {
            "target": self.via.get(central) or f"{host}:{self.frames_port or served.port}",
            "certificate": self.credentials.certificate.decode(),
            "ticket": served.ticket,
        }


class BoardTransport:
    """The transport to a board's worker (:class:`harness.devices.Transport`), over a client that holds the lease.

    ``info`` describes the board. Its worker has ``threads`` threads and reads the board's own ``meters``. ``device``
    is where its runtime computes, such as ``cpu`` or ``cuda:0``. If ``detached``, the connection is closed while the
    board measures, and ``sleep`` waits for the end.
    """

    remote = True

    def __init__(
        self,
        client: Client,
        reach: Reach,
        info: DeviceInfo,
        *,
        threads: int,
        meters: Sequence[MeterInfo],
        device: str,
        detached: bool,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self.reach = reach
        self._info = info
        self._open = Open(threads, tuple(meter.name for meter in meters))
        self._meters = meters
        self._device = device
        self._detached = detached
        self._sleep = sleep
        self.late = False  # true if the board still measured when a detached client connected again

    def start(self, runtime: RuntimeEntry) -> None:
        """Start a new worker on the board. ``runtime`` is not used, because each part names its own."""
        self.client.work(self._open)

    def ask(self, command: Command[A]) -> A:
        """Run a command in the board's worker, in the form that names files, runtimes and boards for the network."""
        asked: Command[Any] = command
        match asked:
            case Load(part, artifact):
                return cast(A, self._load(part, artifact))
            case Connect(graph, peers):
                return cast(A, self.client.work(Join(graph, self._neighbours(peers))))
            case Infer(images, batch, absent):
                return cast(A, self._infer(images, batch, absent))
            case Measure(workload, images):
                return cast(A, self._measure(workload, images))
        return self.client.work(command)

    def address(self, central: Device) -> PeerAddress:
        """Return the address at which the device ``central`` reaches this board's worker."""
        transport = getattr(central, "transport", None)
        own = transport.reach.board if isinstance(transport, BoardTransport) else ""
        details = self.reach.details(own, self.client)
        return PeerAddress(device=self.reach.board, open=PEER, details=details)

    def send(self, images: NDArray[np.float32]) -> None:
        """Send images before the command that needs them."""
        self.client.put(_npy(images))

    def clock(self) -> Clock:
        """Return the offset of the board's clock (:meth:`Client.clock`)."""
        return self.client.clock()

    def close(self) -> None:
        """Release the board and close the connection."""
        self.client.close()

    # --- commands ---

    def _load(self, part: str, artifact: Artifact) -> dict[str, Any]:
        file = self._onnx(artifact)
        return self.client.work(
            LoadFile(
                part=part,
                runtime=artifact.runtime,
                sha256=self.client.put_file(file),
                artifact=ShippedArtifact.of(artifact),
                device=self._device,
            )
        )

    def _onnx(self, artifact: Artifact) -> Path:
        """Return the artifact's file. Raises ``DeviceError`` if this board's ONNX Runtime cannot load it."""
        name = self._info.name
        file = artifact.path / str(artifact.meta.get("file", ""))
        if file.suffix != ".onnx":
            raise DeviceError(f"{name} runs ONNX files only, not what {artifact.runtime} exports")
        there = self._info.environment.get("onnxruntime", {})
        for key, most in (("opset", there.get("opset")), ("ir_version", there.get("ir_version"))):
            has = artifact.meta.get(key)
            if isinstance(has, int) and isinstance(most, int) and has > most:
                raise DeviceError(
                    f"{name}: its ONNX Runtime {there.get('version')} loads {key} {most} at most, and the file "
                    f"has {has}: install a newer one there"
                )
        return file

    def _neighbours(self, peers: Mapping[str, PeerAddress]) -> tuple[Neighbour, ...]:
        """Return the boards that have the parts of ``peers``. A ticket identifies a board.

        Raises:
            DeviceError: a peer is not a board of the inventory.
        """
        parts: dict[str, list[str]] = {}
        addresses: dict[str, PeerAddress] = {}
        for part, address in peers.items():
            if address.open != PEER:
                raise DeviceError(
                    f"{self._info.name} cannot reach {address.device}, which is no board of the inventory"
                )
            parts.setdefault(address.details["ticket"], []).append(part)
            addresses[address.details["ticket"]] = address
        return tuple(
            Neighbour(device=address.device, parts=tuple(parts[ticket]), **address.details)
            for ticket, address in addresses.items()
        )

    def _infer(self, images: NDArray[np.float32], batch: int, absent: tuple[str, ...]) -> NDArray[np.float32]:
        """Send the images in pieces of about ``PIECE_BYTES``, and return all outputs. Each piece is a job."""
        size = max(batch, PIECE_BYTES // max(1, images[0].nbytes) // batch * batch)
        answers = []
        for start in range(0, len(images), size):
            sha256 = self.client.put(_npy(images[start : start + size]))
            command = InferFile(sha256, batch, absent)
            answers.append(self.client.follow(command, self.client.start(command), self.client.timeouts.work))
        return np.concatenate(answers)

    def _measure(self, workload: Workload, images: NDArray[np.float32]) -> Any:
        command = MeasureFile(self.client.put(_npy(images)), workload)
        job = self.client.start(command)
        self.late = False
        longest = longest_s(workload, self._meters)
        if self._detached:
            self._leave(longest)
        return self.client.follow(command, job, longest + SLACK_S, self._still_runs)

    def _still_runs(self) -> None:
        self.late = self._detached

    def _leave(self, seconds: float) -> None:
        """Close the connection while the board measures, then connect again. That may take several attempts."""
        self.client.detach(seconds + SLACK_S)
        self._sleep(seconds)
        for pause in (*BACK_OFF_S, None):
            try:
                return self.client.attach()
            except BoardLost:
                if pause is None:
                    raise
                self._sleep(pause)
        return None


def _npy(images: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(images, np.float32), allow_pickle=False)
    return stream.getvalue()
