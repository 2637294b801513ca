"""NVIDIA Jetson through jetson-stats' service (jtop): a second source of power, and the fuller source of state.

jetson-stats is AGPL-3.0. It is an extra of its own, and is imported only on a Jetson or beside its service. ``power``
is read once per interval, which is 1 s unless another client set another. ``avg`` is never used: it is the mean of
the last two values, not of a window. Not tried on the hardware: tested with the unmodified library against a
simulated service.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.devices import install_command, sysfs
from harness.errors import HarnessError
from harness.types import MeterEntry, MeterInfo, Unavailable, Watch
from harness_power.jetson import Composition, compose, is_jetson

__all__ = ["ENTRY", "Limits", "open_log", "probe", "watch"]


@dataclass(frozen=True)
class Limits:
    """Time limits for the service.

    ``answer_s``: seconds until its first answer; a healthy service answers within two of its intervals.
    ``silent_intervals``: intervals without fresh values after which the service counts as gone.
    """

    answer_s: float = 4.0
    silent_intervals: float = 5


LIMITS = Limits()
_RESTART = "sudo systemctl restart jtop.service"
_FIXES = {  # words in jetson-stats' own messages -> advice
    "not active": "sudo systemctl start jtop.service, once after sudo jtop --install-service; in a container, "
    "mount /run/jtop.sock",
    "can't access": "sudo usermod -aG jtop $USER, then log in again",
    "Mismatch": "install the service's version of jetson-stats here, or sudo jtop --install-service, then "
    + _RESTART,
    "Authentication": "install the service's version of jetson-stats here",
}


class _Refused(HarnessError):
    """The service or the library cannot be used; ``fix`` is a command that can help."""

    def __init__(self, reason: str, fix: str = _RESTART) -> None:
        super().__init__(reason)
        self.fix = fix


class _Client:
    """A connection to the service. It calls ``take(jetson)`` for each fresh set of values, in jtop's thread."""

    def __init__(self, limits: Limits, take: Callable[[Any], None] | None = None) -> None:
        self._take = take
        self._limits = limits
        self._uptime: object = None
        self._fresh_ns = time.monotonic_ns()
        self._abandoned = False
        self.jetson = load_library()()
        self.jetson.attach(self._arrived)
        self._connect()
        self.interval_s = float(self.jetson.interval)

    def _connect(self) -> None:
        failures: list[Exception] = []

        def start() -> None:
            try:
                self.jetson.start()
            except Exception as error:  # noqa: BLE001 - jtop raises any kind, such as EOFError or queue.Empty
                failures.append(error)
            if self._abandoned:
                self.close()

        thread = threading.Thread(target=start, daemon=True)
        thread.start()
        thread.join(self._limits.answer_s)
        if thread.is_alive():
            self._abandoned = True
            raise _Refused(f"jtop.service does not answer within {self._limits.answer_s:g} s")
        if failures:
            raise _refused(failures[0])

    def _arrived(self, jetson: Any) -> None:
        if jetson.uptime == self._uptime:
            return  # jtop hands out the old values when the service sends no new ones
        self._uptime = jetson.uptime
        self._fresh_ns = time.monotonic_ns()
        if self._take:
            self._take(jetson)

    def trouble(self) -> str | None:
        """Return the reason why no fresh values come any more, or None if they come."""
        if not self.jetson.is_alive():
            try:
                self.jetson.ok(spin=True)
            except Exception as error:  # noqa: BLE001 - any error can end jtop's thread
                return f"jtop ended: {_words(error)}"
            return "jtop ended"
        silent_s = (time.monotonic_ns() - self._fresh_ns) * 1e-9
        longest_s = self._limits.silent_intervals * self.interval_s
        return f"jtop.service is silent for {silent_s:.0f} s" if silent_s > longest_s else None

    def close(self) -> None:
        """Close the connection in a thread of its own.

        jtop's own close waits for programs that search for libraries.
        """
        threading.Thread(target=self.jetson.close, daemon=True).start()


def load_library() -> Any:
    """Import jtop and return its class ``jtop``. The start method of ``multiprocessing`` stays as it was."""
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        from jtop import jtop
    except ImportError as error:
        raise _Refused(f"jetson-stats: {error}", f"{install_command('jetson')} (AGPL-3.0)") from None
    finally:
        multiprocessing.set_start_method(method, force=True)  # importing jtop sets it for the whole process
    return jtop


def _refused(error: Exception) -> _Refused:
    words = _words(error)
    fix = next((fix for mark, fix in _FIXES.items() if mark in words), _RESTART)
    return _Refused(words, fix)


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition(" Please ")[0] if text else type(error).__name__


def _expected() -> bool:
    return is_jetson() or (sysfs.root() / "run/jtop.sock").exists()


def probe(limits: Limits = LIMITS) -> Iterable[MeterInfo | Unavailable]:
    """Yield the board's power as a meter, or the reason why the service cannot be used."""
    if not _expected():
        yield Unavailable(name="jtop", reason="not a Jetson")
        return
    try:
        client = _Client(limits)
    except _Refused as error:
        yield Unavailable(name="jtop", reason=str(error), fix=error.fix)
        return
    try:
        yield _describe(client)
    finally:
        client.close()


