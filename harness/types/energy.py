"""The energy reading of a meter in one window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from harness.types.json import Facts, JsonObject
from harness.types.meters import Provenance, Scope

__all__ = ["Preset", "Reading"]

Preset = Literal["default", "devit", "mlperf"]
"""The rules by which energy is computed (:func:`harness.machine.energy.reading.read_window`)."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One meter's figures for one window. A figure that is ``None`` has its reason in ``withheld``.

    ``energy_*_j`` is the energy of the whole window of ``window_s`` seconds in joules, and ``energy_*_mj`` that of
    one inference in millijoules. ``energy_u_mj`` is the uncertainty of the net energy, or of the gross energy if
    there is no net energy. ``disagreement``: difference from other meters of the same thing, divided by the mean of
    both. ``details``: facts that the meter states about itself. ``device``: for a fleet, the device that was read.
    """

    meter: str
    scope: Scope
    watches: str
    provenance: Provenance
    quantity: Literal["energy", "power"]
    host: str
    method: Preset
    window_s: float
    inferences: int
    samples: int
    greatest_gap_s: float | None
    period_s: float
    averaging_s: float
    calibration: float | None
    energy_gross_j: float | None = None
    power_gross_w: float | None = None
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    idle_w: float | None = None
    idle_drift: float | None = None
    energy_net_j: float | None = None
    u_gross_j: float | None = None
    u_net_j: float | None = None
    uncertainty: Mapping[str, float | None] = field(default_factory=dict)
    energy_gross_mj: float | None = None
    energy_net_mj: float | None = None
    energy_u_mj: float | None = None
    withheld: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    disagreement: Mapping[str, float] = field(default_factory=dict)
    details: Facts = field(default_factory=dict)
    device: str = ""

    def to_json(self) -> JsonObject:
        """Return the reading as in a record. It has ``device`` only for a fleet."""
        values = asdict(self) | {"notes": list(self.notes)}
        return values if self.device else {key: value for key, value in values.items() if key != "device"}
