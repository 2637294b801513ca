"""The commands ``harness devices add``, ``check`` and ``remove``, for the boards of the inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.common import PathType
from harness.cli.output import echo, echo_json
from harness_remote import PORT

if TYPE_CHECKING:
    from harness_remote.inventory.check import BoardCheck

__all__ = ["add", "check", "remove"]


@click.command("add")
@click.argument("name")
@click.option("--host", required=True, metavar="HOST", help="Name or address of the board.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option(
    "--certificate",
    type=PathType(dir_okay=False),
    metavar="FILE",
    help="The agent's certificate, from `harness agent init`.",
)
@click.option(
    "--token",
    type=PathType(dir_okay=False),
    metavar="FILE",
    help="The agent's token; only you may be able to read the file.",
)
@click.option("--label", "labels", multiple=True, metavar="WORD", help="A label (repeatable).")
@click.option(
    "--backend",
    type=click.Choice(["raspberry-pi", "jetson", "agent"]),
    help="Backend of the board.  [default: the one that the agent states]",
)
def add(
    name: str,
    host: str,
    port: int,
    certificate: Path | None,
    token: Path | None,
    labels: tuple[str, ...],
    backend: str | None,
) -> None:
    """Add a board whose agent is already running to the inventory.

    `harness devices setup` also installs the agent.
    """
    from harness.suite.validate import validated
    from harness.suite.yamlfile import Source
    from harness_remote.inventory.boards import ask_board, backend_of
    from harness_remote.inventory.inventory import Board, Inventory

    inventory = Inventory.load()
    written = {
        "backend": backend or "agent",
        "host": host,
        "port": port,
        "labels": list(labels),
        "certificate": _from(inventory.path.parent, certificate),
        "token": _from(inventory.path.parent, token),
    }
    board = validated(Board, written, Source(f"harness devices add {name}"), ())
    inventory.add(name, board)
    credentials = inventory.credentials(name)
    if backend is None:
        described = ask_board(name, credentials)
        inventory = Inventory.load()
        inventory.add(name, board.model_copy(update={"backend": backend_of(described)}))
    inventory.save()
    echo(
        f"{name}: {inventory.boards[name].backend}, in {inventory.path}; `harness devices check {name}` shows more"
    )


@click.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove a board from the inventory. Its certificate and token files are not deleted."""
    from harness_remote.inventory.inventory import Inventory

    inventory = Inventory.load()
    board = inventory.board(name)
    inventory.remove(name)
    inventory.save()
    files = ", ".join(str(inventory.path.parent / file) for file in (board.certificate, board.token) if file)
    echo(
        f"{name}: not in {inventory.path} any more"
        + (f"; its files are still there: {files}" if files else "")
    )


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, from which docs/hardware.md is filled.")
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Check the named boards, or all boards, and measure clock and link. The exit code is 1 if one cannot be used.

    The link of a board that someone else holds is not measured.
    """
    from concurrent.futures import ThreadPoolExecutor

    from harness_remote.inventory.check import check_board
    from harness_remote.inventory.inventory import Inventory

    inventory = Inventory.load()
    chosen = [name for name in names if inventory.board(name)] or list(inventory.boards)
    with ThreadPoolExecutor(max(1, min(16, len(chosen)))) as pool:
        checks = list(pool.map(lambda name: check_board(inventory, name), chosen))
    if as_json:
        echo_json([board.to_json() for board in checks])
    elif not checks:
        echo(f"no board in {inventory.path}; `harness devices setup NAME --ssh USER@HOST` adds one")
    for board in () if as_json else checks:
        _show(board)
    context.exit(0 if all(board.usable for board in checks) else 1)


def _from(folder: Path, file: Path | None) -> str | None:
    """Return a file's path for the inventory: relative to ``folder`` if it is inside, else absolute."""
    if file is None:
        return None
    from harness.store.home import expanded

    path = expanded(file).resolve()
    return str(path.relative_to(folder.resolve()) if path.is_relative_to(folder.resolve()) else path)


def _show(check: BoardCheck) -> None:
    head = f"{check.name} ({check.target})"
    if not check.usable:
        echo(f"{head}: not usable", fg="yellow")
        echo(f"  {check.problem}")
    board = check.description
    if board is None:
        return
    echo(f"{head}: {board.model}", bold=True)
    memory = f"{board.memory_bytes / 2**30:.1f} GiB"
    emulated = ", emulated" if check.emulated else ""
    echo(
        f"  {board.cores} cores, {memory}, {board.os}, kernel {board.kernel}, Python {board.python}{emulated}"
    )
    runtime = board.onnxruntime
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in runtime.get("providers", ()))
    echo(
        f"  ONNX Runtime {runtime.get('version', runtime.get('error'))}"
        + (f" ({providers})" if providers else "")
    )
    echo(f"  agent of harness {check.version}; {'held by someone' if check.leased else 'free'}")
    if check.clock_offset_s is not None:
        echo(
            f"  clock {check.clock_offset_s:+.3f} s from the clock of this machine, within {check.clock_error_ms:.2f} ms"
        )
    if link := check.link:
        echo(
            f"  link: round trip {link['rtt_ms']:.2f} ms, {link['up_mbps']:.0f} Mbit/s to the board, "
            f"{link['down_mbps']:.0f} Mbit/s back"
        )
    if check.frames:
        echo(
            f"  no fleet whose central device is this machine can have it: {check.frames}; is its second port open?",
            fg="yellow",
        )
    meters = ", ".join(meter["name"] for meter in board.meters) or "none answers"
    echo(f"  meters: {meters}")
    for name, state in board.state.items():
        shown = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in state.items()
        )
        echo(f"  {name}: {shown}")
