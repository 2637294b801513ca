"""One cell, measured: deploy its parts, generate the load, check parity, evaluate accuracy.

Latency, energy and memory come from the same worker processes and window. Accuracy is that of the exported artifact,
at the batch size of the scenario: on the device, or on this host where a part runs on another machine.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from harness.data.splits import spread
from harness.errors import BoardLost, CellError, HarnessError, first_line
from harness.measure.accuracy import Evaluations, Infer, check_parity
from harness.measure.cell_data import open_cell
from harness.measure.deploy import Deployed, deploy
from harness.measure.evaluator import Evaluator
from harness.measure.fields import Measured, content
from harness.measure.parity import Parity
from harness.plugins import Plugins
from harness.stats import EARLY_STOPPING_MIN
from harness.store.artifacts import Store
from harness.types import IMAGE, Workload
from harness.types.plan import Cell
from harness.worker.loadgen.queries import per_query

__all__ = ["CellFailure", "CellLost", "Evaluations", "measure_cell"]

RESIDENT_SHARE = 4
"""The window without the input's transfer is shorter than the other by this factor."""


REMOTE_SAMPLES = 32
"""Images that a window cycles through where all must cross a link and are rehearsed; parity takes the usual 256."""


class CellFailure(CellError):
    """A cell could not be measured; it becomes a failed record."""


class CellLost(CellFailure):
    """A board does not answer (any more): the cell is tried again when it is back. ``board`` is its name."""

    def __init__(self, message: str, *, board: str) -> None:
        super().__init__(message, stage="measure")
        self.board = board


def measure_cell(
    cell: Cell, plugins: Plugins, store: Store, evaluations: Evaluations, preprocess_ms: float | None
) -> dict[str, Any]:
    """Measure one cell in fresh worker processes; the fields of its record, and ``arrays`` of raw samples.

    Raises:
        CellLost: a board does not answer (any more).
        CellFailure: a worker died, an artifact did not load, or parity was broken.
    """
    try:
        return _measure(cell, plugins, store, evaluations, preprocess_ms)
    except CellFailure:
        raise
    except CellError as error:
        raise CellFailure(
            str(error), stage=error.stage, plugin=error.plugin or plugins.blame(error)
        ) from error
    except BoardLost as error:
        raise CellLost(str(error), board=error.board) from error
    except HarnessError as error:
        raise CellFailure(str(error), stage="measure", plugin=plugins.blame(error)) from error
    except MemoryError:
        raise CellFailure("out of memory", stage="measure") from None
    except Exception as error:
        raise CellFailure(
            first_line(error, kind=True), stage="measure", plugin=plugins.blame(error)
        ) from error


def _measure(
    cell: Cell, plugins: Plugins, store: Store, evaluations: Evaluations, preprocess_ms: float | None
) -> dict[str, Any]:
    task = cell.task
    data = open_cell(cell, store)
    picked = data.parity_images()
    runtime = plugins.runtimes.get(task.runtime.name).entry
    tolerance = runtime.tolerance(runtime.params(**task.runtime.params))
    evaluator = Evaluator(data, evaluations, store, runtime)
    load = _load(cell, len(data.labels))
    with ExitStack() as stack:
        deployed = deploy(cell, data.export, plugins, store, stack)
        loaded = picked[spread(len(picked), REMOTE_SAMPLES)] if deployed.remote else picked
        samples, beside = deployed.measure(load, loaded)
        no_input = (
            deployed.central.measure(_resident(load), loaded) if _sends_images(deployed, load) else None
        )
        infer = Infer(deployed.central.infer, load.batch)
        parity = check_parity(infer, picked, data.reference, tolerance)
        if not parity.ok:
            raise CellFailure(_broken(parity, runtime.name), stage="parity")
        on = "host" if deployed.remote and "cpu" in runtime.devices else "device"
        if on == "device":
            answers = evaluator.on_devices(infer)
    if on == "host":  # the boards are not held meanwhile
        answers = evaluator.on_host()
    measured = Measured(
        samples=samples,
        beside=beside,
        no_input=no_input,
        parity=parity,
        on=on,
        answers=answers,
        missing=evaluator.without_parts(),
        deployed=deployed,
    )
    return content(data, measured, preprocess_ms)


def _load(cell: Cell, n: int) -> Workload:
    """Return the load of a cell; ``n`` images are in the test split."""
    measure = cell.task.measure
    load = Workload(
        scenario=measure.scenario,
        batch=measure.batch,
        streams=measure.streams,
        target_qps=measure.target_qps,
        seed=1000 * cell.seed + cell.repeat,
        generator=measure.generator,
        min_time_s=measure.min_time,
        min_queries=measure.min_queries,
        max_time_s=measure.max_time,
        warmup=measure.warmup,
        sustained_s=measure.sustained,
        idle_s=measure.idle_time,
        energy_method=measure.preset,
        energy_error=measure.energy_error,
        cool_below_c=measure.cool_down.below if measure.cool_down else None,
        cool_limit_s=measure.cool_down.limit if measure.cool_down else 0.0,
    )
    if cell.task.fleet:
        load = replace(
            load, in_flight=measure.in_flight, deadline_s=measure.deadline, on_missing=measure.on_missing
        )
    if measure.passes:
        return replace(load, min_queries=measure.passes * -(-n // per_query(load)))
    return load


def _sends_images(deployed: Deployed, load: Workload) -> bool:
    """Whether a window without the input's transfer says something: a closed loop whose images are sent."""
    takers = [part.name for part in deployed.graph.parts if IMAGE in part.inputs]
    sent = any(deployed.places[name] != deployed.central_index for name in takers)
    return sent and load.scenario == "single-stream" and load.generator == "harness"


def _resident(load: Workload) -> Workload:
    """A shorter window for latency alone, with the images on the devices before it begins."""
    return replace(
        load,
        resident=True,
        min_time_s=load.min_time_s / RESIDENT_SHARE,
        min_queries=max(EARLY_STOPPING_MIN[50], load.min_queries // RESIDENT_SHARE),
        max_time_s=load.max_time_s / RESIDENT_SHARE,
        warmup="one",
        sustained_s=None,
        idle_s=0.0,
        energy_error=None,
        cool_below_c=None,
    )


def _broken(parity: Parity, runtime: str) -> str:
    agrees = f"; top-1 agrees on {parity.top1_agreement:.1%}" if parity.top1_agreement is not None else ""
    return f"{runtime} does not answer as the model does: {parity.reason} ({parity.n} samples{agrees})"
