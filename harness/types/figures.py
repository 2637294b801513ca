"""The blocks of a record with its figures: counts, accuracy, latency, memory, energy, network, state."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from harness.types.blocks import Block, Number, known
from harness.types.json import Facts
from harness.types.signals import Undisturbed

__all__ = [
    "Accuracy",
    "Bounds",
    "Counts",
    "DeviceShares",
    "EnergyReading",
    "Latency",
    "Memory",
    "MissingLevel",
    "MissingParts",
    "Network",
    "NoInput",
    "Parity",
    "PartTimes",
    "ProcessMemory",
    "Queries",
    "State",
    "Sustained",
]


class Counts(Block):
    """Totals over all parts, fusion included."""

    params: int | None = known("parameters of all parts")
    macs: int | None = known("multiply-accumulates of one image, all operations")
    macs_linear: int | None = known("multiply-accumulates of linear layers and convolutions only")
    weight_bytes: int | None = known("bytes of the weights as exported")
    weight_bytes_max_device: int | None = known("bytes of the weights on the device that has most of them")
    activation_bytes: int | None = known("peak of live activations of the largest part, batch 1")


class Parity(Block):
    """The comparison of the artifact's logits with those of the model."""

    n: int | None = known("images compared")
    max_abs_diff: Number | None = known("greatest difference of a logit")
    max_rel: Number | None = known("that difference divided by the greatest logit of the reference")
    top1_agreement: Number | None = known("share of images with the same greatest logit")
    agreement_low: Number | None = known("lower limit of the 95% Wilson interval of that share")
    tolerance: Number | None = known("greatest `max_rel` that the runtime allows")
    ok: bool | None = known("whether the artifact answers as the model does")
    reason: str | None = known("why the artifact does not answer as the model does")


class WindowCheck(Block):
    """The check that the answers of the measuring window are those of the model."""

    n: int | None = known("answers that the window and its warm-up gave; each was read in the measured time")
    compared: int | None = known("answers, drawn at random, that were compared with answers after the window")
    max_rel: Number | None = known(
        "greatest difference of a logit, divided by the greatest logit after the window"
    )
    changed_ratio: Number | None = known(
        "median time of a query with pictures that the runtime never saw, divided by that with the window's images"
    )
    changed_n: int | None = known(
        "test images, drawn at random, whose answers were compared with those to changed images"
    )
    changed_max_rel: Number | None = known("greatest relative difference of those answers")
    why: str | None = known("why nothing was checked")


class MissingLevel(Block):
    """Accuracy with one number of absent parts."""

    missing: int | None = known("number of absent parts")
    sets: int | None = known("sets of that many parts that were tried")
    of: int | None = known("all sets of that many parts")
    mean: Number | None = known("mean top-1 over the sets tried, percent")
    min: Number | None = known("least top-1 over the sets tried, percent")
    max: Number | None = known("greatest top-1 over the sets tried, percent")
    worst: list[str] = Field([], description="the parts of the worst set")
    top1: Mapping[str, Number] = Field({}, description="by set, names joined by `+`: top-1, percent")


class MissingParts(Block):
    """Accuracy when parts do not answer."""

    why: str | None = known("why there are no figures; then nothing else is set")
    on: str | None = known("where the answers were computed: `host`")
    n: int | None = known("images evaluated")
    stands_in: Mapping[str, str] = Field({}, description="by part: `mean` or `zeros` in place of its output")
    levels: list[MissingLevel] = Field([], description="one for each number of absent parts")


class Accuracy(Block):
    """Accuracy of the exported artifact on the test split."""

    top1: Number | None = known("share of right answers, percent")
    top5: Number | None = known("share of images whose class is among the five greatest logits, percent")
    top1_oracle: Number | None = known(
        "for a split by classes: top-1 of the oracle predictions, in which the right sub-model answers each image"
    )
    n: int | None = known("images evaluated")
    on: str | None = known("where the exported artifact was evaluated: `host` or `device`")
    parity: Parity | None = known("the exported artifact compared with the model it was made from")
    window: WindowCheck | None = known("the check of the answers of the measuring window")
    missing: MissingParts = Field(
        MissingParts(), description="accuracy when parts are absent; empty unless requested"
    )


