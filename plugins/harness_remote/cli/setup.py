"""The command ``harness devices setup``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from harness.cli.common import PathType
from harness.cli.output import echo
from harness.devices import install_command
from harness_remote import PORT

__all__ = ["command"]


@click.command("setup")
@click.argument("name")
@click.option("--ssh", "target", required=True, metavar="USER@HOST", help="The board, as ssh reaches it.")
@click.option(
    "--ssh-port",
    type=click.IntRange(1, 65535),
    help="Port of ssh on the board, if ssh's configuration names no other.",
)
@click.option(
    "--host", metavar="ADDRESS", help="Address of the board for measuring, if it differs from that of ssh."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="The agent's port."
)
@click.option(
    "--python", metavar="PYTHON", help="The board's Python, 3.10 or newer, e.g. python3.12 or a path."
)
@click.option(
    "--offline",
    is_flag=True,
    help="Download what the board needs on this machine, because the board has no network.",
)
@click.option(
    "--onnxruntime",
    type=PathType(dir_okay=False),
    metavar="WHEEL",
    help="A build of ONNX Runtime to install in place of that of PyPI, e.g. one with CUDA; upgrades keep it.",
)
@click.option("--no-service", is_flag=True, help="Start the agent without systemd.")
def command(
    name: str,
    target: str,
    ssh_port: int | None,
    host: str | None,
    port: int,
    python: str | None,
    offline: bool,
    onnxruntime: Path | None,
    no_service: bool,
) -> None:
    """Install or upgrade the agent on a board over ssh, and add the board to the inventory.

    The agent gets its own environment in ~/.local/share/harness-agent there, and runs as a service: the user's
    service, or the system's if ssh logs in as root.
    """
    from importlib.util import find_spec

    from harness.errors import DeviceError
    from harness_remote.inventory.enrol import Enrolment
    from harness_remote.inventory.inventory import check_name
    from harness_remote.setup import examine, provision, ssh

    check_name(name, f"board {name!r}")

    def say(step: str) -> None:
        echo(f"{name}: {step}", err=True)

    if find_spec("grpc") is None:
        raise DeviceError(
            f"boards are reached by gRPC, which is not installed here: {install_command('agent')}"
        )
    if onnxruntime is not None and not (onnxruntime.suffix == ".whl" and onnxruntime.is_file()):
        raise DeviceError(f"--onnxruntime {onnxruntime}: expected a wheel, a file that ends in .whl")
    say(f"connecting to {target}")
    with (
        ssh.connected(target, ssh_port) as remote,
        tempfile.TemporaryDirectory(prefix="harness-setup-") as work,
    ):
        address = host or remote.hostname()
        # first, so that a name that is taken costs no time
        enrolment = Enrolment.of(name, address, port)
        facts = examine.examine(remote, python)
        version = f"{facts.python[0][0]}.{facts.python[0][1]}"
        say(f"{facts.model or facts.hostname}: {facts.machine}, Python {version}, {facts.free_mb} MB free")
        installed = provision.provision(
            remote,
            facts,
            port=port,
            offline=offline,
            service=not no_service,
            onnxruntime=onnxruntime,
            workdir=Path(work),
            say=say,
        )
    enrolment.save(facts.backend, installed.certificate, installed.token)
    say(f"in {enrolment.inventory.path}")
    for note in installed.notes:
        echo(f"note: {note}", err=True)
    say(f"checking it at {address}:{port}")
    from harness_remote.client.client import Client

    client = Client(name, enrolment.inventory.credentials(name))
    try:
        board = client.describe()
    finally:
        client.close()
    meters = ", ".join(meter["name"] for meter in board.meters) or "none"
    runtime = board.onnxruntime.get("version") or board.onnxruntime.get("error")
    echo(
        f"{name}: {board.model}, ONNX Runtime {runtime}, meters: {meters}; `harness devices check {name}` shows more"
    )