def _describe(client: _Client) -> MeterInfo | Unavailable:
    power = client.jetson.power
    made = _composition(power)
    if made is None:
        rails = ", ".join(sorted(power.get("rail", {}))) or "none"
        return Unavailable(
            name="jtop",
            reason=f"jtop names no total, and how its rails ({rails}) feed each other is not known",
            fix="measure this board with an external meter (ina2xx, monsoon, joulescope, csv)",
        )
    return MeterInfo(
        name=f"jtop:{made.name}",
        scope=made.scope,
        watches=made.watches,
        provenance="measured",
        quantity="power",
        period_s=client.interval_s,
        details={
            "rails": list(made.add),
            "holds": made.note,
            "inside": list(made.inside),
            "beside": list(made.beside),
            "jetson_stats": _version(),
        },
    )


def _composition(power: Mapping[str, Any]) -> Composition | None:
    """Return ``tot`` if it has a name, which means that it is one monitor; else the rails that do not overlap.

    ``tot`` without a name is a sum, which may count rails twice.
    """
    rails, total = power.get("rail", {}), power.get("tot", {}).get("name")
    monitors = [name for name, rail in rails.items() if rail.get("type", "INA3221") == "INA3221"]
    if not total:
        return compose(monitors)
    made = compose([*monitors, total])
    if made and made.add == (total,):
        return made
    return Composition(
        scope="board",
        add=(total,),
        inside=(),
        beside=tuple(rails),
        note="what jetson-stats takes for the total",
    )


def _version() -> str:
    from importlib.metadata import version

    return version("jetson-stats")


class _Stream:
    """A :class:`~harness.types.Log` of watts: one reading per interval of the service, with the time of its arrival."""

    def __init__(self, info: MeterInfo, limits: Limits) -> None:
        self._rails = tuple(info.details["rails"])
        self._samples: list[tuple[int, float]] = []
        self._client = _Client(limits, self._take)

    def _take(self, jetson: Any) -> None:
        now, power = time.monotonic_ns(), jetson.power
        rails = {power["tot"].get("name"): power["tot"], **power["rail"]}
        self._samples.append((now, sum(rails[name]["power"] for name in self._rails) * 1e-3))

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        while not self._samples or self._samples[-1][0] < end_ns:
            trouble = self._client.trouble()
            if trouble:
                raise HarnessError(trouble)
            time.sleep(self._client.interval_s / 20)
        return [sample for sample in self._samples if begin_ns <= sample[0] <= end_ns]

    def close(self) -> None:
        self._client.close()


def open_log(info: MeterInfo, limits: Limits = LIMITS) -> _Stream:
    """Connect to the service. Raises ``HarnessError`` if it does not answer."""
    return _Stream(info, limits)


def watch(limits: Limits = LIMITS) -> Watch | None:
    """Return a watch of what the service publishes, or None if it does not answer.

    It publishes clocks, the mode of nvpmodel, jetson_clocks, temperatures and fans.
    """
    if not _expected():
        return None
    try:
        return _State(_Client(limits))
    except _Refused:
        return None


class _State:
    """A :data:`~harness.types.Watch` of the service's values; the key ``jtop`` is the reason why there are none."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def __call__(self) -> Mapping[str, Any]:
        trouble = self._client.trouble()
        if trouble:
            return {"jtop": trouble}
        state: dict[str, Any] = {}
        for read in (_temperature, _gpu_clock, _cpu_clock, _mode, _fans):
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # a board may lack some values
                state |= read(self._client.jetson)
        return state


def _temperature(jetson: Any) -> dict[str, Any]:
    return {"temperature_c": max(t["temp"] for t in jetson.temperature.values() if t.get("online", True))}


def _gpu_clock(jetson: Any) -> dict[str, Any]:
    frequency = next(iter(jetson.gpu.values()))["freq"]
    return {"mhz": frequency["cur"] / (1 if frequency.get("governor") == "nvml" else 1000)}  # else in kHz


def _cpu_clock(jetson: Any) -> dict[str, Any]:
    return {"cpu_mhz": max(core["freq"]["cur"] for core in jetson.cpu["cpu"] if core["online"]) / 1000}


def _mode(jetson: Any) -> dict[str, Any]:
    mode: dict[str, Any] = {}
    if jetson.nvpmodel is not None:
        mode["power_mode"] = jetson.nvpmodel.name
    if jetson.jetson_clocks is not None:
        mode["jetson_clocks"] = bool(jetson.jetson_clocks)
    return mode


def _fans(jetson: Any) -> dict[str, Any]:
    fans = {name: max(fan["speed"]) for name, fan in jetson.fan.items()}
    return {"fan_percent": fans} if fans else {}


ENTRY = MeterEntry(
    name="jtop",
    summary="NVIDIA Jetson through jetson-stats: power once a second, clocks, modes, temperatures, fans",
    probe=probe,
    open=open_log,
    watch=watch,
    requires=("jtop",),
    extra="jetson",
)
