"""Facts of the machine that do not change during a run. A fact that cannot be read is absent, never guessed."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.errors import StorageError
from harness.machine.sysfs import each, text
from harness.quiet import telemetry_off
from harness.store.files import default_cache, read_regular, write_atomically
from harness.types import DeviceInfo

__all__ = [
    "Host",
    "cpu_capability",
    "cpu_model",
    "governor",
    "host",
    "machine_id",
    "machine_of",
    "virtualised",
]

PACKAGES = (
    "edge-harness",
    "numpy",
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "safetensors",
    "pillow",
    "pyarrow",
    "scikit-learn",
    "nvidia-ml-py",
)

ROOT = Path("/")

_ID_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Host:
    """The facts of a machine and its interpreter, as the record's ``environment`` has them; None if unknown.

    They contain no host name, no user and no path.
    """

    machine_id: str
    os: str
    kernel: str
    arch: str
    python: str
    cpu: str
    cores_physical: int | None
    cores_logical: int | None
    memory_bytes: int
    cpu_capability: str
    governor: str | None
    virtualised: bool | None
    versions: Mapping[str, str]
    telemetry_off: Sequence[str]


def host() -> Host:
    """Return the facts of this machine and interpreter."""
    import psutil

    return Host(
        machine_id=machine_id(),
        os=_os_name(),
        kernel=f"{platform.system()} {platform.release()}",
        arch=platform.machine(),
        python=platform.python_version(),
        cpu=cpu_model(),
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=psutil.cpu_count(logical=True),
        memory_bytes=psutil.virtual_memory().total,
        cpu_capability=cpu_capability(),
        governor=governor(),
        virtualised=virtualised(),
        versions=_versions(),
        telemetry_off=telemetry_off(),
    )


def machine_id(root: Path = ROOT) -> str:
    """Return 16 hex digits that identify this installation of the system and reveal nothing else about it.

    They are a salted hash of ``/etc/machine-id``, since man 5 machine-id asks not to publish the id itself. If there
    is no such file, they are the hash of a random id that is kept in the harness's cache folder.

    Raises:
        StorageError: there is no ``/etc/machine-id``, and the cache folder cannot be written.
    """
    own = text(root / "etc/machine-id")
    if own is None or len(own) != 32:
        own = _kept_id(default_cache() / "machine-id")
    return hashlib.sha256(f"edge-harness machine {own}".encode()).hexdigest()[:16]


def _kept_id(path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex, keep=True)
        kept = read_regular(path, _ID_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise StorageError(f"cannot keep this machine's id in {path}: {error.strerror or error}") from None
    if not re.fullmatch(r"[0-9a-f]{32}", kept):  # two machines with an empty file would be one
        raise StorageError(f"{path} holds no machine's id: delete it, and a new one is made")
    return kept


def cpu_model(root: Path = ROOT) -> str:
    """Return the name of the processor.

    On an Arm board it is the board's name, since ``cpuinfo`` has no processor name.
    """
    board = text(root / "proc/device-tree/model")
    return board or _cpuinfo(root).get("model name") or platform.processor() or platform.machine()


def cpu_capability(root: Path = ROOT) -> str:
    """Return the vector extension that decides results and speed: avx512, avx2, sve, neon or default.

    The rule is that of torch's choice of kernels. ``ATEN_CPU_CAPABILITY`` can only lower it.
    """
    info = _cpuinfo(root)
    names = set((info.get("flags") or info.get("Features") or "").split())
    if "sve" in names:
        return "sve"
    if "asimd" in names:
        return "neon"
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "")
    wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"} <= names
    if wide and asked not in ("avx2", "default"):
        return "avx512"
    if {"avx2", "fma"} <= names and asked != "default":
        return "avx2"
    return "default"


def governor(root: Path = ROOT) -> str | None:
    """Return the CPU frequency governor, or None if the kernel shows none. Several governors are joined with ``+``."""
    names = {text(path) for path in each(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    return "+".join(sorted(name for name in names if name)) or None


def virtualised(root: Path = ROOT) -> bool | None:
    """Return whether a hypervisor runs this machine, or None if that is unknown."""
    if "flags" in _cpuinfo(root):
        return "hypervisor" in _cpuinfo(root)["flags"].split()
    if (root / "proc/device-tree").is_dir():
        return (root / "proc/device-tree/hypervisor").exists()
    return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's entries of ``/proc/cpuinfo``."""
    entries: dict[str, str] = {}
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return entries


def machine_of(info: DeviceInfo) -> str:
    """Return the id of the machine that a device is on.

    It is empty for this machine, even if an agent gives access to it.
    """
    return "" if info.machine_id == machine_id() else info.machine_id
