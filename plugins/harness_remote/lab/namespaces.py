"""Make boards as network namespaces on a bridge, with iproute2, and probe which of that this machine allows.

Everything is built inside the supervisor's own namespaces, with a tmpfs on /run that only it sees. When its first
process ends in any way, the kernel removes everything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.errors import DeviceError
from harness_remote.lab.labfile import Lab

__all__ = ["SWITCH", "Ability", "Mode", "build", "enter", "in_namespace", "probe", "without"]

Mode = Literal["root", "user", "loopback"]
SWITCH = "10.77.0.1"
BURST = "4kb"
STEP_S = 20.0

_SCRIPT = """
mount -t tmpfs tmpfs /run && ip netns add probe || exit 1
ip link add switch type bridge && ip link add v0 type veth peer name eth0 netns probe || exit 1
ip link set v0 master switch up && ip link set v0 type bridge_slave isolated on || exit 1
nsenter --net=/run/netns/probe true || exit 1
echo netns
tc qdisc add dev v0 root tbf rate 16mbit burst 4kb latency 400ms && echo tbf
tc qdisc del dev v0 root; tc qdisc add dev v0 root netem delay 1ms && echo netem
"""
"""A script that tries the steps of :func:`build`, and prints the names of those that worked."""


@dataclass(frozen=True)
class Ability:
    """The abilities of this machine. ``missing`` has one line for each thing that it does not allow, with advice."""

    mode: Mode
    tools: frozenset[str] = frozenset()
    not_allowed: tuple[str, ...] = ()


def enter(mode: Mode) -> list[str]:
    """Return the command that runs another command in new namespaces. Killing it kills every process inside."""
    if mode == "loopback":
        return []
    user = ["--user", "--map-root-user"] if mode == "user" else []
    return ["unshare", *user, "--net", "--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc"]


def in_namespace(board: str, mode: Mode) -> list[str]:
    """Return the command that runs another command on a board."""
    return [] if mode == "loopback" else ["nsenter", f"--net=/run/netns/{board}"]


def probe() -> Ability:
    """Try to build a lab of one board, as root or in a user namespace. It takes about 50 ms."""
    absent = [tool for tool in ("unshare", "nsenter", "ip", "tc") if shutil.which(tool) is None]
    if absent:
        why = f"no {', '.join(absent)} here (util-linux, iproute2)"
        return Ability("loopback", not_allowed=(f"{why}: boards are addresses of this machine",))
    modes: tuple[Mode, ...] = ("root",) if os.geteuid() == 0 else ("user",)
    reason = ""
    for mode in modes:
        try:
            done = subprocess.run(
                [*enter(mode), "sh", "-c", _SCRIPT],
                capture_output=True,
                text=True,
                timeout=STEP_S,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            reason = f"no answer within {STEP_S:g} s"
            continue
        tools = frozenset(done.stdout.split())
        if "netns" in tools:
            return Ability(mode, tools)
        reason = (done.stderr.strip().splitlines() or ["refused"])[0]
    help_ = "run it as root" if os.geteuid() else "a container may need --privileged"
    return Ability(
        "loopback",
        not_allowed=(f"no network namespaces ({reason}; {help_}): boards are addresses of this machine",),
    )


def without(lab: Lab, able: Ability) -> str | None:
    """Return in one line which part of the lab this machine cannot do, or None if it can do everything."""
    if lab.link.shaping == "relay":
        return None
    if able.mode == "loopback":
        return (
            f"shaping: tc needs network namespaces, and there are {able.not_allowed[0]}; write shaping: relay"
        )
    if "tbf" not in able.tools:
        return "shaping: tc needs the kernel's tbf, which is not here; write shaping: relay"
    if lab.link.rtt and "netem" not in able.tools:
        return "rtt with shaping: tc needs the kernel's netem, which is not here; write shaping: relay, or rtt: 0s"
    return None


def build(lab: Lab) -> dict[str, str]:
    """Make the bridge and the boards, and return the address of each. Works only inside :func:`enter`.

    With ``shaping: relay``, boards reach only the bridge, and through it the relay, so that no byte bypasses the link
    model.
    """
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    _ip(
        (
            "link set lo up",
            "link add switch type bridge",
            f"addr add {SWITCH}/24 dev switch",
            "link set switch up",
        )
    )
    addresses = {board: f"10.77.0.{10 + index}" for index, board in enumerate(lab.boards)}
    isolated = "on" if lab.link.shaping == "relay" else "off"
    for index, (board, address) in enumerate(addresses.items()):
        _run("ip", "netns", "add", board)
        _ip(
            (
                f"link add port{index} type veth peer name eth0 netns {board}",
                f"link set port{index} master switch up",
                f"link set port{index} type bridge_slave isolated {isolated}",
            )
        )
        _ip(("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"), board)
        if lab.link.shaping == "tc":
            _shape(lab, f"port{index}", board)
    return addresses


def _shape(lab: Lab, port: str, board: str) -> None:
    """Limit a board's link with a token bucket in each direction, and delay a quarter of the round trip after it."""
    bucket = f"tbf rate {lab.link.rate:.0f}bit burst {BURST} latency 400ms"
    for inside, interface in ((["-n", board], "eth0"), ([], port)):
        _run("tc", *inside, *f"qdisc add dev {interface} root handle 1: {bucket}".split())
        if lab.link.rtt:  # a message passes two buckets
            delay = f"qdisc add dev {interface} parent 1:1 netem delay {lab.link.rtt * 1e6 / 4:.0f}us"
            _run("tc", *inside, *delay.split())


def _ip(lines: Sequence[str], board: str | None = None) -> None:
    _run("ip", *(("-n", board) if board else ()), "-batch", "-", text_in="\n".join(lines))


def _run(*command: str, text_in: str = "") -> None:
    try:
        done = subprocess.run(
            command, input=text_in, capture_output=True, text=True, timeout=STEP_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"lab: {' '.join(command)}: no answer within {STEP_S:g} s") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise DeviceError(f"lab: {' '.join(command)}: {reason}")
