"""The entries that a cell uses, with the code behind each. They are a part of its record and of its identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.plan.resolve import ResolvedMethod
from harness.plan.targets import Target
from harness.plugins import Plugins
from harness.registry import Registry
from harness.types import Monitor
from harness.types.origin import EntryOrigin

__all__ = ["origins_of"]


def origins_of(
    plugins: Plugins,
    resolved: ResolvedMethod,
    runtime: str,
    target: Target,
    monitors: Iterable[Monitor],
    placer: str | None,
) -> tuple[EntryOrigin, ...]:
    """Return the origin of each entry that a cell uses, once each, in the order of the steps.

    ``placer`` is the name of the placer that decided the placement, or None. A meter that a board reads itself is not
    included, since the board's own installation has its code.

    Raises:
        PluginError: the source of a plugin cannot be hashed.
    """
    by_stage: dict[str, Registry[Any]] = {
        "build": plugins.models,
        "compress": plugins.compressors,
        "partition": plugins.partitioners,
    }
    used: list[tuple[Registry[Any], str]] = []
    for link in resolved.links:
        used += [(plugins.datasets, link.data.ref.entry), (by_stage[link.step.stage], link.step.name)]
    used.append((plugins.datasets, resolved.data.ref.entry))
    if placer is not None:
        used.append((plugins.placers, placer))
    used.append((plugins.runtimes, runtime))
    used += [(plugins.backends, spec.backend) for spec in target.specs]
    meters = [use.info.name.partition(":")[0] for monitor in monitors for use in monitor.meters if use.open]
    used += [(plugins.meters, name) for name in meters if name in plugins.meters]
    origins = {
        (registry.kind, name): plugins.origin_of(registry.kind, registry.get(name)) for registry, name in used
    }
    return tuple(origins.values())
