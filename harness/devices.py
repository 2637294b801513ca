"""What authors of backends, runtimes and meters import beside :mod:`harness.types`.

A name is imported from its module when it is first used. So a meter that reads sysfs costs no import of numpy.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "link_of",
    "mark_baseline",
    "on_gpu",
    "processor_of",
    "sysfs",
    "virtualised",
]

_MODULES = {
    "harness.machine": ("sysfs",),
    "harness.machine.environment": ("cpu_model", "governor", "virtualised"),
    "harness.machine.memory": ("mark_baseline", "on_gpu"),
    "harness.plan.profiles.profile": ("Link",),
    "harness.plan.profiles.stored": ("link_of", "processor_of"),
    "harness.worker.device": ("LocalTransport", "Transport", "WorkerDevice"),
    "harness.worker.process": ("WorkerProcess",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = pkgutil.resolve_name(f"{_MODULE_OF[name]}.{name}")
    return value


def __dir__() -> list[str]:
    return __all__
