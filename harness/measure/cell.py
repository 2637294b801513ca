"""Measure one cell: deploy its parts, generate the workload, check parity, evaluate accuracy.

Latency, energy and memory come from the same worker processes and window. Accuracy is that of the exported artifact,
at the batch size of the scenario. It is evaluated on the device, or on this host if a part runs on another machine.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

from harness.data.splits import spread
from harness.errors import BoardLost, CellError, HarnessError, first_line
from harness.measure.accuracy import Infer, check_parity
from harness.measure.answers import check_answers
from harness.measure.cell_data import open_cell
from harness.measure.deploy import Deployed, deploy
from harness.measure.evaluator import Evaluator
from harness.measure.fields import record_fields
from harness.measure.measured import Measured, RawResult
from harness.measure.parity import Parity
from harness.measure.predictions import PredictionCache
from harness.measure.workload import resident, workload_of
from harness.plugins import Plugins
from harness.store.artifacts import Store
from harness.types import IMAGE, Workload
from harness.types.plan import Cell

__all__ = ["CellFailure", "CellLost", "measure_cell"]

REMOTE_SAMPLES = 32
"""Number of images that a window cycles through if each image must cross a link."""


class CellFailure(CellError):
    """A cell could not be measured. It becomes a failed record."""


class CellLost(CellFailure):
    """A board does not answer. The cell is tried again when the board answers. ``board`` is the board's name."""

    def __init__(self, message: str, *, board: str) -> None:
        super().__init__(message, stage="measure")
        self.board = board


def measure_cell(
    cell: Cell, plugins: Plugins, store: Store, cache: PredictionCache, preprocess_ms: float | None
) -> Measured:
    """Measure one cell in fresh worker processes.

    Args:
        cell: the cell. Its artifacts are in ``store``.
        plugins: the plugins with the cell's backends and runtime.
        store: the store of artifacts.
        cache: predictions of other cells that must have the same predictions.
        preprocess_ms: time to decode and preprocess one image in milliseconds, or None if it was not measured.

    Raises:
        CellLost: a board does not answer.
        CellFailure: a worker died, an artifact did not load, or parity was broken.
    """
    try:
        return _measure(cell, plugins, store, cache, preprocess_ms)
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
    except (Exception, SystemExit) as error:
        raise CellFailure(
            first_line(error, kind=True), stage="measure", plugin=plugins.blame(error)
        ) from error


def _measure(
    cell: Cell, plugins: Plugins, store: Store, cache: PredictionCache, preprocess_ms: float | None
) -> Measured:
    data = open_cell(cell, store)
    images = data.parity_images()
    runtime = plugins.runtimes.get(cell.task.runtime.name).entry
    tolerance = runtime.tolerance(runtime.params(**cell.task.runtime.params))
    evaluator = Evaluator(data, cache, store, runtime)
    workload = workload_of(cell, len(data.labels))
    with ExitStack() as stack:
        deployed = deploy(cell, data.export, plugins, store, stack)
        cycled = images[spread(len(images), REMOTE_SAMPLES)] if deployed.remote else images
        samples, reports = deployed.measure(workload, cycled)
        sends = _sends_images(deployed, workload)
        no_input = deployed.central.measure(resident(workload), cycled) if sends else None
        infer = Infer(deployed.central.infer, workload.batch)
        parity = check_parity(infer, images, data.reference, tolerance)
        if not parity.ok:
            raise CellFailure(_broken(parity, runtime.name), stage="parity")
        window, wrong = check_answers(samples, infer, data, cycled, deployed.graph, tolerance)
        if wrong:
            plugin = plugins.runtimes.get(runtime.name).origin.plugin
            raise CellFailure(f"runtime {runtime.name}: {wrong}", stage="measure", plugin=plugin)
        on: Literal["host", "device"] = "host" if deployed.remote and "cpu" in runtime.devices else "device"
        predictions = evaluator.on_devices(infer) if on == "device" else None
    if predictions is None:  # the boards are free during this
        predictions = evaluator.on_host()
    raw = RawResult(
        samples=samples,
        reports=reports,
        no_input=no_input,
        parity=parity,
        window=window,
        on=on,
        predictions=predictions,
        robustness=evaluator.without_parts(),
        deployed=deployed,
    )
    return record_fields(data, raw, preprocess_ms)


def _sends_images(deployed: Deployed, workload: Workload) -> bool:
    """Return whether to measure a second window, without the input's transfer.

    It is measured for a closed loop whose images are sent to other devices.
    """
    takers = [part.name for part in deployed.graph.parts if IMAGE in part.inputs]
    sent = any(deployed.places[name] != deployed.central_index for name in takers)
    return sent and workload.scenario == "single-stream" and workload.generator == "harness"


def _broken(parity: Parity, runtime: str) -> str:
    agrees = f"; top-1 agrees on {parity.top1_agreement:.1%}" if parity.top1_agreement is not None else ""
    return f"{runtime} does not answer as the model does: {parity.reason} ({parity.n} samples{agrees})"
