"""Names that authors of backends, runtimes and meters import beside those of :mod:`harness.types`.

A name is imported from its module when it is first used. Therefore a meter that reads sysfs does not import numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.doors import door

if TYPE_CHECKING:
    from harness.extras import install_command
    from harness.machine import sysfs
    from harness.machine.environment import cpu_model, governor, virtualised
    from harness.machine.memory import mark_baseline, on_gpu
    from harness.plan.profiles.profile import Link
    from harness.plan.profiles.stored import link_of, processor_of
    from harness.worker.device import LocalTransport, Transport, WorkerDevice
    from harness.worker.process import WorkerProcess

__all__ = [
    "Link",
    "LocalTransport",
    "Transport",
    "WorkerDevice",
    "WorkerProcess",
    "cpu_model",
    "governor",
    "install_command",
    "link_of",
    "mark_baseline",
    "on_gpu",
    "processor_of",
    "sysfs",
    "virtualised",
]

_MODULES = {
    "harness.extras": ("install_command",),
    "harness.machine": ("sysfs",),
    "harness.machine.environment": ("cpu_model", "governor", "virtualised"),
    "harness.machine.memory": ("mark_baseline", "on_gpu"),
    "harness.plan.profiles.profile": ("Link",),
    "harness.plan.profiles.stored": ("link_of", "processor_of"),
    "harness.worker.device": ("LocalTransport", "Transport", "WorkerDevice"),
    "harness.worker.process": ("WorkerProcess",),
}
__getattr__ = door(__name__, _MODULES, globals())


def __dir__() -> list[str]:
    return __all__
