"""RAPL counters of x86 processors, read from the kernel's powercap tree without a library.

Zones are folders like ``intel-rapl:0`` (package-0) and ``intel-rapl:0:2`` (its dram). Each has a counter in
microjoules. Some counters contain others; counters that overlap are never added. This gives these meters:

- ``powercap:package``, scope package: the sum over packages, or over the dies of a package. On AMD every die
  shows the counter of its *package* (Linux's intel_rapl treats it as package-wide), so one die of each is read.
- ``powercap:dram``, scope rails: memory has its own rails, outside the package.
- ``powercap:psys``, scope board: all that the board's maker connected to the platform's sensor. It contains packages
  and memory, so it is not added to them. What else it contains, and its accuracy, depend on the maker.
- core and uncore are parts of a package. They are listed in its details and are never read.

``intel-rapl-mmio`` shows counters of ``intel-rapl`` a second time. It is read only for zones that the other lacks.

Provenance: Intel measures since Haswell and modelled before (Hackenberg et al., IPDPSW 2015). AMD's counter
follows a model of activity (Schöne et al., arXiv 2108.00808, on Zen 2).

Not tried on the hardware: tests read trees made after the kernel's documentation.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.devices import sysfs
from harness.types import MeterEntry, MeterInfo, Params, Provenance, Scope, Unavailable

__all__ = ["ENTRY", "FIX", "PowercapParams", "Unwrapped", "absent", "energy_range", "provenance", "zones"]

PERIOD_S = 0.001  # Intel SDM vol. 3B, RAPL: energy status changes about every millisecond
MOST_W = 10_000.0
NOT_MEASURED = {0x2A, 0x2D, 0x3A, 0x3E}  # family 6: Sandy Bridge, -EP, Ivy Bridge, -EP

FIX = (
    "until the next boot: sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj; for good: the line "
    'ACTION=="add", SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*", RUN+="/bin/chmod a+r /sys%p/energy_uj" '
    "in /etc/udev/rules.d/70-rapl.rules, then sudo udevadm trigger -c add -s powercap "
    "(every local user can then read it; docs/meters.md shows the same for one group)"
)


class PowercapParams(Params):
    """The folder of the zones."""

    root: str = Field(
        "", description="folder that stands for /sys/class/powercap, as a container may mount it"
    )


def probe() -> Iterable[MeterInfo | Unavailable]:
    """Return the meters of this machine's powercap tree, or the reasons why there are none."""
    return _meters(sysfs.root() / "sys/class/powercap")


def describe(params: PowercapParams) -> Iterable[MeterInfo | Unavailable]:
    """Return the meters of a powercap tree.

    Raises:
        ValueError: the root is not a folder.
    """
    if not params.root:
        return probe()
    if not Path(params.root).is_dir():
        raise ValueError(f"root: {params.root} is no folder; allowed: one like /sys/class/powercap")
    return _meters(Path(params.root))


def open_meter(info: MeterInfo) -> Counters:
    """Open the counters of a meter's zones. Raises ``OSError`` if one cannot be opened."""
    return Counters(info.details["zones"])


# --- what is there ------------------------------------------------------------------------------


def zones(root: Path) -> dict[str, list[Path]]:
    """Return place -> folders of the zone, where a place is like ``package-0`` or ``package-0/dram``.

    A zone of ``intel-rapl-mmio`` comes after the zone of ``intel-rapl`` that shows the same counter.
    """
    folders: dict[str, Path] = {}
    for pattern in ("intel-rapl*:*", "intel-rapl*/intel-rapl*:*", "intel-rapl*/*/intel-rapl*:*:*"):
        for path in root.glob(pattern):
            folders.setdefault(path.name, path)
    found: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for folder in sorted(folders, key=_order):
        try:
            names[folder] = (folders[folder] / "name").read_text().strip()
        except OSError:
            continue
        parent = names.get(folder.rpartition(":")[0])
        found.setdefault(f"{parent}/{names[folder]}" if parent else names[folder], []).append(folders[folder])
    return found


def absent(root: Path) -> Unavailable:
    """Return the reason why the tree ``root`` has no zone."""
    from harness.devices import virtualised

    vendor = _processor().get("vendor_id")
    if any(path.is_symlink() and not path.exists() for path in root.glob("intel-rapl*")):
        reason = f"{root} is masked in this container"
        fix = "docker run --security-opt systempaths=unconfined, or measure outside the container"
    elif virtualised(sysfs.root()):
        reason = "this is a virtual machine, and its hypervisor shows it no RAPL counters"
        fix = "measure on its host, or with an external meter"
    elif vendor is None:
        reason, fix = "RAPL counters are in x86 processors only", ""
    else:
        reason = f"the kernel shows no RAPL zone in {root}"
        fix = "sudo modprobe intel_rapl_msr (Intel since Sandy Bridge; AMD Zen since Linux 5.11)"
    return Unavailable(name="powercap", reason=reason, fix=fix)


def provenance() -> Provenance:
    """Return ``measured`` if this processor measures the energy that it counts, ``modelled`` if it estimates it."""
    info = _processor()
    if info.get("vendor_id") in ("AuthenticAMD", "HygonGenuine"):
        return "modelled"
    old = info.get("cpu family") == "6" and int(info.get("model", "0")) in NOT_MEASURED
    return "modelled" if old else "measured"


def energy_range(folder: Path) -> int:
    """Return the microjoules at which a zone's counter wraps. Raises ``OSError`` if they are unknown."""
    return _number(folder / "max_energy_range_uj")