class Bounds(Block):
    """LoadGen's upper bounds of percentiles, in milliseconds."""

    p50_ms: Number | None = known("upper bound of the median")
    p90_ms: Number | None = known("upper bound of the 90th percentile")
    p95_ms: Number | None = known("upper bound of the 95th percentile")
    p97_ms: Number | None = known("upper bound of the 97th percentile")
    p99_ms: Number | None = known("upper bound of the 99th percentile")
    p999_ms: Number | None = known("upper bound of the 99.9th percentile")


class Sustained(Block):
    """The workload after the window."""

    seconds: Number | None = known("length of the workload after the window")
    tail_s: Number | None = known("length of its last part, which gives these figures")
    burst_p50_ms: Number | None = known("median latency of the window")
    p50_ms: Number | None = known("median latency of the last part")
    slowdown: Number | None = known("`p50_ms` divided by `burst_p50_ms`")
    throughput_ips: Number | None = known("images per second of the last part")
    power_gross_w: Mapping[str, Number | None] = Field(
        {}, description="by meter: mean power of the last part"
    )


class Latency(Block):
    """Latency of queries in the window."""

    n: int | None = known("queries in the window")
    p50_ms: Number | None = known("median latency of a query")
    p90_ms: Number | None = known("90th percentile; null if there are fewer queries than LoadGen needs")
    p95_ms: Number | None = known("95th percentile; null in the same case")
    p97_ms: Number | None = known("97th percentile; null in the same case")
    p99_ms: Number | None = known("99th percentile; null in the same case")
    p999_ms: Number | None = known("99.9th percentile; null in the same case")
    mean_ms: Number | None = known("mean latency")
    std_ms: Number | None = known("standard deviation; null for one query")
    first_ms: Number | None = known("the first inference after loading")
    throughput_ips: Number | None = known("images per second over the whole window")
    preprocess_ms: Number | None = known("decoding and preprocessing one image")
    bounds: Bounds = Field(Bounds(), description="LoadGen's upper bounds of the percentiles, confidence 0.99")
    achieved_qps: Number | None = known("`server`: queries per second that were answered")
    queue_mean_ms: Number | None = known("`server`: mean time that a query waited")
    late_max_ms: Number | None = known("`server`: greatest delay of the generator itself")
    utilisation: Number | None = known("`server`: arrivals times mean service time; 1 or more is an overload")
    undisturbed: Undisturbed | None = known(
        "the same in the blocks of the window in which the process had its CPU time"
    )
    sustained: Sustained = Field(
        Sustained(), description="figures of the workload after the window; empty unless requested"
    )
    reference: Mapping[str, Number | str] = Field(
        {}, description="the figures of LoadGen's own summary, if LoadGen sends the queries"
    )


class ProcessMemory(Block):
    """Memory of one measuring process, in bytes."""

    process_peak_bytes: int | None = known("greatest memory of the measuring process in the window")
    baseline_bytes: int | None = known("its memory before the model was loaded")
    device_process_bytes: int | None = known("GPU memory of the process")
    device_shared_bytes: int | None = known("GPU memory of the process if the memory is shared with the CPU")
    device_reserved_peak_bytes: int | None = known("greatest GPU memory that the allocator held")
    device_allocated_peak_bytes: int | None = known("greatest GPU memory of live tensors")


class Memory(ProcessMemory):
    """Memory of the measuring process with the most memory."""

    devices: Mapping[str, ProcessMemory] = Field(
        {},
        description="for a fleet, by device: the same of its worker; the keys above are those of the worker with the most memory",
    )


