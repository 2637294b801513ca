"""pyRAPL: the RAPL counters that ``powercap`` reads, through the unmodified library of that name.

It is a cross-check of :mod:`harness_power.powercap`: both watch "cpu" with scope package, and both watch "dram". The
harness reads raw counters from pyRAPL's ``Sensor`` and unwraps them here, because its ``Measurement`` turns a counter
that wraps into ``None``. pyRAPL does not know dies (it wants one package zone per socket), psys, the mmio zones, or
processors that are offline. Each of these is reported as a reason, and there is no workaround for them.

Not tried on the hardware: tests let it read trees made for them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from harness.devices import install_command, sysfs
from harness.types import MeterEntry, MeterInfo, Scope, Unavailable
from harness_power import powercap

__all__ = ["ENTRY"]

METERS: dict[str, tuple[str, Scope, str]] = {
    "PKG": ("pyrapl:package", "package", "cpu"),
    "DRAM": ("pyrapl:dram", "rails", "dram"),
}
MISMATCH = (
    "pyRAPL wants one package zone per socket and all or no dram zones; dies and offline processors upset it"
)

_patching = threading.Lock()


def probe() -> Iterable[MeterInfo | Unavailable]:
    """Yield the meters for processors and memory, or the reasons why they cannot be read."""
    root = sysfs.root() / "sys/class/powercap"
    found = powercap.zones(root)
    if not found:
        yield replace(powercap.absent(root), name="pyrapl")
        return
    if find_spec("pyRAPL") is None:
        yield Unavailable(name="pyrapl", reason="pyRAPL is not installed", fix=install_command("rapl"))
        return
    for device, (name, _, _) in METERS.items():
        if device == "DRAM" and not any(place.endswith("/dram") for place in found):
            return
        try:
            yield _describe(device, found)
        except PermissionError as error:
            reason = f"only root may read {error.filename} (the kernel's answer to CVE-2020-8694)"
            yield Unavailable(name=name, reason=reason, fix=powercap.FIX)
            return
        except OSError as error:
            yield Unavailable(name=name, reason=str(error), fix="powercap reads the same counters")
            return


def open_meter(info: MeterInfo) -> Sockets:
    """Open pyRAPL's sensor. Raises ``OSError`` if it fails."""
    return Sockets(
        info.details["device"], {int(key): int(uj) for key, uj in info.details["range_uj"].items()}
    )


class Sockets:
    """A :class:`~harness.types.Meter` of joules: the sum of all sockets, from pyRAPL's ``Sensor``."""

    def __init__(self, device: str, range_uj: dict[int, int]) -> None:
        self._device, self._sensor = device, _sensor(device)
        self._counters = {
            socket: powercap.Unwrapped(f"socket {socket}", uj) for socket, uj in range_uj.items()
        }

    def read(self) -> tuple[int, float]:
        """Return monotonic nanoseconds and the joules since the first reading.

        Raises ``OSError`` if the sockets differ from those found first or a counter fell without a wrap.
        """
        began = time.monotonic_ns()
        values = _values(self._sensor, self._device)
        moment = (began + time.monotonic_ns()) // 2
        if values.keys() != self._counters.keys():
            raise OSError(f"pyRAPL reads sockets {sorted(values)}, not {sorted(self._counters)}")
        return moment, sum(counter.add(moment, values[key]) for key, counter in self._counters.items()) / 1e6

    def close(self) -> None:
        """Release the sensor. pyRAPL has no close; its files are closed with the sensor."""
        self._sensor = None


def _describe(device: str, found: dict[str, list[Path]]) -> MeterInfo:
    """Return the meter of one device, after a test of pyRAPL's sensor.

    Raises ``OSError`` if pyRAPL fails or a zone's range is unknown.
    """
    name, scope, watches = METERS[device]
    part = "/dram" if device == "DRAM" else ""
    ranges = {}
    for socket in _values(_sensor(device), device):
        folders = found.get(f"package-{socket}{part}")
        if not folders:
            raise OSError(MISMATCH)
        ranges[str(socket)] = powercap.energy_range(folders[0])
    return MeterInfo(
        name=name,
        scope=scope,
        watches=watches,
        provenance=powercap.provenance(),
        quantity="energy",
        period_s=powercap.PERIOD_S,
        details={"device": device, "range_uj": ranges},
    )


def _values(sensor: Any, device: str) -> dict[int, int]:
    """Return socket -> microjoules. pyRAPL gives -1 for a socket that it does not read."""
    try:
        values = sensor.energy()[list(METERS).index(device) :: 2]
    except ValueError as error:
        raise OSError(f"pyRAPL gives no number: {error}") from None
    return {socket: int(uj) for socket, uj in enumerate(values) if uj >= 0}


def _sensor(device: str) -> Any:
    """Return pyRAPL's sensor for one device. Raises ``OSError`` for each of its failures."""
    library = load_library()
    try:
        with _below(library.device_api, sysfs.root()):
            return library.Sensor(devices=[library.Device[device]])
    except library.PyRAPLException:
        raise OSError(MISMATCH) from None
    except FileNotFoundError as error:
        raise OSError(f"{MISMATCH}: no {error.filename}") from None
    except (ValueError, IndexError) as error:
        raise OSError(f"pyRAPL cannot read this machine's zones: {error}") from None


def load_library() -> ModuleType:
    """Import pyRAPL without its side effects, and return it.

    On import it prints warnings (invalid escapes, absent packages) and changes the root logger. It also imports
    pandas and pymongo to write results, which would cost a second and 50 MB in the process that samples.
    """
    unused: dict[str, Any] = {name: None for name in ("pandas", "pymongo") if name not in sys.modules}
    sys.modules.update(unused)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyRAPL
            import pyRAPL.device_api
    finally:
        root.handlers[:] = handlers  # logging.warning() adds a handler to a root logger that has none
        logging.disable(level)
        for name in unused:
            del sys.modules[name]
    library: ModuleType = pyRAPL
    return library


@contextmanager
def _below(api: Any, root: Path) -> Iterator[None]:
    """Let pyRAPL read below ``HARNESS_SYSROOT``, although it has ``/sys`` built in."""
    if root == Path("/"):
        yield
        return
    with _patching:
        api.open = lambda path, *how: Path(f"{root}{path}").open(*how)  # noqa: SIM115
        api.os = SimpleNamespace(path=SimpleNamespace(exists=lambda path: os.path.exists(f"{root}{path}")))
        try:
            yield
        finally:
            del api.open
            api.os = os


ENTRY = MeterEntry(
    name="pyrapl",
    summary="RAPL counters of x86 processors and memory through pyRAPL",
    probe=probe,
    open=open_meter,
    requires=("pyRAPL",),
    extra="rapl",
)
