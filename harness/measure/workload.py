"""Convert the ``measure`` block of a suite into a worker's workload and into a record's ``scenario``.

The keys occur in three types: :class:`~harness.types.measure.Measure`, the worker's :class:`~harness.types.Workload`,
and the record. Only this module maps them.
"""

from __future__ import annotations

from dataclasses import replace

from harness.stats import EARLY_STOPPING_MIN
from harness.types import Metering, Stop, Workload
from harness.types.blocks import CoolDownRule, ScenarioBlock
from harness.types.plan import Cell, CellTask
from harness.worker.loadgen.queries import per_query

__all__ = ["resident", "scenario_of", "workload_of"]

RESIDENT_SHARE = 4
"""The window without the input's transfer is shorter than the main window by this factor."""


def scenario_of(task: CellTask) -> ScenarioBlock:
    """Return the scenario block of a cell's record. Keys of fleets are absent for a single device."""
    measure = task.measure
    cool = measure.cool_down
    scenario = ScenarioBlock(
        name=measure.scenario,
        threads=task.specs[0].threads,
        preset=measure.preset,
        batch=measure.batch,
        streams=measure.streams,
        target_qps=measure.target_qps,
        generator=measure.generator,
        min_time_s=measure.min_time,
        min_queries=measure.min_queries,
        passes=measure.passes,
        max_time_s=measure.max_time,
        warmup=measure.warmup,
        sustained_s=measure.sustained,
        energy=measure.energy,
        energy_error=measure.energy_error,
        idle_time_s=measure.idle_time,
        cool_down=None if cool is None else CoolDownRule(below=cool.below, limit=cool.limit),
        robustness=measure.robustness,
    )
    if not task.fleet:
        return scenario
    return scenario.model_copy(
        update={
            "in_flight": measure.in_flight,
            "deadline_s": measure.deadline,
            "on_missing": measure.on_missing,
        }
    )


def workload_of(cell: Cell, n: int) -> Workload:
    """Return the workload of a cell. ``n`` is the number of images in the test split."""
    measure = cell.task.measure
    workload = Workload(
        scenario=measure.scenario,
        batch=measure.batch,
        streams=measure.streams,
        target_qps=measure.target_qps,
        seed=1000 * cell.seed + cell.repeat,
        generator=measure.generator,
        stop=Stop(
            min_time_s=measure.min_time,
            min_queries=measure.min_queries,
            max_time_s=measure.max_time,
            warmup=measure.warmup,
            sustained_s=measure.sustained,
        ),
        metering=Metering(
            idle_s=measure.idle_time,
            method=measure.preset,
            error=measure.energy_error,
            cool_below_c=measure.cool_down.below if measure.cool_down else None,
            cool_limit_s=measure.cool_down.limit if measure.cool_down else 0.0,
        ),
    )
    if cell.task.fleet:
        workload = replace(
            workload,
            fleet=replace(
                workload.fleet,
                in_flight=measure.in_flight,
                deadline_s=measure.deadline,
                on_missing=measure.on_missing,
            ),
        )
    if measure.passes:
        return replace(
            workload, stop=replace(workload.stop, min_queries=measure.passes * -(-n // per_query(workload)))
        )
    return workload


def resident(workload: Workload) -> Workload:
    """Return a shorter workload that measures only latency, with the images on the devices before the window."""
    return replace(
        workload,
        fleet=replace(workload.fleet, resident=True),
        stop=replace(
            workload.stop,
            min_time_s=workload.stop.min_time_s / RESIDENT_SHARE,
            min_queries=max(EARLY_STOPPING_MIN[50], workload.stop.min_queries // RESIDENT_SHARE),
            max_time_s=workload.stop.max_time_s / RESIDENT_SHARE,
            warmup="one",
            sustained_s=None,
        ),
        metering=replace(workload.metering, idle_s=0.0, error=None, cool_below_c=None),
    )
