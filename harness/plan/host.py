"""The machine that prepares: its training device, and the facts that change trained weights."""

from __future__ import annotations

from importlib.util import find_spec

from harness.contracts.devices import checked_all
from harness.errors import SuiteError
from harness.extras import install_command
from harness.machine import environment
from harness.plugins import Plugins
from harness.suite.suite import Suite
from harness.types import DeviceInfo
from harness.types.plan import PrepareHost

__all__ = ["check_accelerate", "prepare_host", "training_device"]


def prepare_host(suite: Suite, plugins: Plugins) -> PrepareHost:
    """Return the facts of this machine that are part of the keys of what ``suite`` prepares.

    Raises:
        SuiteError: the training device does not exist, or several processes cannot train on it.
    """
    facts = environment.host()
    device, gpu = training_device(suite, plugins)
    check_accelerate(suite)
    return PrepareHost(
        torch=facts.versions.get("torch", ""),
        timm=facts.versions.get("timm", ""),
        capability="" if gpu else facts.cpu_capability,
        device=device,
        gpu=gpu,
    )


def training_device(suite: Suite, plugins: Plugins) -> tuple[str, str]:
    """Return the device that trains: (torch's name of it, model of the GPU or "").

    Raises:
        SuiteError: the suite names a GPU that does not answer, or more processes than GPUs.
        BrokenContract: the backend of GPUs failed.
    """
    wanted = suite.prepare.device
    gpus = []
    if wanted != "cpu" and "cuda" in plugins.backends:
        with plugins.backends.calling("cuda", "probe", may_refuse=False):
            probed = plugins.backends.get("cuda").entry.probe()
            found = checked_all(plugins.backends.need("cuda"), probed, "probe")
        gpus = [info for info in found if isinstance(info, DeviceInfo)]
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return "cpu", ""
    index = int(wanted.partition(":")[2] or 0) if wanted != "auto" else 0
    if index >= len(gpus):
        where = suite.source.where("prepare", "device")
        raise SuiteError(f"{where}: {wanted}: {len(gpus)} CUDA devices answer (see `harness devices list`)")
    if suite.prepare.processes > len(gpus):
        where = suite.source.where("prepare", "processes")
        raise SuiteError(
            f"{where}: processes: {suite.prepare.processes} take a GPU each, and {len(gpus)} answer "
            "(see `harness devices list`); device: cpu trains on the CPU"
        )
    return f"cuda:{index}", gpus[index].model


def check_accelerate(suite: Suite) -> None:
    """Check that accelerate is installed if several processes train.

    Raises:
        SuiteError: it is not installed.
    """
    if suite.prepare.processes > 1 and find_spec("accelerate") is None:
        where = suite.source.where("prepare", "processes")
        raise SuiteError(f"{where}: processes above 1 need accelerate: {install_command('multi-gpu')}")