class EnergyReading(Block):
    """The figures of one meter for one window."""

    meter: str | None = known("name of the meter")
    scope: str | None = known("what its energy contains: `wall`, `board`, `rails`, `package` or `gpu`")
    watches: str | None = known("the thing, or THING/part, that it measures")
    provenance: str | None = known("`measured`, `fitted`, `modelled`, `emulated`")
    quantity: str | None = known("`energy` or `power`")
    host: str | None = known("the machine that reads it")
    device: str | None = known("for a fleet: the device to which the meter belongs")
    method: str | None = known("`default`, or the preset whose rules give the figures")
    window_s: Number | None = known("length of the window")
    inferences: int | None = known("images answered in the window")
    samples: int | None = known("readings inside the window")
    greatest_gap_s: Number | None = known("longest time without a reading")
    period_s: Number | None = known("how often a reading changes")
    averaging_s: Number | None = known("the time over which a reading averages")
    calibration: Number | None = known("relative error that the maker states")
    energy_gross_j: Number | None = known("energy of the window")
    energy_net_j: Number | None = known("that energy without idle energy")
    power_gross_w: Number | None = known("mean power in the window")
    idle_before_w: Number | None = known("idle power before the window")
    idle_after_w: Number | None = known("idle power after the window")
    idle_w: Number | None = known("mean of idle power before and after the window")
    idle_drift: Number | None = known("idle power after the window minus that before, divided by `idle_w`")
    u_gross_j: Number | None = known("uncertainty of `energy_gross_j`, expanded to 95%")
    u_net_j: Number | None = known("uncertainty of `energy_net_j`, expanded to 95%")
    uncertainty: Mapping[str, Number | None] = Field(
        {}, description="the parts of the uncertainty: `calibration_j`, `edge_j`, `gaps_j`, `idle_j`"
    )
    energy_gross_mj: Number | None = known("energy of one inference")
    energy_net_mj: Number | None = known("that energy without idle energy")
    energy_u_mj: Number | None = known(
        "uncertainty of the net energy; or of the gross energy if there is no net"
    )
    withheld: Mapping[str, str] = Field({}, description="`gross`, `net`: why there is no figure")
    notes: list[str] = Field([], description="what a reader should know")
    disagreement: Mapping[str, Number] = Field(
        {}, description="by other meter of the same thing: difference divided by the mean of both"
    )
    details: Facts = Field({}, description="facts that the meter states, free: zones, rails, shunt")


class PartTimes(Block):
    """The times of a part for one query, in milliseconds."""

    compute_ms: Number | None = known("median time in which it computes")
    encode_ms: Number | None = known("median time in which its inputs are encoded for sending")
    queue_ms: Number | None = known("median time in which a query waits on the device")
    transport_ms: Number | None = known("median time in which its bytes are on their way")
    sent_bytes: int | None = known("bytes sent to the device for one query")
    received_bytes: int | None = known("bytes sent back for one query")
    send_ms: Number | None = known("the share of `transport_ms` on the way there")
    return_ms: Number | None = known("the share of `transport_ms` on the way back")
    link_there_ms: Number | None = known("the least time that the link allows on the way there")
    link_back_ms: Number | None = known("the least time that the link allows on the way back")
    link: str | None = known("`stated` by the device, or `probe`")
    device: str | None = known("the device that runs the part")


class DeviceShares(Block):
    """The shares of the window in which a device computed and waited."""

    name: str | None = known("name of the device")
    parts: list[str] = Field([], description="the parts that it runs")
    compute_share: Number | None = known("share of the window in which it computed")
    wait_share: Number | None = known("share of the window in which it waited")


class NoInput(Block):
    """The window without the input's transfer."""

    n: int | None = known("queries")
    p50_ms: Number | None = known("median latency")
    p90_ms: Number | None = known("90th percentile")
    throughput_ips: Number | None = known("images per second")


class Queries(Block):
    """Numbers of queries by outcome."""

    whole: int | None = known("answered by all parts")
    substituted: int | None = known("answered with a stand-in for a part")
    unanswered: int | None = known("not answered in time")


class Network(Block):
    """Bytes and times of a fleet; empty if one device has all parts."""

    input_bytes: int | None = known("bytes of images that cross links in one query")
    feature_bytes: int | None = known(
        "bytes of outputs that cross links in one query, also from the central device"
    )
    parts: Mapping[str, PartTimes] = Field({}, description="by part: its times for one query")
    fuse_ms: Number | None = known("median time of the last part")
    devices: list[DeviceShares] = Field(
        [], description="the shares of the window in which each device computed and waited"
    )
    critical_path_ms: Number | None = known("least latency that the compute and the links allow")
    over_bound: Number | None = known(
        "median latency divided by that bound; for `single-stream` with one query at a time"
    )
    no_input: NoInput | None = known("a window with the images on the devices before it begins")
    queries: Queries | None = known("queries by outcome")
    missed: Mapping[str, int] = Field({}, description="by part: queries that it did not answer in time")


class State(Block):
    """State of the window and of the machine."""

    steady: bool | None = known("whether warm-up reached a steady state")
    window_s: Number | None = known("length of the window")
    process: int | None = known(
        "number of this process among those of the run on the device, from 1; one before them was discarded"
    )
    cooled: bool | None = known("whether the requested temperature was reached")
    machine: Mapping[str, Facts] = Field(
        {},
        description="for each watch, free: each value before, after, and the minimum and maximum of a number",
    )
    problems: list[str] = Field([], description="problems of watches and meters, one line each")
    no_meter: str | None = known("why a meter is not read")
