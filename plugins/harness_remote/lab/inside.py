"""The first process inside a lab's namespaces. It builds the lab, starts relay and agents, and ends them.

It lives as long as its keeper holds the lifeline. If there are namespaces, no process in them outlives it.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from harness.errors import DeviceError, HarnessError, last_line
from harness.processes import bound
from harness_remote import PORT
from harness_remote.inventory.inventory import Board, EmulatedLink, Inventory
from harness_remote.lab import limits, relay, replay
from harness_remote.lab.labfile import WORKSTATION
from harness_remote.lab.namespaces import SWITCH, build, in_namespace
from harness_remote.lab.state import INVENTORY, Settings
from harness_remote.wire.secrets import CERTIFICATE, TOKEN

__all__ = ["main"]

READY_S = 60.0
TICK_S = 0.2
RESTART_S = 1.0


class Listening(NamedTuple):
    """The addresses of a board's agent: one for calls, and one for other boards' frames."""

    calls: tuple[str, int]
    frames: tuple[str, int]


@dataclass
class Running:
    """A board's agent, and the settings to start it again. ``group`` is its cgroup."""

    board: str
    command: list[str]
    cores: tuple[int, ...]
    group: Path | None
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = None
    restart_at: float = 0.0


@dataclass
class Inside:
    """A lab, from inside its namespaces.

    ``listeners`` has, for each board, the descriptor and the port of its sockets for calls and for frames. This host
    reaches the board through them.
    """

    settings: Settings
    listeners: Mapping[str, Sequence[tuple[int, int]]]
    agents: dict[str, Running] = field(default_factory=dict)
    relay: subprocess.Popen[str] | None = None
    notes: list[str] = field(default_factory=list)

    def build(self) -> None:
        """Build the lab and start its agents. Return when every board answers.

        Raises:
            DeviceError: a board does not answer.
        """
        lab, folder = self.settings.lab, self.settings.folder
        spaces = self.settings.mode != "loopback"
        hosts = build(lab) if spaces else dict.fromkeys(lab.boards, "127.0.0.1")
        every = sorted(os.sched_getaffinity(0))
        next_core = itertools.cycle(every)
        for board, host in hosts.items():
            cores = tuple(itertools.islice(next_core, min(lab.cores or len(every), len(every))))
            group = limits.group(lab.lab, board, int(lab.memory_mb * 1e6)) if lab.memory_mb else None
            if isinstance(group, str):
                self._note(group)
                group = None
            self._ready(board).unlink(missing_ok=True)
            command = [
                *in_namespace(board, self.settings.mode),
                *self.settings.serve,
                "--host",
                host,
                "--port",
                str(PORT if spaces else 0),
                "--folder",
                str(folder / "boards" / board),
                "--ready-file",
                str(self._ready(board)),
            ]
            if lab.replay == "solo":
                command += ["--wrapper", replay.WRAPPER]
            log = (folder / "boards" / board / "agent.log").open("ab")
            self.agents[board] = Running(board, command, cores, group, log)
            self._start(self.agents[board])
        end = time.monotonic() + READY_S
        self._inventory(self._relay({board: self._listening(board, end) for board in hosts}))

    def watch(self, lifeline: int) -> str:
        """Wait until the lifeline or the relay ends, and return which. Restart agents that end, as a service would."""
        while not select.select([lifeline], [], [], TICK_S)[0]:
            now = time.monotonic()
            for agent in self.agents.values():
                if agent.process is None:
                    if now >= agent.restart_at:
                        self._start(agent)
                elif (code := agent.process.poll()) is not None:
                    _say(f"the agent of {agent.board} ended ({code}); it is started again")
                    agent.process, agent.restart_at = None, now + RESTART_S
            if self.relay is not None and self.relay.poll() is not None:
                return f"the relay ended ({self.relay.returncode})"
            _reap(
                {agent.process.pid for agent in self.agents.values() if agent.process} | {self._relay_pid()}
            )
        return "taken down"

    def end(self) -> None:
        """End the agents and the relay, and remove the groups for memory limits."""
        children = [agent.process for agent in self.agents.values() if agent.process is not None]
        for child in children:
            child.terminate()
        if self.relay is not None:
            self.relay.kill()
            self.relay.wait()
        end = time.monotonic() + 2.0
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, end - time.monotonic()))
            child.kill()
            child.wait()
        if os.getpid() == 1:
            with suppress(OSError):
                os.kill(-1, signal.SIGKILL)  # processes that an agent left would keep its cgroup
            _reap(set())
        limits.sweep(self.settings.lab.lab)

    def _start(self, agent: Running) -> None:
        threads = str(self.settings.lab.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, threads)}
        if self.settings.lab.replay == "solo":
            env[replay.VARIABLE] = str(self.settings.folder / "replay.lock")

        def confine() -> None:
            os.sched_setaffinity(0, agent.cores)
            if agent.group is not None:
                limits.join(agent.group)

        agent.process = subprocess.Popen(
            bound(agent.command),
            stdin=subprocess.DEVNULL,
            stdout=agent.log,
            stderr=agent.log,
            env=env,
            preexec_fn=confine,  # noqa: PLW1509 - there are no threads here
        )

    def _ready(self, board: str) -> Path:
        return self.settings.folder / "boards" / board / "ready.json"

    def _listening(self, board: str, end: float) -> Listening:
        """Wait until a board's agent reports its addresses, and return them."""
        agent, log = self.agents[board], self.settings.folder / "boards" / board / "agent.log"
        while time.monotonic() < end:
            with suppress(OSError, ValueError, KeyError):
                ready = json.loads(self._ready(board).read_text())
                host, _, port = ready["address"].rpartition(":")
                frames_port = ready["frames"].rpartition(":")[2]
                agent.command[agent.command.index("--port") + 1] = port  # the same port after a restart
                agent.command += ["--frames-port", frames_port]
                return Listening((host, int(port)), (host, int(frames_port)))
            if agent.process is not None and agent.process.poll() is not None:
                raise DeviceError(
                    f"lab: the agent of {board} ended: {last_line(log.read_text(errors='replace'))}"
                )
            time.sleep(0.01)
        raise DeviceError(f"lab: the agent of {board} is not ready after {READY_S:g} s; see {log}")

    def _relay(self, listening: Mapping[str, Listening]) -> dict[str, dict[str, str]]:
        """Start the relay. Return board -> other board -> host:port at which the other board reaches the first."""
        lab = self.settings.lab
        routes = [
            relay.Route(fd, WORKSTATION, board, address)
            for board in lab.boards
            for (fd, _), address in zip(self.listeners[board], listening[board], strict=True)
        ]
        vias: dict[str, dict[str, str]] = {board: {} for board in lab.boards}
        opened: list[socket.socket] = []
        for source, target in itertools.permutations(lab.boards, 2):
            host, port = listening[target].frames
            if lab.link.shaping == "relay":
                listener = socket.create_server((SWITCH if self.settings.mode != "loopback" else host, 0))
                opened.append(listener)
                routes.append(relay.Route(listener.fileno(), source, target, listening[target].frames))
                host, port = listener.getsockname()
            vias[target][source] = f"{host}:{port}"
        # with tc, the kernel limits the boards' ports, and not the sockets of this host
        free = lab.link.shaping == "tc"
        model = relay.Model(
            None if free else lab.link.rate, 0.0 if free else lab.link.rtt, lab.link.ports == "shared"
        )
        self.relay = subprocess.Popen(
            bound([sys.executable, "-m", "harness_remote.lab.relay"]),
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=[route.fd for route in routes],
        )
        assert self.relay.stdin is not None
        with self.relay.stdin:
            self.relay.stdin.write(relay.config(model, routes))
        for listener in opened:
            listener.close()
        for pair in self.listeners.values():
            for fd, _ in pair:
                os.close(fd)
        return vias

    def _relay_pid(self) -> int:
        return self.relay.pid if self.relay is not None else 0

    def _inventory(self, vias: Mapping[str, Mapping[str, str]]) -> None:
        from ruamel.yaml import YAML

        lab = self.settings.lab
        link = EmulatedLink(rate_mbps=lab.link.rate / 1e6, rtt_ms=lab.link.rtt * 1e3, ports=lab.link.ports)
        boards = {
            name: Board(
                backend=lab.backend,
                host="127.0.0.1",
                emulated=True,
                link=link,
                labels=("lab",),
                port=self.listeners[name][0][1],
                frames_port=self.listeners[name][1][1],
                certificate=f"boards/{name}/{CERTIFICATE}",
                token=f"boards/{name}/{TOKEN}",
                memory_budget_mb=lab.memory_mb,
                via=vias[name],
            ).model_dump(mode="json", exclude_defaults=True)
            for name in lab.boards
        }
        path = self.settings.folder / INVENTORY
        with path.open("w") as file:
            YAML().dump(boards, file)
        Inventory.load(path)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def main() -> None:
    """Run the lab until its lifeline ends.

    The arguments are the settings, and the descriptors of listeners and pipes. The outcome goes to the report pipe as
    JSON.
    """
    settings, inherited = Settings.parse(sys.argv[1]), json.loads(sys.argv[2])
    for number in (signal.SIGTERM, signal.SIGINT):  # not SIG_IGN, because the agents would inherit it
        signal.signal(number, lambda *_: None)  # this process ends when the keeper's lifeline ends
    lab = Inside(settings, inherited["listeners"])
    report = inherited["report"]
    try:
        lab.build()
        _report(report, {"notes": lab.notes})
        _say(lab.watch(inherited["lifeline"]))
    except HarnessError as error:
        _say(str(error))
        _report(report, {"error": str(error)})
    finally:
        lab.end()


def _report(report: int, what: Mapping[str, object]) -> None:
    os.write(report, f"{json.dumps(what)}\n".encode())
    os.close(report)


def _reap(own: set[int]) -> None:
    """Reap processes that ended here without a parent, except the children ``own``."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
