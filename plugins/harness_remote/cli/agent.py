"""The commands ``harness agent init``, ``serve`` and ``install-service``."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.cli.common import PathType
from harness.cli.output import echo
from harness_remote import PORT

__all__ = ["command"]


def _default_folder() -> Path:
    from harness.store.home import user_folder

    return user_folder("XDG_DATA_HOME", "give --folder") / "harness-agent"


def _folder_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--folder",
        type=PathType(file_okay=False),
        default=_default_folder,
        metavar="DIR",
        help="Folder of the agent's key, certificate, token and files.  [default: ~/.local/share/harness-agent]",
    )(function)


def _address_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option(
            "--frames-port",
            type=click.IntRange(0, 65535),
            metavar="PORT",
            help="Port to which other boards send frames.  [default: the port after --port]",
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=PORT,
            show_default=True,
            help="Port of the agent; 0: any free port.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            metavar="ADDRESS",
            help="Address to listen at; 0.0.0.0: all addresses.",
        ),
    ):
        function = decorate(function)
    return function


@click.group("agent")
def command() -> None:
    """Make this machine a board that others measure on."""


@command.command("init")
@_folder_option
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOSTNAME",
    help="A name or address for the certificate (repeatable).",
)
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=3650,
    show_default=True,
    help="Days for which the certificate is valid.",
)
@click.option(
    "--replace", is_flag=True, help="Replace existing ones: clients that have the old ones are shut out."
)
def init(folder: Path, names: tuple[str, ...], days: int, replace: bool) -> None:
    """Make a key, a certificate and a token.

    With them, the agent may listen at other addresses than this machine's own.

    Give the certificate and the token to those who may use the board: `harness devices add`.
    """
    from harness_remote.wire import secrets

    identity = secrets.create(folder, names or (socket.gethostname(),), days=days, replace=replace)
    echo(f"certificate: {folder / secrets.CERTIFICATE}")
    echo(f"token: {folder / secrets.TOKEN}")
    echo(f"fingerprint: {secrets.fingerprint(identity.certificate_pem)}")


@command.command("serve")
@_address_options
@_folder_option
@click.option(
    "--ready-file",
    type=PathType(dir_okay=False),
    metavar="FILE",
    help="Write addresses, fingerprint and process id as JSON to this file when the agent is ready.",
)
@click.option(
    "--wrapper",
    default="",
    hidden=True,
    help="A function (module:function) that wraps each session of a worker.",
)
def serve(
    host: str, port: int, frames_port: int | None, folder: Path, ready_file: Path | None, wrapper: str
) -> None:
    """Serve until a signal ends it. Prints one line when ready.

    At this machine's own addresses it needs nothing; at others the certificate and token of `harness agent init`.
    """
    from harness_remote.agent.server import AgentSettings
    from harness_remote.agent.server import serve as serve_until_signal
    from harness_remote.setup import service
    from harness_remote.wire import secrets

    identity = _identity(host, folder)
    fingerprint = secrets.fingerprint(identity.certificate_pem) if identity else None

    def announce(address: str, frames: str) -> None:
        shown = f"certificate SHA-256 {fingerprint}" if fingerprint else "no certificate, this machine only"
        echo(f"harness agent ready on {address}, other boards' frames on {frames}, {shown}")
        if ready_file is not None:
            ready = {"address": address, "frames": frames, "fingerprint": fingerprint, "pid": os.getpid()}
            _write_whole(ready_file, ready)
        service.notify_ready()

    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    settings = AgentSettings(
        folder=folder, host=host, port=port, frames_port=frames_port, identity=identity, wrapper=wrapper
    )
    serve_until_signal(settings, announce)


@command.command("install-service")
@_address_options
@_folder_option
@click.option(
    "--user", is_flag=True, help="A unit of your own instead of the system's.  [default: unless you are root]"
)
@click.option("--print", "print_only", is_flag=True, help="Print the unit, and do nothing.")
def install_service(
    host: str, port: int, frames_port: int | None, folder: Path, user: bool, print_only: bool
) -> None:
    """Write a systemd unit for the agent, and start it.

    The unit serves at this address and starts with the machine. A running agent is restarted.
    """
    from harness_remote.setup import service

    folder = folder.absolute()
    user = user or os.geteuid() != 0
    _identity(host, folder)
    words = [sys.executable, "-m", "harness", "agent", "serve", "--host", host, "--port", str(port)]
    words += [] if frames_port is None else ["--frames-port", str(frames_port)]
    text = service.unit(
        [*words, "--folder", str(folder)], folder, user=None if user else os.environ.get("SUDO_USER", "root")
    )
    if print_only:
        echo(text, end="")
        return
    for left in service.install(text, user=user):
        echo(f"note: {left}")
    manager = "systemctl --user" if user else "systemctl"
    echo(f"{service.path_of(user=user)}: started; `{manager} status {service.NAME}` tells how it is")


def _identity(host: str, folder: Path) -> Any:
    """Return the agent's identity, or None if there is none and ``host`` needs none.

    Raises:
        DeviceError: other machines can reach ``host``, and there is no certificate and token.
    """
    from harness.errors import DeviceError
    from harness_remote.wire import secrets
    from harness_remote.wire.addresses import resolves_to_loopback

    if any((folder / name).exists() for name in (secrets.KEY, secrets.CERTIFICATE, secrets.TOKEN)):
        return secrets.load(folder)
    try:
        loopback = resolves_to_loopback(host)
    except OSError as error:
        raise DeviceError(f"--host {host}: {error.strerror or error}") from None
    if not loopback:
        own = "" if folder == _default_folder() else f" --folder {folder}"
        raise DeviceError(
            f"--host {host}: other machines reach this address, so certificate and token are needed: "
            f"run `harness agent init{own}` first"
        )
    return None


def _write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a file for which another process waits, in one step, so that it never reads half of it."""
    from harness.errors import DeviceError
    from harness.store.files import write_atomically

    try:
        write_atomically(path, json.dumps(content) + "\n")
    except OSError as error:
        raise DeviceError(f"cannot write {path}: {error.strerror or error}") from None
