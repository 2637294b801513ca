"""NVIDIA GPUs through NVML: the energy counter, momentary and average power, clocks and throttling.

Every query is tried on every GPU, because NVML can start although a GPU then answers NotSupported: Jetson Orin and
Thor, whose power the INA3221 measures, and the energy counter before Volta. A query that reads exactly zero counts as
unsupported, because a running GPU takes power.

Not tried on the hardware. Facts are from NVIDIA's NVML reference. The period and the averaging time of readings are
from Yang, Adamek and Armour, "Part-time Power Measurements" (arXiv 2312.02741), and
https://ml.energy/blog/energy/measurement/thermally-stable-profiling-for-accurate-gpu-energy-measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from harness.devices import install_command
from harness.errors import DeviceError
from harness.types import MeterEntry, MeterInfo, Unavailable
from harness.types.meters import Scope
from harness_power.nvml_state import watch

__all__ = ["ENTRY", "NvmlMeter"]


class _Query(NamedTuple):
    """A query of NVML: the quantity, and the part whose power or energy it is."""

    what: Literal["energy", "instant", "average", "usage"]
    of: Literal["gpu", "module", "memory"] = "gpu"


_QUERIES = {
    "energy": _Query("energy"),
    "power": _Query("instant"),
    "average": _Query("average"),
    "module": _Query("instant", "module"),
    "module-average": _Query("average", "module"),
    "memory": _Query("instant", "memory"),
    "memory-average": _Query("average", "memory"),
}
_FIELDS = {"average": 185, "instant": 186}  # NVML_FI_DEV_POWER_*
_SCOPE_IDS = {"gpu": 0, "module": 1, "memory": 2}  # NVML_POWER_SCOPE_*
# In NVML, "gpu" is the GPU and its circuitry with its memory. "memory" is a part of it and is never added to it.
# "module" is a superchip (Grace Hopper): the CPU, the GPU and the memory of both.
_SCOPES: dict[str, Scope] = {"gpu": "gpu", "module": "board", "memory": "gpu"}
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t

# The counter and the power readings change every 20 to 100 ms, depending on the architecture. This is the longest.
_PERIOD_S = 0.1
_GA100_GH100 = ((8, 0), (9, 0))  # on these, a momentary reading is the mean of 25 ms in each 100 ms


def probe() -> Iterator[MeterInfo | Unavailable]:
    """Yield a meter for each query that a GPU answers, and a reason for each query that it does not answer."""
    try:
        import pynvml
    except ImportError:
        yield Unavailable(name="nvml", reason="nvidia-ml-py is not installed", fix=install_command("nvidia"))
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Unavailable(
            name="nvml",
            reason=f"no NVIDIA driver answers ({_name(error)})",
            fix="needs an NVIDIA GPU and its driver; `nvidia-smi` shows whether they work",
        )
        return
    try:
        count = pynvml.nvmlDeviceGetCount()
        for index in range(count):
            try:
                yield from _probe_gpu(pynvml, index)
            except pynvml.NVMLError as error:
                yield Unavailable(
                    name=f"nvml:{index}",
                    reason=f"the driver answers {_name(error)}",
                    fix="`nvidia-smi` shows whether this GPU works",
                )
        if not count:
            yield Unavailable(name="nvml", reason="the NVIDIA driver lists no GPU")
    except pynvml.NVMLError as error:
        yield Unavailable(name="nvml", reason=f"the driver lists no GPU ({_name(error)})")
    finally:
        pynvml.nvmlShutdown()


def _probe_gpu(pynvml: Any, index: int) -> Iterator[MeterInfo | Unavailable]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    about: dict[str, Any] = {
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "index": index,
        "model": _text(pynvml.nvmlDeviceGetName(handle)),
        "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
    }
    capability = _or_none(pynvml, pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    failed: dict[str, list[str]] = {}
    found: set[str] = set()
    for name, query in _QUERIES.items():
        if why := _failure(pynvml, handle, query):
            failed.setdefault(why, []).append(name)
        else:
            found.add(name)
            yield _info(name, query, about, capability)
    # Older drivers lack the two fields and have one power reading. Its averaging time depends on the architecture.
    if not found & {"power", "average"} and capability:
        usage = _Query("usage")
        if not _failure(pynvml, handle, usage):
            yield _info("power", usage, about, capability)
            failed = {why: [n for n in names if n != "power"] for why, names in failed.items()}
    for why, names in failed.items():
        if names:
            yield Unavailable(
                name=f"nvml:{index}",
                reason=f"{about['model']}: {why} for {', '.join(names)}",
                fix=_fix(why, about["driver"], nothing=not found),
            )


def _info(name: str, query: _Query, about: dict[str, Any], capability: tuple[int, int] | None) -> MeterInfo:
    uuid = about["uuid"]
    more = {"part_of": uuid} if query.of == "memory" else {}
    return MeterInfo(
        name=f"nvml:{about['index']}:{name}",
        scope=_SCOPES[query.of],
        provenance="measured",
        watches=f"{uuid}/memory" if query.of == "memory" else uuid,
        quantity="energy" if query.what == "energy" else "power",
        period_s=_PERIOD_S,
        averaging_s=_averaging(query, capability),
        details={**about, "query": query.what, "of": query.of, **more},
    )


def _averaging(query: _Query, capability: tuple[int, int] | None) -> float:
    """Return the averaging time of a reading in seconds, from nvml.h or the sources that the module cites."""
    newer = capability is not None and capability > (8, 0)  # Ampere except GA100, and later
    if query.what == "average" or (query.what == "usage" and newer):
        return 1.0
    return 0.025 if query.what != "energy" and capability in _GA100_GH100 else 0.0


def _fix(why: str, driver: str, *, nothing: bool) -> str:
    if why == "FunctionNotFound":
        return f"update the NVIDIA driver ({driver})"
    if nothing:
        return "on a Jetson take the meter ina3221 or jtop; else an external meter"
    return ""


def _failure(pynvml: Any, handle: Any, query: _Query) -> str:
    """Return the reason why a query cannot be used, or an empty string if it can."""
    try:
        value = _ask(pynvml, handle, query)
    except pynvml.NVMLError as error:
        return _name(error)
    return "" if value > 0 else "reads zero"


def _ask(pynvml: Any, handle: Any, query: _Query) -> float:
    """Return watts, or joules since the driver was loaded."""
    if query.what == "energy":
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    if query.what == "usage":
        return float(pynvml.nvmlDeviceGetPowerUsage(handle)) / 1000
    (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [(_FIELDS[query.what], _SCOPE_IDS[query.of])])
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return float(getattr(field.value, _MEMBERS[field.valueType])) / 1000


def open_meter(info: MeterInfo) -> NvmlMeter:
    """Open one query of one GPU. Raises ``DeviceError`` if the driver or the GPU does not answer."""
    return NvmlMeter(info)


class NvmlMeter:
    """A :class:`~harness.types.Meter` of one query of one GPU, which is found by its UUID.

    Raises:
        DeviceError: the driver or the GPU is gone, or its counter restarted.
    """

    def __init__(self, info: MeterInfo) -> None:
        import pynvml

        self._nvml, self._name = pynvml, info.name
        self._query = _Query(info.details["query"], info.details["of"])
        self._last = 0.0
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(info.details["uuid"])
        except pynvml.NVMLError as error:
            raise DeviceError(f"{self._name}: NVML answers {_name(error)}") from error

    def read(self) -> tuple[int, float]:
        """Return monotonic nanoseconds, and watts or joules since the driver was loaded."""
        before = time.monotonic_ns()
        try:
            value = _ask(self._nvml, self._handle, self._query)
        except self._nvml.NVMLError as error:
            raise DeviceError(f"{self._name}: NVML answers {_name(error)}") from error
        after = time.monotonic_ns()
        if self._query.what == "energy":  # 64 bits of millijoules never wrap
            if value < self._last:
                raise DeviceError(f"{self._name}: the counter went back, was the driver reloaded?")
            self._last = value
        return (before + after) // 2, value

    def close(self) -> None:
        """Shut NVML down."""
        self._nvml.nvmlShutdown()


def _or_none(pynvml: Any, call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except pynvml.NVMLError:
        return None


def _name(error: Exception) -> str:
    return type(error).__name__.removeprefix("NVMLError_")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


ENTRY = MeterEntry(
    name="nvml",
    summary="NVIDIA GPUs: energy counter, power of GPU, module and memory; clocks and throttling",
    probe=probe,
    open=open_meter,
    watch=watch,
    requires=("pynvml",),
    extra="nvidia",
)
