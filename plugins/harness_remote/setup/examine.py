"""Examine a board before the agent is installed. An error says why that is impossible, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import DeviceError
from harness_remote.setup.ssh import Remote

__all__ = ["Facts", "examine"]

LEAST_FREE_MB = 700  # twice the agent's size, because pip unpacks it first
OLDEST, NEWEST = (3, 10), (3, 13)  # Pythons for which all of the agent's wheels exist

_EXAMINE = r"""
echo "machine $(uname -m)"
echo "glibc $(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //')"
echo "uid $(id -u)"
echo "hostname $(hostname 2>/dev/null || uname -n)"
echo "free_mb $(df -Pm "$HOME" | awk 'NR == 2 { print $4 }')"
echo "tegra $(head -n 1 /etc/nv_tegra_release 2>/dev/null)"
echo "model $(tr -d '\0' < /proc/device-tree/model 2>/dev/null)"
if systemctl $([ "$(id -u)" = 0 ] || echo --user) show --property=Version >/dev/null 2>&1; then echo "systemd yes"; fi
for python in ${1:-python3 python3.13 python3.12 python3.11 python3.10}; do
  if version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
    echo "python $version $(command -v "$python")"
    "$python" -c 'import venv, ensurepip' 2>/dev/null && echo "venv $version"
  fi
done
true
"""


@dataclass(frozen=True)
class Facts:
    """The facts of a board that matter for the installation. ``python`` is (version, path)."""

    machine: str
    glibc: tuple[int, int]
    root: bool
    hostname: str
    free_mb: int
    systemd: bool
    tegra: str
    model: str
    python: tuple[tuple[int, int], str]
    venv: bool

    @property
    def backend(self) -> str:
        """The backend for the board."""
        if self.tegra or "jetson" in self.model.lower():
            return "jetson"
        return "raspberry-pi" if "raspberry pi" in self.model.lower() else "agent"


def examine(remote: Remote, wanted: str | None) -> Facts:
    """Return the board's facts. ``wanted`` is the Python that the user chose.

    Raises:
        DeviceError: the agent cannot be installed there; the message says why, and what to do.
    """
    lines = [line.partition(" ") for line in remote.run(_EXAMINE, *([wanted] if wanted else [])).splitlines()]
    answers = {key: value.strip() for key, _, value in lines if key not in ("python", "venv")}
    pythons = [(_version(value.split()[0]), value.split()[1]) for key, _, value in lines if key == "python"]
    with_venv = {_version(value.strip()) for key, _, value in lines if key == "venv"}
    fitting = [python for python in pythons if OLDEST <= python[0] <= NEWEST] or [
        python for python in pythons if python[0] > NEWEST
    ]
    if not fitting:
        raise DeviceError(_no_python(remote.target, wanted, pythons, answers))
    chosen = next((python for python in fitting if python[0] in with_venv), fitting[0])
    facts = Facts(
        machine=answers.get("machine", ""),
        glibc=_version(answers.get("glibc", "")),
        root=answers.get("uid") == "0",
        hostname=answers.get("hostname", ""),
        free_mb=int(answers.get("free_mb") or 0),
        systemd=answers.get("systemd") == "yes",
        tegra=answers.get("tegra", ""),
        model=answers.get("model", ""),
        python=chosen,
        venv=chosen[0] in with_venv,
    )
    _check(remote.target, facts)
    return facts


def _check(target: str, facts: Facts) -> None:
    if facts.machine not in ("aarch64", "x86_64"):
        bits = " It runs a 32-bit system: install the 64-bit one." if facts.machine.startswith("arm") else ""
        raise DeviceError(f"{target}: no wheels of ONNX Runtime exist for {facts.machine or 'it'}.{bits}")
    if facts.glibc < (2, 27):
        raise DeviceError(
            f"{target}: its C library is glibc {facts.glibc[0]}.{facts.glibc[1]}, 2.27 is needed: a newer system"
        )
    if not facts.venv:
        version = f"{facts.python[0][0]}.{facts.python[0][1]}"
        raise DeviceError(
            f"{target}: {facts.python[1]} cannot make environments: sudo apt install python{version}-venv "
            "(or python3-venv) there"
        )
    if facts.free_mb < LEAST_FREE_MB:
        raise DeviceError(
            f"{target}: {facts.free_mb} MB are free on the disk of the home folder, but {LEAST_FREE_MB} MB are needed: make room"
        )


def _no_python(
    target: str, asked: str | None, pythons: list[tuple[tuple[int, int], str]], answers: Mapping[str, str]
) -> str:
    if asked and not pythons:
        return f"{target}: --python {asked}: not found there"
    have = f"Python there is {pythons[0][0][0]}.{pythons[0][0][1]}" if pythons else "there is no Python there"
    newer = "`uv python install 3.12` gets one without root; then --python PATH"
    if release := re.search(r"R(\d+)", answers.get("tegra", "")):
        jetpack = {"32": "JetPack 4", "35": "JetPack 5", "36": "JetPack 6"}.get(
            release[1], f"L4T {release[1]}"
        )
        return f"{target}: {have} ({jetpack}), 3.10 or newer is needed: {newer} (then CPU only, see docs/agent.md)"
    return f"{target}: {have}, 3.10 or newer is needed: {newer}"


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
