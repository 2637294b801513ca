"""Install the agent as a systemd unit, of the system or of one user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import DeviceError, last_line
from harness.store.home import user_folder

__all__ = ["NAME", "install", "notify_ready", "path_of", "unit"]

NAME = "harness-agent.service"
COMMAND_S = 120.0  # more than the unit's time limit for starting

# Meters and accelerators are files in /dev and /sys, and CUDA writes code. So PrivateDevices and
# MemoryDenyWriteExecute are not set. If the kernel kills a worker for its memory, OOMPolicy keeps the agent alive.
_UNIT = """\
[Unit]
Description=harness agent: measures models for other machines
After=network-online.target
StartLimitIntervalSec=600
StartLimitBurst=10

[Service]
Type=notify
ExecStart={command}
TimeoutStartSec=90
Restart=on-failure
RestartSec=5
KillMode=control-group
TimeoutStopSec=15
OOMPolicy=continue
UMask=0077
LimitCORE=0
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
{more}
[Install]
WantedBy={target}
"""

# only the system's manager supports these on every system
_SYSTEM = """\
User={user}
ProtectSystem=strict
ReadWritePaths={folder}
PrivateTmp=yes
ProtectHome=read-only
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
RestrictNamespaces=yes
"""


def unit(command: Sequence[str], folder: Path, *, user: str | None) -> str:
    """Return the unit's text. ``user`` is the user of a unit of the system's manager, or None for a user's own unit."""
    return _UNIT.format(
        command=" ".join(_quoted(word) for word in command),
        more="" if user is None else _SYSTEM.format(user=user, folder=_quoted(str(folder))),
        target="default.target" if user is None else "multi-user.target",
    )


def path_of(*, user: bool) -> Path:
    """Return the path of the unit's file."""
    if not user:
        return Path("/etc/systemd/system") / NAME
    return user_folder("XDG_CONFIG_HOME", "set HOME") / "systemd/user" / NAME


def install(text: str, *, user: bool, command_s: float = COMMAND_S) -> list[str]:
    """Write the unit, let it start with the machine, and (re)start it now. Return what the user must still do.

    ``command_s`` is the longest wait for one command of systemd.

    Raises:
        DeviceError: there is no systemd, the file cannot be written, or the unit does not start.
    """
    if not shutil.which("systemctl"):
        raise DeviceError(
            "no systemd here (systemctl is not found): start `harness agent serve` by other means"
        )
    manager = ["systemctl", "--user"] if user else ["systemctl"]
    path = path_of(user=user)
    # first, so that nothing is written if there is no manager
    _command([*manager, "show", "--property=Version"], "systemd does not answer", command_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        hint = "" if user else ": be root, or --user for a unit of your own"
        raise DeviceError(f"cannot write {path}: {error.strerror or error}{hint}") from None
    _command([*manager, "daemon-reload"], "systemd does not take the unit", command_s)
    _command([*manager, "enable", NAME], "systemd does not enable the unit", command_s)
    _command([*manager, "restart", NAME], "the agent does not start", command_s)
    return _linger(command_s) if user else []


def notify_ready() -> None:
    """Notify the manager that started this process, if one did, that it serves (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager, suppress(OSError):
        manager.sendto(b"READY=1", address)


def _linger(command_s: float) -> list[str]:
    """Enable lingering, because a user's units otherwise end with the last session. Return a note if that fails."""
    try:
        _command(["loginctl", "enable-linger"], "no lingering", command_s)
    except DeviceError as error:
        return [f"the agent ends with your last session ({error}): sudo loginctl enable-linger $USER"]
    return []


def _command(words: Sequence[str], what: str, seconds: float) -> None:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{what}: {' '.join(words)}: {error}") from None
    if done.returncode:
        reason = last_line(done.stderr or done.stdout, f"exit code {done.returncode}")
        raise DeviceError(f"{what}: {' '.join(words)}: {reason}")


def _quoted(word: str) -> str:
    """Return a word of a unit file in systemd's own quoting, in which % and $ have a special meaning."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not word or set(word) & set(" \t'") else word
