"""The description that a board's agent gives of its board."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import harness
from harness.devices import sysfs
from harness.errors import DeviceError, last_line
from harness.machine import environment
from harness.machine.meters import Meters
from harness.plugins import Plugins, load_plugins
from harness.types import Unavailable
from harness_power.jetson import is_jetson
from harness_remote.agent.onnx_check import supported
from harness_remote.wire.board import PROTOCOL, BoardDescription

__all__ = ["OnnxRuntime", "describe"]

ORT_S = 60.0
AGAIN_S = 300.0

_GPU_PROVIDERS = {"CUDAExecutionProvider", "TensorrtExecutionProvider"}
_JETPACK = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7"}  # by L4T's major version, developer.nvidia.com


class OnnxRuntime:
    """The installed ONNX Runtime. It is queried once, or again after ``again_s`` seconds if it does not start."""

    def __init__(self, again_s: float = AGAIN_S) -> None:
        self._again_s = again_s
        self._asking = threading.Lock()
        self._answered_at = 0.0
        self._answer: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """Return ``version``, ``providers``, ``opset`` and ``ir_version``, or the ``error`` if it does not start."""
        with self._asking:
            late = time.monotonic() - self._answered_at > self._again_s
            if not self._answer or ("error" in self._answer and late):
                self._answer, self._answered_at = self._asked(), time.monotonic()
            return self._answer

    @staticmethod
    def _asked() -> dict[str, Any]:
        """Query it in a separate process, because the import would cost the agent memory and a thread permanently."""
        ask = "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"
        try:
            done = subprocess.run(
                [sys.executable, "-c", ask],
                capture_output=True,
                text=True,
                timeout=ORT_S,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"error": f"onnxruntime does not start: {error}"}
        answer = last_line(
            done.stdout if done.returncode == 0 else done.stderr, f"exit code {done.returncode}"
        )
        try:
            version, providers = json.loads(answer)
            opset, ir_version = supported(version)
        except (ValueError, TypeError, DeviceError):
            return {"error": f"onnxruntime does not start: {answer}"}
        return {"version": version, "providers": providers, "opset": opset, "ir_version": ir_version}


ONNX_RUNTIME = OnnxRuntime()


def describe(
    plugins: Plugins | None = None,
    meters: Meters | None = None,
    onnxruntime: Callable[[], dict[str, Any]] = ONNX_RUNTIME.facts,
) -> BoardDescription:
    """Return the board's description.

    Meters and state are those that ``meters`` knows. If it is None, every sensor is read, which disturbs a
    measurement.
    """
    plugins = plugins or load_plugins()
    meters = meters or Meters(plugins)
    uses, absent = meters.auto()
    snapshot = meters.snapshot()
    root = sysfs.root()
    host = environment.host()
    runtime = onnxruntime()
    return BoardDescription(
        protocol=PROTOCOL,
        harness=harness.__version__,
        model=environment.cpu_model(root),
        soc=_soc(),
        product=_product(),
        kind="cuda" if _has_gpu() and _GPU_PROVIDERS & set(runtime.get("providers", ())) else "cpu",
        cores=host.cores_logical,
        memory_bytes=host.memory_bytes,
        arch=host.arch,
        os=host.os,
        kernel=host.kernel,
        python=host.python,
        cpu_capability=environment.cpu_capability(root),
        governor=environment.governor(root),
        virtualised=environment.virtualised(root),
        machine_id=environment.machine_id(root),
        boot_id=sysfs.text(root / "proc/sys/kernel/random/boot_id"),
        versions=host.versions,
        onnxruntime=runtime,
        jetpack=_jetpack(),
        meters=[asdict(use.info) for use in uses],
        absent=[asdict(meter) for meter in absent],
        watches=sorted(snapshot),
        state={
            name: {"error": state.reason} if isinstance(state, Unavailable) else dict(state)
            for name, state in snapshot.items()
        },
    )


def _soc() -> str | None:
    """Return the most general entry of the device tree's ``compatible`` without its vendor, such as bcm2711."""
    names = (sysfs.text(sysfs.root() / "proc/device-tree/compatible") or "").split("\0")
    return names[-1].rpartition(",")[2] or None


def _product() -> str | None:
    words = (
        sysfs.text(sysfs.root() / f"sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name")
    )
    return " ".join(filter(None, words)) or None


def _has_gpu() -> bool:
    return is_jetson() or (sysfs.root() / "proc/driver/nvidia/version").exists()


def _jetpack() -> dict[str, str | None]:
    """Return the releases of L4T and JetPack, or an empty mapping on another board.

    JetPack's release is that of its package, or else the major version that belongs to the release of L4T.
    """
    release_file = sysfs.text(sysfs.root() / "etc/nv_tegra_release") or ""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release_file)
    if not match:
        return {}
    package = re.search(
        r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\d[\d.]*)",
        sysfs.text(sysfs.root() / "var/lib/dpkg/status") or "",
        re.M,
    )
    release = package[1] if package else _JETPACK.get(int(match[1]))
    return {"l4t": f"{match[1]}.{match[2]}", "release": release}
