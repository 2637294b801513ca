"""A board as a device: its worker is loaded, asked and measured through its agent."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.errors import BoardLost, DeviceError
from harness.machine.energy.durations import longest_s
from harness.types import (
    Artifact,
    Clock,
    Device,
    DeviceInfo,
    DeviceReport,
    DeviceSpec,
    Graph,
    PeerAddress,
    RuntimeEntry,
    Samples,
    Workload,
)
from harness_remote import agent_pb2 as pb
from harness_remote.client.client import Client, Timeouts
from harness_remote.client.external import External
from harness_remote.client.framestream import FrameStream
from harness_remote.wire import codec
from harness_remote.wire.secrets import Credentials
from harness_remote.wire.wire import PEER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Reach", "RemoteDevice"]

FRAME_BYTES = 4 * 2**20
AHEAD = 2
SLACK_S = 300.0
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How one board is reached: the workstation's way, and ``via`` (board -> host:port) the other boards' to where it
    takes frames: by default at ``frames_port``, or at the port that its agent tells.
    """

    board: str
    credentials: Credentials
    via: Mapping[str, str]
    frames_port: int | None = None

    def details(self, central: str, client: Client) -> dict[str, Any]:
        """What the board ``central`` (or this machine) opens it with as a peer, served by the worker that is open."""
        served = client.call("Serve", pb.ServeRequest(), pb.ServeReply)
        host = self.credentials.target.rpartition(":")[0]
        return {
            "target": self.via.get(central) or f"{host}:{self.frames_port or served.port}",
            "certificate": self.credentials.certificate.decode(),
            "ticket": served.ticket,
        }


