"""A board as a device: the core's device over a transport to the board, and external meters that watch it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.devices import WorkerDevice
from harness.types import Clock, DeviceInfo, DeviceReport, DeviceSpec, Samples, SessionOptions, Workload
from harness_remote.client.client import Client, Timeouts
from harness_remote.client.external import External
from harness_remote.client.transport import LATE, BoardTransport, Reach

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RemoteDevice", "hold"]


def hold(
    spec: DeviceSpec,
    info: DeviceInfo,
    reach: Reach,
    timeouts: Timeouts,
    *,
    device: str = "cpu",
    detached: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> RemoteDevice:
    """Acquire a board's lease, and return the board as a device. Closing the device releases the lease.

    ``device`` is where the board's runtime computes, such as ``cpu`` or ``cuda:0``. If ``detached``, the connection
    is closed while the board measures, and ``sleep`` waits for the end.

    Raises:
        BoardLost: the board does not answer, or someone else holds it.
    """
    uses = spec.monitor.meters
    external = External(tuple(use for use in uses if use.open))
    client = Client(reach.board, reach.credentials, timeouts)
    transport = BoardTransport(
        client,
        reach,
        info,
        threads=spec.threads,
        meters=[use.info for use in uses if not use.open],
        device=device,
        detached=detached,
        sleep=sleep,
    )
    held = RemoteDevice(info, transport, SessionOptions(threads=spec.threads, device=device), external)
    try:
        client.acquire()
    except BaseException:
        held.close()
        raise
    return held


class RemoteDevice(WorkerDevice):
    """A leased board (:class:`~harness.types.Device`) and its external meters."""

    transport: BoardTransport

    def __init__(
        self, info: DeviceInfo, transport: BoardTransport, options: SessionOptions, external: External
    ) -> None:
        super().__init__(info, transport, options)
        self._external = external
        self._clock: Clock | None = None

    def clock(self) -> Clock:
        """Return the board's clock, and keep it to correct the drift at :meth:`end`."""
        self._clock = super().clock()
        return self._clock

    def begin(self) -> None:
        """Begin a window on the board, and start to read the external meters."""
        self._external.begin()
        super().begin()

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        """Return the board's report of the window, merged with the report of the external meters."""
        report = super().end(spans, clock_error_ns, images)
        clock = self._drifted(self._clock)
        outside = self._external.end(spans, replace(clock, error_ns=clock.error_ns + clock_error_ns), images)
        return report.merged(outside)

    def measure(self, workload: Workload, images: NDArray[np.float32]) -> Samples:
        """Measure a window on the board, with the external meters in its report.

        If the board was detached and measured longer than expected, the report says so.
        """
        self.transport.send(images)  # before meters are read, so that the link is idle then
        workload = self._external.prepared(workload)
        before = super().clock()
        self._external.begin()
        samples = super().measure(workload, images)
        latency = samples.trace.latency_ns
        outside = self._external.end(
            samples.spans,
            self._drifted(before),
            len(latency) * samples.batch,
            workload.metering,
            float(latency.mean()) / samples.batch / 1e9 if len(latency) else None,
        )
        late = DeviceReport(problems=(LATE,) if self.transport.late else ())
        return replace(samples, here=samples.here.merged(outside).merged(late))

    def close(self) -> None:
        """Close the external meters and release the board."""
        try:
            self._external.close()
        finally:
            super().close()  # without this, the board stays leased as long as this process lives

    def _drifted(self, before: Clock | None) -> Clock:
        """Return the middle of the board's clock now and ``before``. Its error includes the drift between the two."""
        now = super().clock()
        if before is None:
            return now
        middle = (now.offset_ns + before.offset_ns) // 2
        apart = abs(now.offset_ns - before.offset_ns) // 2
        return Clock(offset_ns=middle, error_ns=max(now.error_ns, before.error_ns) + apart)
