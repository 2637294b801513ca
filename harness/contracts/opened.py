"""An opened device whose answers are checked where they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.contracts.devices import check_found
from harness.contracts.measuring import check_answers, check_clock, check_report, check_samples
from harness.contracts.need import Need
from harness.contracts.runtimes import check_facts
from harness.types import (
    Artifact,
    Clock,
    Device,
    DeviceReport,
    Graph,
    PeerAddress,
    RuntimeEntry,
    Samples,
    Workload,
)
from harness.types.json import Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CheckedDevice"]


NEEDED = ("info", "remote", "load", "connect", "infer", "measure", "close", "__enter__", "__exit__")
"""What every cell uses of a device. Only fleets use the rest of :class:`~harness.types.Device`."""


class CheckedDevice:
    """A :class:`~harness.types.Device` that checks each answer of ``device`` (``need`` names its plugin).

    Other attributes are those of ``device``.

    Raises:
        BrokenContract: ``device`` is not a device, or runs on another machine and does not name it.
    """

    def __init__(self, need: Need, device: Device) -> None:
        absent = [name for name in NEEDED if not hasattr(device, name)]
        need(
            not absent,
            f"open gave {type(device).__name__} without {', '.join(absent)}",
            "open gives a Device",
        )
        check_found(need, device.info, "open")
        need(
            not device.remote or bool(device.info.machine_id),
            f"{device.info.name} is another machine and has no machine_id",
            "DeviceInfo.machine_id: names the machine of a remote device, whose meters and environment count",
        )
        self.device = device
        self.info = device.info
        self.remote = device.remote
        self._need = need
        self._answer: tuple[int, ...] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def load(self, part: str, artifact: Artifact, runtime: RuntimeEntry) -> Facts:
        """Load an artifact, and check the session's facts."""
        facts = self.device.load(part, artifact, runtime)
        check_facts(self._need, facts)
        self._answer = tuple(artifact.output.shape)  # a graph replaces it
        return facts

    def serve(self, central: Device) -> PeerAddress:
        """Answer the central device's queries."""
        address = self.device.serve(central.device if isinstance(central, CheckedDevice) else central)
        is_address = isinstance(address, PeerAddress)
        self._need(is_address, f"serve gave {type(address).__name__}", "serve gives a PeerAddress")
        return address

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        """Make the device the central one."""
        self._answer = tuple(graph.parts[-1].output.shape)
        self.device.connect(graph, peers)

    def clock(self) -> Clock:
        """Return the checked offset of the device's clock."""
        clock = self.device.clock()
        check_clock(self._need, clock)
        return clock

    def begin(self) -> None:
        """Begin to read memory, meters and state."""
        self.device.begin()

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        """Return the checked report of the central device's window."""
        report = self.device.end(spans, clock_error_ns, images)
        check_report(self._need, report)
        return report

    def infer(
        self, images: NDArray[np.float32], batch: int, absent: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """Return the checked answers to ``images``."""
        answers = self.device.infer(images, batch, absent) if absent else self.device.infer(images, batch)
        check_answers(self._need, answers, len(images), self._answer)
        return answers

    def measure(self, workload: Workload, images: NDArray[np.float32]) -> Samples:
        """Return the checked samples of a window."""
        samples = self.device.measure(workload, images)
        check_samples(self._need, samples, workload)
        return samples

    def close(self) -> None:
        """End the worker."""
        self.device.close()

    def __enter__(self) -> CheckedDevice:
        self.device.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.device.__exit__(kind, error, trace)
