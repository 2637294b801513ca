"""The machine that prepares: its training device, and what several processes need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.plugins import Plugins
    from harness.suite.suite import Suite

__all__ = []


def _training_device(suite: Suite, plugins: Plugins) -> tuple[str, str]:
    """Where models are trained: (torch device, GPU model or "")."""
    from harness.errors import SuiteError
    from harness.types import DeviceInfo

    wanted = suite.prepare.device
    if wanted == "cpu" or "cuda" not in plugins.backends:
        found = []
    else:
        found = [info for info in plugins.backends.get("cuda").entry.probe() if isinstance(info, DeviceInfo)]
    if wanted == "cpu" or (wanted == "auto" and not found):
        return "cpu", ""
    index = int(wanted.partition(":")[2] or 0) if wanted != "auto" else 0
    if index >= len(found):
        where = suite.source.where("prepare", "device")
        raise SuiteError(f"{where}: {wanted}: {len(found)} CUDA devices answer (see `harness devices list`)")
    if suite.prepare.processes > len(found):
        where = suite.source.where("prepare", "processes")
        raise SuiteError(
            f"{where}: processes: {suite.prepare.processes} take a GPU each, and {len(found)} answer "
            "(see `harness devices list`); device: cpu trains on the CPU"
        )
    return f"cuda:{index}", found[index].model


def _check_accelerate(suite: Suite) -> None:
    from importlib.util import find_spec

    from harness.errors import SuiteError

    if suite.prepare.processes > 1 and find_spec("accelerate") is None:
        where = suite.source.where("prepare", "processes")
        raise SuiteError(f"{where}: processes above 1 need accelerate: pip install 'edge-harness[multi-gpu]'")
