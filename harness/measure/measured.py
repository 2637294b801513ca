"""The results of measuring a cell: raw from the devices, and as the fields of its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.types.blocks import (
    DataBlock,
    DeviceBlock,
    LineageStep,
    PartBlock,
    RuntimeBlock,
    TrainingCost,
    WindowSignals,
)
from harness.types.figures import (
    Accuracy,
    Counts,
    EnergyReading,
    Latency,
    Memory,
    MissingParts,
    Network,
    Parity,
    State,
    WindowCheck,
)
from harness.types.signals import Signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.measure.deploy import Deployed
    from harness.measure.predictions import Predictions
    from harness.types import DeviceReport, Samples

__all__ = ["Measured", "RawResult"]


@dataclass(frozen=True, kw_only=True)
class RawResult:
    """The raw results of the devices and of the evaluation.

    ``reports``: index of a device -> its report of the central node's window. ``no_input``: samples of a window
    without the input's transfer. ``window``: the check of the window's answers. ``on``: where ``predictions`` were made. ``robustness``: the
    accuracy when parts are absent.
    """

    samples: Samples
    reports: Mapping[int, DeviceReport]
    no_input: Samples | None
    parity: Parity
    window: WindowCheck
    on: Literal["host", "device"]
    predictions: Predictions
    robustness: MissingParts
    deployed: Deployed


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The fields of the record of a cell that was measured.

    ``window`` becomes a part of ``environment``. ``arrays`` are the raw samples by name.
    """

    status: Literal["ok", "partial"]
    reason: str
    device: DeviceBlock
    runtime: RuntimeBlock
    data: DataBlock
    counts: Counts
    accuracy: Accuracy
    latency: Latency
    memory: Memory
    energy: list[EnergyReading]
    network: Network
    parts: list[PartBlock]
    state: State
    flags: list[str]
    signals: list[Signal]
    lineage: list[LineageStep]
    train: TrainingCost
    window: WindowSignals
    arrays: Mapping[str, NDArray[Any] | int]
