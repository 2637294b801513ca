"""The columns of a leaderboard: names, units, meanings, and their order; and the rows of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from harness.types.disturbance import RowDisturbance
from harness.types.json import JsonObject

__all__ = ["COLUMNS", "Column", "Row", "Value", "order"]

Value: TypeAlias = int | float | str | Sequence[float] | Sequence[str] | None
"""A value in a row: a number, a text, an interval [low, high], a list of texts, or null."""


@dataclass(frozen=True)
class Column:
    """One column. ``heading`` is for people. ``better`` names the good end of the scale, if there is one."""

    name: str
    heading: str
    unit: str
    meaning: str
    better: Literal["higher", "lower"] | None = None
    kind: Literal["number", "text", "list", "interval"] = "number"


def _text(name: str, heading: str, meaning: str) -> Column:
    return Column(name, heading, "", meaning, kind="text")


_CELLS = "median over cells"

COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        _text("method", "Method", "the method's name in its suite"),
        Column("seeds", "Seeds", "", "training seeds that were measured"),
        Column("repeats", "Repeats", "", "processes measured on the seed that has most"),
        _text("status", "Status", "ok; partial: some cells or figures are missing; failed; skipped"),
        Column(
            "tier",
            "Tier",
            "",
            "1: the best row and all that no test separates from it; 2: the same among the rest",
        ),
        Column("rank_ci", "Rank", "", "its rank [best, worst]; 95% for all rows together", kind="interval"),
        Column("top1", "Top-1", "%", "test accuracy, mean over seeds", "higher"),
        Column("top5", "Top-5", "%", "test accuracy within five answers, mean over seeds", "higher"),
        Column(
            "top1_ci",
            "Top-1 CI",
            "%",
            "95% t-interval over seeds on these test images, [low, high]",
            kind="interval",
        ),
        _text("accuracy_on", "Accuracy on", "where the exported artifact was evaluated: host or device"),
        Column("n", "Queries", "", "latency samples, all cells together"),
        Column("latency_p50_ms", "p50", "ms", f"median latency of a query, {_CELLS}", "lower"),
        Column("latency_p50_ci", "p50 CI", "ms", "95% interval of p50 over processes", kind="interval"),
        Column("latency_p90_ms", "p90", "ms", f"90th percentile of latency, {_CELLS}", "lower"),
        Column("latency_p99_ms", "p99", "ms", f"99th percentile of latency, {_CELLS}", "lower"),
        Column("latency_mean_ms", "Mean", "ms", "mean latency over all queries of all cells", "lower"),
        Column("latency_std_ms", "Std", "ms", "standard deviation over all queries of all cells", "lower"),
        Column("first_inference_ms", "First", "ms", f"first inference after loading, {_CELLS}", "lower"),
        Column("throughput_ips", "Throughput", "img/s", f"images per second, {_CELLS}", "higher"),
        Column("preprocess_ms", "Preprocess", "ms", f"decoding, preprocessing one image, {_CELLS}", "lower"),
        Column("params_m", "Params", "M", "parameters, fusion included, 10^6", "lower"),
        Column("macs_g", "MACs", "G", "all multiply-accumulates of one sample, 10^9", "lower"),
        Column("macs_linear_g", "Linear MACs", "G", "the papers' count: linear, convolution", "lower"),
        Column("flops_g", "FLOPs", "G", "2 x macs_g", "lower"),
        Column("weights_mb", "Weights", "MB", "weights of all parts as exported, 10^6 bytes", "lower"),
        Column("weights_mib", "Weights", "MiB", "the same in 2^20 bytes", "lower"),
        Column("weights_max_device_mb", "Weights/device", "MB", "weights on the fullest device", "lower"),
        Column("process_peak_mb", "Peak", "MB", "peak memory of the measuring process, worst cell", "lower"),
        Column("baseline_mb", "Before load", "MB", "memory of that process before loading", "lower"),
        Column("activation_peak_mb", "Activations", "MB", "peak of live activations, batch 1", "lower"),
        Column(
            "device_memory_mb",
            "Device mem",
            "MB",
            "memory that the process takes on an accelerator, worst cell",
            "lower",
        ),
        Column("energy_gross_mj", "Energy", "mJ", "energy of one inference, idle included", "lower"),
        Column("energy_net_mj", "Net energy", "mJ", "energy of one inference less idle", "lower"),
        Column(
            "energy_u_mj",
            "Energy u",
            "mJ",
            "95% uncertainty of the net energy; of the gross where there is no net",
            "lower",
        ),
        Column("power_gross_w", "Power", "W", "mean power in the window", "lower"),
        Column("idle_w", "Idle", "W", "idle power, mean of before and after", "lower"),
        _text("energy_scope", "Energy scope", "what the meter sees: wall, board, rails, package or gpu"),
        _text("energy_provenance", "Energy from", "measured, fitted, modelled, emulated ..."),
        Column("input_bytes", "Input sent", "B", "bytes of input sent, one query", "lower"),
        Column("feature_bytes", "Features sent", "B", "bytes of features sent, one query", "lower"),
        Column("nodes", "Nodes", "", "devices that work on one query"),
        _text("device", "Device", "the device's or fleet's name in the suite"),
        _text("device_model", "Device model", "its hardware"),
        _text("runtime", "Runtime", "what runs the artifact"),
        _text("precision", "Precision", "element type that really ran"),
        Column("batch", "Batch", "", "images in one query"),
        Column("threads", "Threads", "", "threads of each worker"),
        _text("data", "Data", "data set"),
        Column("train_s", "Train", "s", "wall time of all its training, mean over seeds", "lower"),
        Column(
            "train_pmacs", "Train compute", "PMACs", "training compute, 10^15 MACs, mean over seeds", "lower"
        ),
        Column("flags", "Flags", "", "disturbances that change a figure of the row", kind="list"),
        Column("ratio", "Ratio", "of best", "the column that ranks, divided by that of the best row"),
        Column("ratio_ci", "Ratio CI", "of best", "its 95% interval over processes", kind="interval"),
        # columns beyond those that the contract names
        Column("top1_oracle", "Oracle", "%", "top-1 if each image were answered by its class's sub-model"),
        Column(
            "sustained_p50_ms",
            "Sustained p50",
            "ms",
            f"p50 at the end of a sustained workload, {_CELLS}",
            "lower",
        ),
        Column("slowdown", "Slowdown", "", f"sustained p50 over that of the window, {_CELLS}", "lower"),
        Column(
            "top1_drop1",
            "Without one",
            "%",
            "top-1 when one part is missing, mean over parts and seeds",
            "higher",
        ),
        Column(
            "latency_no_input_p50_ms",
            "p50 w/o input",
            "ms",
            f"median latency with the input on the devices, {_CELLS}",
            "lower",
        ),
        Column(
            "critical_path_ms",
            "Bound",
            "ms",
            f"the slowest way through the parts: compute and bytes over links, {_CELLS}",
            "lower",
        ),
        Column("over_bound", "Over bound", "", f"p50 over that bound, {_CELLS}", "lower"),
        _text("energy_meter", "Meter", "the meter whose figures these are"),
        _text("energy_method", "Energy by", "default, or the preset whose rules made the figure"),
        _text("load", "Load", "streams, arrivals per second, who generated it"),
        _text("shape", "Input", "channels x height x width that the model takes"),
        _text("normalize", "Normalise", "which mean and deviation the input is normalised with"),
        _text(
            "resize",
            "Resize",
            "how images get their size: as stored, or interpolation and share of a centre crop",
        ),
        Column("notes", "Notes", "", "how the model differs from its pretrained weights", kind="list"),
        _text("machine_id", "Machine", "the machine that measured"),
        _text("method_key", "Config", "hash of the method's configuration"),
        _text("folder", "Folder", "the results folder, as it was named"),
        _text("run", "Run", "last: the folder's last run has these cells; earlier: it does not"),
        _text("started", "Measured", "when the first of its cells was started, UTC"),
    )
}
"""Every column by name."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a leaderboard.

    ``values`` has every column of :data:`COLUMNS`. ``why`` gives the reason for each null. ``reason`` is the reason
    why cells of the row failed or are partial. ``disturbances`` has an entry for each figure for which a cell of the
    row was disturbed.
    """

    values: Mapping[str, Value]
    why: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    disturbances: Sequence[RowDisturbance] = ()

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def number(self, name: str) -> float | None:
        """Return the value of a column of numbers.

        Raises:
            TypeError: the value is not a number.
        """
        value = self.values[name]
        if value is not None and not isinstance(value, int | float):
            raise TypeError(f"{name} is no number: {value!r}")
        return value

    def numbers(self, name: str) -> Sequence[float]:
        """Return the values of a column of intervals; empty if it is null."""
        value = self.values[name]
        return (
            [] if value is None or isinstance(value, str | int | float) else [float(item) for item in value]
        )

    def texts(self, name: str) -> Sequence[str]:
        """Return the texts of a column of lists; empty if it is null."""
        value = self.values[name]
        return [] if value is None or isinstance(value, str | int | float) else [str(item) for item in value]

    def to_json(self) -> JsonObject:
        """Return the row as JSON: its columns, ``why`` and ``reason``, and ``disturbances`` if there are some."""
        disturbed = [disturbance.to_json() for disturbance in self.disturbances]
        more = {"disturbances": disturbed} if disturbed else {}
        return {**self.values, "why": dict(self.why), "reason": self.reason, **more}


def order(name: str) -> Callable[[Row], tuple[Any, ...]]:
    """Return the sort key for one column: better values first, texts and lists in ascending order, nulls last."""
    column = COLUMNS[name]

    def key(row: Row) -> tuple[Any, ...]:
        value = row[name]
        if value is None:
            return (True,)
        if isinstance(value, int | float):
            return False, -value if column.better == "higher" else value
        return False, value if isinstance(value, str) else list(value)

    return key