def _meters(root: Path) -> Iterator[MeterInfo | Unavailable]:
    found = zones(root)
    if not found:
        yield absent(root)
        return
    packages = [place for place in found if re.fullmatch(r"package-\d+(-die-\d+)?", place)]
    mirrors: list[str] = []
    if _processor().get("vendor_id") in ("AuthenticAMD", "HygonGenuine"):
        first = {place.split("-")[1]: place for place in reversed(packages)}
        mirrors = [place for place in packages if place not in first.values()]
    packages = [place for place in packages if place not in mirrors]
    drams = [f"{place}/dram" for place in packages if f"{place}/dram" in found]
    parts = [place for place in found if re.search(r"/(core|uncore)$", place)]
    notes = {
        "parts": parts,
        "left_out": [str(path) for place in found for path in found[place][1:]]
        + [str(found[place][0]) for place in mirrors],
    }
    answers: list[MeterInfo | Unavailable] = [
        _meter("package", "package", "cpu", {place: found[place][0] for place in packages}, notes)
    ]
    if drams and len(drams) < len(packages):
        answers.append(
            Unavailable(
                name="powercap:dram",
                fix="the package meter does not need it",
                reason=f"only {', '.join(drams)} of {len(packages)} packages",
            )
        )
    elif drams:
        answers.append(_meter("dram", "rails", "dram", {place: found[place][0] for place in drams}, {}))
    answers += [
        _meter(place, "board", place, {place: found[place][0]}, {})
        for place in found
        if re.fullmatch(r"psys(-\d+)?", place)
    ]
    refused = [answer for answer in answers if isinstance(answer, Unavailable) and answer.fix == FIX]
    if len(refused) == len(answers):
        yield replace(refused[0], name="powercap")
    else:
        yield from answers


def _meter(
    name: str, scope: Scope, watches: str, places: Mapping[str, Path], notes: Mapping[str, Any]
) -> MeterInfo | Unavailable:
    """Return the meter that sums these zones, or the reason why it cannot be read. Each zone is read once as a test."""
    name = f"powercap:{name}"
    if not places:
        return Unavailable(name=name, reason="no zone is named package-N", fix="")
    read = []
    try:
        for place, folder in places.items():
            _number(folder / "energy_uj")
            read.append({"zone": place, "path": str(folder), "range_uj": energy_range(folder)})
    except PermissionError as error:
        reason = f"only root may read {error.filename} (the kernel's answer to CVE-2020-8694)"
        return Unavailable(name=name, reason=reason, fix=FIX)
    except OSError as error:
        return Unavailable(name=name, reason=str(error), fix="")
    return MeterInfo(
        name=name,
        scope=scope,
        watches=watches,
        provenance=provenance(),
        quantity="energy",
        period_s=PERIOD_S,
        details={"zones": read, **notes},
    )


def _order(folder: str) -> tuple[str, list[int]]:
    """Return a sort key that puts parents before children, and ``intel-rapl`` before ``intel-rapl-mmio``."""
    control, *index = folder.split(":")
    return control, [int(part) for part in index if part.isdecimal()]


def _number(path: Path) -> int:
    text = path.read_text().strip()
    if not text.isdecimal():
        raise OSError(f"{path} holds {text[:40]!r}, no number")
    return int(text)


def _processor() -> dict[str, str]:
    """Return the first processor's entries of ``/proc/cpuinfo``."""
    found: dict[str, str] = {}
    try:
        text = (sysfs.root() / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


# --- reading ------------------------------------------------------------------------------------


class Unwrapped:
    """A counter that wraps at ``range_uj``. :meth:`add` turns its values into microjoules since the first.

    Between two readings the counter must wrap at most once. It wraps after 65 kJ at worst, which is 160 s at 400 W.
    """

    def __init__(self, name: str, range_uj: int) -> None:
        self._name, self._range = name, range_uj
        self._total = 0
        self._last: tuple[int, int] | None = None

    def add(self, now_ns: int, value_uj: int) -> int:
        """Return the microjoules since the first value.

        Raises:
            OSError: the counter fell without a wrap, as after a resume or a reload of the driver.
        """
        if self._last is not None:
            then_ns, last = self._last
            step = value_uj - last
            if step < 0:
                step += self._range
                if not 0 <= step <= MOST_W * 1e6 * (0.1 + (now_ns - then_ns) / 1e9):
                    raise OSError(
                        f"{self._name}: the counter fell from {last} to {value_uj} uJ, which is no wrap"
                    )
            self._total += step
        self._last = now_ns, value_uj
        return self._total


class Counters:
    """A :class:`~harness.types.Meter` of joules: the sum of several zones, each unwrapped separately."""

    def __init__(self, zones: Sequence[Mapping[str, Any]]) -> None:
        self._zones: list[tuple[FileIO, Unwrapped]] = []
        try:
            for zone in zones:
                file = (Path(zone["path"]) / "energy_uj").open("rb", buffering=0)
                self._zones.append((file, Unwrapped(zone["zone"], int(zone["range_uj"]))))
        except OSError:
            self.close()
            raise

    def read(self) -> tuple[int, float]:
        """Return monotonic nanoseconds and the joules since the first reading.

        Raises ``OSError`` if a file holds no number or a counter fell without a wrap.
        """
        began = time.monotonic_ns()
        texts = [os.pread(file.fileno(), 32, 0) for file, _ in self._zones]
        moment = (began + time.monotonic_ns()) // 2
        total = 0
        for (file, counter), text in zip(self._zones, texts, strict=True):
            if not text.strip().isdigit():
                raise OSError(f"{file.name} holds {text!r}, no number")
            total += counter.add(moment, int(text))
        return moment, total / 1e6

    def close(self) -> None:
        """Close the files of all zones."""
        for file, _ in self._zones:
            file.close()


ENTRY = MeterEntry(
    name="powercap",
    summary="RAPL counters of x86 processors, memory and platform, by the kernel's powercap",
    params=PowercapParams,
    probe=probe,
    describe=describe,
    open=open_meter,
)
