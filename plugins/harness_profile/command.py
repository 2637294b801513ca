"""The command ``harness devices profile``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import PathType, block_option, load, warn_problems
from harness.cli.output import echo, echo_json

if TYPE_CHECKING:
    from harness.plan.profiles.profile import Profile
    from harness.plugins import Plugins
    from harness.types import BackendEntry, DeviceSpec, Workload
    from harness_profile.timing import Probe

__all__ = ["command", "profile_of", "report"]


@click.command("profile")
@click.argument("name")
@click.option("--runtime", default="onnxruntime", show_default=True, help="The runtime of the models.")
@click.option(
    "--set",
    "chosen",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the device's backend, e.g. device=cuda.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="The number of threads of the worker.",
)
@click.option(
    "--out",
    type=PathType(dir_okay=False),
    help="Write the profile to FILE; plans do not find it there by NAME.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
@block_option
def command(
    name: str,
    runtime: str,
    chosen: tuple[str, ...],
    threads: int,
    out: Path | None,
    as_json: bool,
    block: tuple[str, ...],
) -> None:
    """Measure the speed of NAME, a board of the inventory or cpu, for estimates and placers.

    Small models and single operations are exported here, which needs torch, and timed there one by one. The profile
    is kept by name, runtime and threads in $HARNESS_PROFILES, else harness/profiles in the user's data folder.
    """
    from harness.plan.profiles.stored import write_profile
    from harness_profile.timing import PROBES, WORKLOAD

    plugins = load(block)
    warn_problems(plugins)
    backend, spec = _device(name, threads, chosen, plugins)
    say = _silent if as_json else _say
    profile = profile_of(backend, spec, runtime, plugins, say, PROBES, WORKLOAD)
    report(profile, write_profile(profile, out), as_json=as_json)


def report(profile: Profile, path: Path, *, as_json: bool) -> None:
    """Print a profile that is stored in ``path``, as text or as JSON."""
    if as_json:
        echo_json(profile.to_json())
        return
    _show(profile)
    disturbed = sum(bool(point.flags) for point in profile.points)
    if disturbed:
        echo(
            f"warning: {disturbed} of {len(profile.points)} points were disturbed; measure again when nothing else "
            "runs there",
            err=True,
        )
    echo(f"kept in {path}")


def profile_of(
    backend: BackendEntry,
    spec: DeviceSpec,
    runtime: str,
    plugins: Plugins,
    say: Callable[[str], None],
    probes: Sequence[Probe],
    workload: Workload,
) -> Profile:
    """Measure the profile of a device with the named runtime. For a board, also measure the link from this machine.

    Raises:
        SuiteError: there is no such runtime.
        DeviceError: the device cannot be used.
    """
    from importlib.util import find_spec

    from harness.devices import install_command
    from harness.errors import DeviceError
    from harness.store.artifacts import Store
    from harness.store.files import default_cache
    from harness.types import DeviceSpec
    from harness_profile.timing import measure_profile

    entry = plugins.runtimes.get(runtime, "--runtime")
    if entry.not_installed is not None:
        raise DeviceError(entry.not_installed)
    if find_spec("torch") is None:
        raise DeviceError(f"the models to time are made with torch: {install_command('bench')}")
    here = plugins.backends.get("cpu").entry if "cpu" in plugins.backends else None
    central = (
        (here, DeviceSpec(name="cpu", backend="cpu", params=here.params())) if here is not None else None
    )
    return measure_profile(
        backend,
        spec,
        entry,
        Store(default_cache()),
        say,
        code=plugins.code_of(entry.entry, entry.origin),
        central=central,
        probes=probes,
        workload=workload,
    )


def _device(
    name: str, threads: int, chosen: Sequence[str], plugins: Plugins
) -> tuple[BackendEntry, DeviceSpec]:
    from harness.errors import DeviceError, nearest
    from harness.suite.validate import validated
    from harness.suite.yamlfile import Source, parse_value
    from harness.types import DeviceSpec
    from harness_remote.inventory.inventory import Inventory

    boards = Inventory.load().boards
    if name not in boards and name not in plugins.backends:
        known = [*boards, *(backend.entry.name for backend in plugins.backends)]
        raise DeviceError(f"{name}: no board of the inventory, nor a backend; {nearest(name, known)}")
    backend = plugins.backends.get(boards[name].backend if name in boards else name).entry
    values = {}
    for setting in chosen:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--set {setting}: write KEY=VALUE")
        values[key] = parse_value(value, f"--set {setting}")
    params = validated(backend.params, values, Source("--set"), ())
    return backend, DeviceSpec(name=name, backend=backend.name, params=params, threads=threads)


def _say(text: str) -> None:
    echo(text, err=True)


def _silent(text: str) -> None:
    pass


def _show(profile: Profile) -> None:
    from harness.errors import HarnessError
    from harness.plan.profiles.profile import KINDS

    echo(f"{profile.label}: {profile.device_model}, {profile.runtime}, {profile.threads} threads", bold=True)
    for point in profile.points:
        speed = point.macs / point.seconds / 1e9
        flags = f"  [{', '.join(point.flags)}]" if point.flags else ""
        echo(
            f"  {point.what:<44}{point.macs / 1e6:>10.2f} MMACs{1e3 * point.seconds:>10.3f} ms{speed:>8.1f} GMAC/s{flags}"
        )
    for kind in KINDS:
        try:
            line = profile.line_of(kind)
        except HarnessError as error:
            echo(f"{kind}: {error}")
            continue
        echo(
            f"{kind}: {1e3 * line.fixed:.3g} ms + {1e3 * line.slope:.4g} ms per GMAC, {line.low:.3g} to {line.high:.3g} "
            f"GMACs, ± {line.error:.0%} (the worst point {line.worst:.0%})"
        )
    memory = profile.memory()
    if memory is not None:
        echo(f"memory: {memory.fixed:.4g} MiB + {memory.slope:.3g} x the weights, ± {memory.error:.0%}")
    if profile.link is not None:
        rate = f"{profile.link.rate_mbps:.4g} Mbit/s, " if profile.link.rate_mbps else ""
        echo(f"link: {rate}{profile.link.rtt_ms:.3g} ms; {profile.link.origin}")
