"""Makes records and writes them, one per attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from harness.machine import environment
from harness.measure.fields import described
from harness.plugins import Plugins
from harness.results.folder import Results
from harness.run.outcome import Outcome, Watcher
from harness.types.plan import Cell, Plan
from harness.types.record import Record

__all__ = []


class _Recorder:
    """Makes records and puts them on disk, one per attempt."""

    def __init__(
        self, plan: Plan, plugins: Plugins, results: Results, run_id: str, watcher: Watcher, outcome: Outcome
    ) -> None:
        self.plan, self.plugins, self.results = plan, plugins, results
        self.run_id, self.watcher, self.outcome = run_id, watcher, outcome
        self.host = {**environment.host(), "prepared_on": asdict(plan.host)}

    def start(self, cell: Cell) -> None:
        self.started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.watcher.cell_started(cell)
        self.plugins.notify("harness_cell_started", cell=cell)

    def measured(self, cell: Cell, measured: Mapping[str, Any]) -> None:
        arrays = measured["arrays"]
        samples = self.results.store_samples(arrays)
        content = {key: value for key, value in measured.items() if key != "arrays"}
        environment = {**self.host, "window": content.pop("window", {})}
        self._append(cell, {"status": "ok", "samples": samples, **content, "environment": environment})

    def failed(self, cell: Cell, stage: str, plugin: str | None, reason: str) -> None:
        self._append(
            cell,
            {
                "status": "failed",
                "stage": stage,
                "plugin": plugin,
                "reason": reason,
                "environment": self.host,
            },
        )

    def skipped(self, cell: Cell) -> None:
        self._append(cell, {"status": "skipped", "reason": cell.impossible, "environment": self.host})

    def _append(self, cell: Cell, content: Mapping[str, Any]) -> None:
        machine = str(self.host["machine_id"])
        record = Record(
            run_id=self.run_id,
            machine_id=machine,
            cell_id=cell.id,
            attempt=self.results.next_attempt(machine, self.run_id, cell.id),
            suite=self.plan.suite,
            method=cell.method,
            method_key=cell.method_key,
            seed=cell.seed,
            repeat=cell.repeat,
            origins={f"{origin.kind}:{origin.name}": origin.to_json() for origin in cell.origins},
            baseline=self.plan.baseline,
            rank_by=self.plan.rank_by,
            started=self.started,
            **{**described(cell), **content, "environment": _with_versions(content["environment"], cell)},
        )
        record = self.results.append(record)
        self.outcome.measured += 1
        self.watcher.cell_finished(cell, record)
        self.plugins.notify("harness_cell_finished", record=record)


def _with_versions(environment: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """Return the environment with the versions of all that the cell's entries require."""
    required = {name: version for origin in cell.origins for name, version in origin.requires.items()}
    return {**environment, "versions": {**environment.get("versions", {}), **required}}
