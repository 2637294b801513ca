"""The state of NVIDIA GPUs, read through NVML: clocks, causes of throttling, temperature, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.types.meters import Watch

__all__ = ["watch"]

_IDLE, _POWER_CAP = 1, 4
# nvmlClocksEventReason*: the causes that the user did not choose. A power limit in software (4) is reported
# separately. Fixed clocks (2), synchronised boost (16) and display clocks (256) are the user's choices.
_CAUSES = {8: "hw-slowdown", 32: "sw-thermal", 64: "hw-thermal", 128: "power-brake"}
_SM, _MEMORY, _TEMPERATURE_OF_GPU = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU

# The newer name of a query comes first, because a driver or a version of pynvml may have only one of the names.
_SIGNALS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "temperature_c": (
        ("nvmlDeviceGetTemperatureV", (_TEMPERATURE_OF_GPU,)),
        ("nvmlDeviceGetTemperature", (_TEMPERATURE_OF_GPU,)),
    ),
    "mhz": (("nvmlDeviceGetClockInfo", (_SM,)),),
    "memory_mhz": (("nvmlDeviceGetClockInfo", (_MEMORY,)),),
    "reasons": (
        ("nvmlDeviceGetCurrentClocksEventReasons", ()),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", ()),
    ),
    "power_limit_mw": (("nvmlDeviceGetEnforcedPowerLimit", ()),),
    "memory_used_bytes": (("nvmlDeviceGetMemoryInfo", ()),),
}


def watch() -> Watch | None:
    """Return a watch of all GPUs, with each GPU's own state under ``gpus``, or None if no GPU answers."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return None
    gpus = {}
    for index in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
        except pynvml.NVMLError:  # a GPU that has fallen off the bus
            continue
        if calls := _answering(pynvml, handle):
            gpus[uuid if isinstance(uuid, str) else uuid.decode()] = calls
    if not gpus:
        pynvml.nvmlShutdown()
        return None
    return lambda: _summary({uuid: _read(pynvml, calls) for uuid, calls in gpus.items()})


def _summary(gpus: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return the worst values of all GPUs.

    These are the highest temperature, every cause of throttling, and the lowest clock of the GPUs that are not idle.
    """
    found: dict[str, Any] = {"gpus": {uuid: dict(gpu) for uuid, gpu in gpus.items()}}
    reasons = [gpu["reasons"] for gpu in gpus.values() if "reasons" in gpu]
    if heat := _all(gpus, "temperature_c"):
        found["temperature_c"] = max(heat)
    busy = {uuid: gpu for uuid, gpu in gpus.items() if not gpu.get("reasons", 0) & _IDLE}
    if clocks := _all(busy, "mhz") or _all(gpus, "mhz"):
        found["mhz"] = min(clocks)
    if reasons:
        found["throttle"] = [name for bit, name in _CAUSES.items() if any(bits & bit for bits in reasons)]
        found["power_cap"] = any(bits & _POWER_CAP and not bits & sum(_CAUSES) for bits in reasons)
    if limits := _all(gpus, "power_limit_mw"):
        found["power_mode"] = ", ".join(f"{limit / 1000:g} W" for limit in sorted(set(limits)))
    return found


def _all(gpus: Mapping[str, Mapping[str, int]], key: str) -> Sequence[int]:
    return [gpu[key] for gpu in gpus.values() if key in gpu]


def _answering(pynvml: Any, handle: Any) -> dict[str, Callable[[], Any]]:
    """Return the queries that this GPU answers, each under the first name that works."""
    found: dict[str, Callable[[], Any]] = {}
    for signal, names in _SIGNALS.items():
        for name, args in names:
            if signal not in found and hasattr(pynvml, name):
                call = _bound(getattr(pynvml, name), handle, args)
                try:
                    call()
                except pynvml.NVMLError:
                    continue
                found[signal] = call
    return found


def _bound(function: Callable[..., Any], handle: Any, args: tuple[int, ...]) -> Callable[[], Any]:
    return lambda: function(handle, *args)


def _read(pynvml: Any, calls: Mapping[str, Callable[[], Any]]) -> dict[str, int]:
    """Return the values that the GPU gives now, or an empty mapping if the GPU was lost."""
    found = {}
    for signal, call in calls.items():
        try:
            value = call()
        except pynvml.NVMLError:
            continue
        found[signal] = int(getattr(value, "used", value))
    return found
