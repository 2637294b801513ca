"""Make the records of a run and write them, one per attempt of a cell."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from harness.machine import environment
from harness.measure.fields import fields_known_before
from harness.measure.measured import Measured
from harness.plugins import Plugins
from harness.results.folder import Results
from harness.run.outcome import Watcher
from harness.types.blocks import Environment, OriginBlock, PreparedOn
from harness.types.origin import EntryOrigin
from harness.types.plain import to_json
from harness.types.plan import Cell, Plan
from harness.types.record import Record

__all__ = ["Attempt", "Recorder"]

NOT_FIELDS = ("arrays", "window")
"""Fields of :class:`Measured` that are not fields of a record: one becomes a file, the other a part of ``environment``."""


@dataclass
class Recorder:
    """The writer of a run's records. ``count`` is the number of records written."""

    plan: Plan
    plugins: Plugins
    results: Results
    run_id: str
    watcher: Watcher
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        prepared_on = PreparedOn.model_validate(to_json(self.plan.host))
        self.host = Environment.model_validate({**asdict(environment.host()), "prepared_on": prepared_on})

    def start(self, cell: Cell) -> Attempt:
        """Begin an attempt of ``cell``. Its record is written when one of the attempt's methods is called."""
        started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.watcher.cell_started(cell)
        self.plugins.notify("harness_cell_started", cell=cell)
        return Attempt(self, cell, started)


@dataclass(frozen=True)
class Attempt:
    """An attempt of a cell that has begun. Call exactly one of its methods."""

    recorder: Recorder
    cell: Cell
    started: str

    def measured(self, measured: Measured) -> None:
        """Write the raw samples and the record of a cell that was measured."""
        values = {f.name: getattr(measured, f.name) for f in fields(measured) if f.name not in NOT_FIELDS}
        samples = self.recorder.results.store_samples(measured.arrays)
        host = self._environment().model_copy(update={"window": measured.window})
        self._write(**{**values, "samples": samples, "environment": host})

    def failed(self, stage: str, plugin: str | None, reason: str, traceback: str = "") -> None:
        """Write the record of a cell that failed at ``stage``, in the code of ``plugin``.

        ``traceback`` is the name of the file in the results folder that has the traceback, or "".
        """
        self._write(status="failed", stage=stage, plugin=plugin, reason=reason, traceback=traceback or None)

    def skipped(self, reason: str) -> None:
        """Write the record of a cell that cannot be measured here."""
        self._write(status="skipped", reason=reason)

    def _environment(self) -> Environment:
        """Return the machine, with the versions of all distributions that the cell's entries require."""
        host = self.recorder.host
        required = {
            name: version for origin in self.cell.origins for name, version in origin.requires.items()
        }
        return host.model_copy(update={"versions": {**host.versions, **required}})

    def _write(self, **outcome: Any) -> None:
        """Write the record. ``outcome`` has the fields that are known only after the attempt."""
        recorder, cell = self.recorder, self.cell
        machine = str(recorder.host.machine_id)
        known = fields_known_before(cell)
        fixed = {f.name: getattr(known, f.name) for f in fields(known)}
        record = recorder.results.append(
            Record(
                run_id=recorder.run_id,
                machine_id=machine,
                cell_id=cell.id,
                attempt=recorder.results.next_attempt(machine, recorder.run_id, cell.id),
                suite=recorder.plan.suite,
                method=cell.method,
                method_key=cell.method_key,
                seed=cell.seed,
                repeat=cell.repeat,
                origins={f"{origin.kind}:{origin.name}": _origin(origin) for origin in cell.origins},
                baseline=recorder.plan.baseline,
                rank_by=recorder.plan.rank_by,
                started=self.started,
                **{**fixed, "environment": self._environment(), **outcome},
            )
        )
        recorder.count += 1
        recorder.watcher.cell_finished(cell, record)
        recorder.plugins.notify("harness_cell_finished", record=record)


def _origin(origin: EntryOrigin) -> OriginBlock:
    return OriginBlock(
        plugin=origin.plugin,
        distribution=origin.distribution,
        version=origin.version,
        source=origin.source,
        requires=dict(origin.requires),
    )
