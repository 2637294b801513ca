"""Powercap trees with the kernel's layout, and a process that may not read them."""

from __future__ import annotations

import json
import os
from pathlib import Path

RANGE = 262_143_328_850  # as on many Intel desktops


def build(root: Path, zones: dict[str, tuple[str, int] | tuple[str, int, int]], cpuinfo: str = "") -> Path:
    """Make a tree below ``root``. ``zones`` is {"intel-rapl:0:2": (name, energy_uj[, range_uj])}, parents first."""
    top = root / "sys/class/powercap"
    for zone, (name, energy, *limit) in zones.items():
        control, *index = zone.split(":")
        folder = top / control
        for depth in range(len(index)):
            folder /= ":".join([control, *index[: depth + 1]])
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text(f"{limit[0] if limit else RANGE}\n")
        (folder / "subsystem").symlink_to(top)
        (folder / "device").symlink_to("..")
        (top / zone).symlink_to(folder.relative_to(top))
    if cpuinfo:
        (root / "proc").mkdir()
        (root / "proc/cpuinfo").write_text(cpuinfo)
    return top


def sockets(root: Path, packages: list[int]) -> None:
    """Write the files from which pyRAPL reads the package of each processor."""
    system = root / "sys/devices/system/cpu"
    for cpu, package in enumerate(packages):
        (system / f"cpu{cpu}/topology").mkdir(parents=True)
        (system / f"cpu{cpu}/topology/physical_package_id").write_text(f"{package}\n")
    (system / "present").write_text(f"0-{len(packages) - 1}\n" if len(packages) > 1 else "0\n")


def refuse(top: Path) -> None:
    """Protect the counters as the kernel does. Mode 0400 would not stop an owner who is not root, so that is mode 0."""
    for path in top.glob("intel-rapl*:*/energy_uj"):
        path.chmod(0o400 if os.geteuid() == 0 else 0)


def as_nobody(ask):
    """Return the answer of ``ask()`` in a process without root's rights."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(theirs, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)