class RemoteDevice:
    """A :class:`~harness.types.Device`. The board is held from here on, by a lease, until it is closed.

    ``device`` is what its runtime computes on: ``cpu``, ``cuda:0``. ``detached``: the connection is dropped
    while it measures.
    """

    remote = True

    def __init__(
        self,
        spec: DeviceSpec,
        info: DeviceInfo,
        reach: Reach,
        timeouts: Timeouts,
        *,
        device: str = "cpu",
        detached: bool = False,
    ) -> None:
        self.info = info
        self.reach = reach
        self._device = device
        self._detached = detached
        self._threads = spec.threads
        self._own_meters = [use.info for use in spec.monitor.meters if not use.open]
        self._opened = False
        self._frames: FrameStream | None = None
        self._clock: Clock | None = None
        self._external = External(tuple(use for use in spec.monitor.meters if use.open))
        self._client = Client(reach.board, reach.credentials, timeouts)
        try:
            self._client.acquire()
        except BaseException:
            self.close()
            raise

    # --- parts ---

    def load(self, part: str, artifact: Artifact, runtime: RuntimeEntry) -> Mapping[str, Any]:
        file = self._onnx(artifact, runtime)
        if not self._opened:
            request = pb.OpenRequest(threads=self._threads, meters=[info.name for info in self._own_meters])
            self._client.call("Open", request, pb.Done, work=True)
            self._opened = True
        request = pb.LoadRequest(
            part=part,
            runtime=runtime.name,
            sha256=self._client.put_file(file),
            artifact=codec.artifact_to_json(artifact),
            device=self._device,
        )
        facts: dict[str, Any] = codec.from_json(
            dict, self._client.call("Load", request, pb.LoadReply, work=True).facts
        )
        return facts

    def _onnx(self, artifact: Artifact, runtime: RuntimeEntry) -> Path:
        """The artifact's file, which this board's ONNX Runtime must be able to load."""
        file = artifact.path / str(artifact.meta.get("file", ""))
        if file.suffix != ".onnx":
            raise DeviceError(f"{self.info.name} runs ONNX files only, not what {runtime.name} exports")
        there = self.info.details.get("onnxruntime", {})
        for key, most in (("opset", there.get("opset")), ("ir_version", there.get("ir_version"))):
            has = artifact.meta.get(key)
            if isinstance(has, int) and isinstance(most, int) and has > most:
                raise DeviceError(
                    f"{self.info.name}: its ONNX Runtime {there.get('version')} loads {key} {most} at most, and the file "
                    f"has {has}: install a newer one there"
                )
        return file

    # --- several boards ---

    def serve(self, central: Device) -> PeerAddress:
        own = central.reach.board if isinstance(central, RemoteDevice) else ""
        details = self.reach.details(own, self._client)
        return PeerAddress(device=self.reach.board, open=PEER, details=details)

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        parts: dict[str, list[str]] = {}
        addresses: dict[str, PeerAddress] = {}
        for part, address in peers.items():
            if address.open != PEER:
                raise DeviceError(
                    f"{self.info.name} cannot reach {address.device}, which is no board of the inventory"
                )
            parts.setdefault(address.details["ticket"], []).append(part)
            addresses[address.details["ticket"]] = address
        told = [
            pb.Peer(parts=parts[ticket], device=address.device, **address.details)
            for ticket, address in addresses.items()
        ]
        request = pb.ConnectRequest(graph=codec.to_json(graph), peers=told)
        self._client.call("Connect", request, pb.Done, work=True)

    def clock(self) -> Clock:
        self._clock = self._client.clock()
        return self._clock

    def begin(self) -> None:
        self._external.begin()
        self._client.call("Begin", pb.BeginRequest(), pb.Done, work=True)

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        request = pb.EndRequest(
            spans=codec.to_json(dict(spans)), clock_error_ns=clock_error_ns, images=images
        )
        seen = codec.unpack_beside(self._client.call("End", request, pb.EndReply, work=True).beside)
        clock = self._drifted(self._clock)
        outside = self._external.end(spans, replace(clock, error_ns=clock.error_ns + clock_error_ns), images)
        return replace(
            seen,
            energy=[*seen.energy, *outside.energy],
            meters={**seen.meters, **outside.meters},
            problems=[*seen.problems, *outside.problems],
        )

    # --- work ---

    def infer(
        self, images: NDArray[np.float32], batch: int, absent: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        import numpy as np

        size = max(batch, FRAME_BYTES // max(1, images[0].nbytes) // batch * batch)
        pieces = [images[start : start + size] for start in range(0, len(images), size)]
        header = {"op": "infer", "batch": batch, "missing": list(absent)}
        self._frames = self._frames or FrameStream(self._client)
        try:
            return np.concatenate(list(self._frames.ask(header, pieces)))
        except DeviceError:
            self._hang_up()  # answers to what was sent ahead may still come
            raise

    def _hang_up(self) -> None:
        if self._frames is not None:
            self._frames.close()
            self._frames = None

    def measure(self, load: Workload, images: NDArray[np.float32]) -> Samples:
        sha256 = self._client.put(_npy(images))
        load = self._external.prepared(load)
        before = self._client.clock()
        self._external.begin()
        request = pb.MeasureRequest(load=codec.to_json(load), sha256=sha256)
        job = self._client.call("Measure", request, pb.Job).id
        early: list[bool] = []
        longest = longest_s(load, self._own_meters)
        if self._detached:
            self._leave(longest)
        result = self._client.follow(job, longest + SLACK_S, lambda: early.append(self._detached))
        samples = codec.unpack_samples(result)
        latency = samples.latency_ns
        outside = self._external.end(
            samples.spans,
            self._drifted(before),
            len(latency) * samples.batch,
            load,
            float(latency.mean()) / samples.batch / 1e9 if len(latency) else None,
        )
        late = (
            ["detached: it measured for longer than expected, and was connected at the end"]
            if any(early)
            else []
        )
        return replace(
            samples,
            energy=[*samples.energy, *outside.energy],
            meters={**samples.meters, **outside.meters},
            problems=[*samples.problems, *outside.problems, *late],
        )

    def _leave(self, seconds: float) -> None:
        """No connection while the board measures; then back, which may take some attempts."""
        self._hang_up()
        self._client.detach(seconds + SLACK_S)
        time.sleep(seconds)
        for pause in (*BACK_OFF_S, None):
            try:
                return self._client.attach()
            except BoardLost:
                if pause is None:
                    raise
                time.sleep(pause)
        return None

    def _drifted(self, before: Clock | None) -> Clock:
        """The board's clock now; what it went since ``before`` is in the error."""
        now = self._client.clock()
        if before is None:
            return now
        middle = (now.offset_ns + before.offset_ns) // 2
        apart = abs(now.offset_ns - before.offset_ns) // 2
        return Clock(offset_ns=middle, error_ns=max(now.error_ns, before.error_ns) + apart)

    # --- the end ---

    def close(self) -> None:
        try:
            self._hang_up()
            self._external.close()
        finally:
            self._client.close()  # else we hold the board for as long as this process lives

    def __enter__(self) -> RemoteDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _npy(images: NDArray[np.float32]) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(images, np.float32), allow_pickle=False)
    return stream.getvalue()
