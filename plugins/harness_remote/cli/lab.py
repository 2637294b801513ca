"""The commands ``harness lab up``, ``run``, ``status`` and ``down``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import PathType, progress_options
from harness.cli.output import echo

if TYPE_CHECKING:
    from harness_remote.lab.state import State

__all__ = ["command"]


@click.group("lab")
def command() -> None:
    """Run virtual boards on this machine: the same agent, behind emulated links.

    LAB is a YAML file, or the name of a shipped lab (nano4, nano6, pi10). Rows that are measured there are `emulated`.
    """


@command.command("up")
@click.argument("lab")
def up(lab: str) -> None:
    """Bring LAB up and leave it up.

    The command prints the path of an inventory, with which `harness run` reaches the boards.
    """
    from harness_remote.lab import supervisor
    from harness_remote.lab.labfile import find_lab, load_lab

    _show(supervisor.up(load_lab(find_lab(lab))))


@command.command("run")
@click.argument("lab")
@click.argument("suite", required=False)
@click.option("--out", type=PathType(), help="Results folder (results/local/SUITE).")
@click.option("--fresh", is_flag=True, help="Measure every cell again; earlier records are set aside.")
@progress_options
def run(
    lab: str, suite: str | None, out: Path | None, fresh: bool, quiet: bool, plain: bool, traceback: bool
) -> int:
    """Bring LAB up, run SUITE, and take LAB down.

    Without SUITE, the lab's own suite is run. A lab that was already up stays up. The exit code is that of `harness
    run`.
    """
    from harness.errors import SuiteError
    from harness_remote.lab import supervisor
    from harness_remote.lab.labfile import find_lab, load_lab
    from harness_remote.lab.run import run_suite
    from harness_remote.lab.state import INVENTORY, State, folder_of

    path = find_lab(lab)
    loaded = load_lab(path)
    if (suite := suite or loaded.suite) is None:
        raise SuiteError(f"{path}: names no suite; give one: harness lab run {lab} SUITE")
    state = State.load(folder_of(loaded.lab))
    ours = state is None or not state.up
    if state is None or ours:
        state = supervisor.up(loaded, tied=True)
        _show(state, to_stderr=True)
    options = [
        *(["--out", str(out)] if out else []),
        *(["--fresh"] if fresh else []),
        *(["-q"] if quiet else []),
        *(["--plain"] if plain else []),
        *(["--traceback"] if traceback else []),
    ]
    try:
        return run_suite([suite, *options], folder_of(loaded.lab) / INVENTORY)
    finally:
        if ours:
            supervisor.down(state)


@command.command("status")
def status() -> None:
    """Show which labs are up, and which ended without being taken down."""
    from harness_remote.lab.state import states

    labs = states()
    if not labs:
        echo("no lab is up")
    for name, state in labs.items():
        if state.up:
            _show(state)
        else:
            echo(f"lab {name}: ended on its own; `harness lab down {name}` forgets it", fg="yellow")


@command.command("down")
@click.argument("name", required=False)
def down(name: str | None) -> None:
    """Take a lab down. NAME may be omitted if there is only one."""
    from harness.errors import DeviceError, nearest
    from harness_remote.lab import supervisor
    from harness_remote.lab.state import states

    labs = states()
    if name is None and len(labs) == 1:
        (name,) = labs
    if name is None:
        raise DeviceError(f"which lab? {', '.join(labs)}" if labs else "no lab is up")
    if name not in labs:
        raise DeviceError(f"no lab {name!r} is up; {nearest(name, labs)}")
    supervisor.down(labs[name])
    echo(f"lab {name}: down")


def _show(state: State, *, to_stderr: bool = False) -> None:
    from harness_remote.lab.state import INVENTORY, folder_of

    kinds = {
        "root": "network namespaces",
        "user": "network namespaces of a user's own",
        "loopback": "addresses of this machine",
    }
    boards = f"{len(state.boards)} boards ({', '.join(state.boards)})"
    echo(f"lab {state.lab}: up, {boards} as {kinds[state.mode]}", bold=True, err=to_stderr)
    for note in state.notes:
        echo(f"note: {note}", err=to_stderr)
    echo(f"export HARNESS_DEVICES={folder_of(state.lab) / INVENTORY}", err=to_stderr)
