"""Tests of boards that are detached while they measure, that are lost, and that are part of a fleet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import BoardLost
from harness.machine.energy.durations import longest_s
from harness.types import Answer, Artifact, DeviceInfo, Graph, GraphPart, TensorSpec, Unavailable
from harness.worker.frames import pack

pytest.importorskip("grpc")

from harness_remote.client.client import Client, Timeouts
from harness_remote.client.device import hold
from harness_remote.client.peer import open_peer
from harness_remote.client.transport import Reach
from harness_remote.wire import secrets
from remote_boards import (
    CLASSES,
    GRAPH,
    QUICK,
    Boards,
    described,
    onnx_file,
    opened,
    pictures,
    spec_of,
    until,
    weights,
)

pytest_plugins = ["remote_boards"]


def test_detached_nothing_is_sent_while_it_measures(lab: Boards, plugins: Any, artifact: Artifact) -> None:
    relay, seen, away_s, back = lab.relays["pi1"], [], [], threading.Event()
    results = lab.folder / "pi1" / "agent" / "session"

    def sleep(seconds: float) -> None:
        away_s.append(seconds)
        back.wait(60)

    spec = spec_of(plugins, detached=True)
    info = described(spec)
    assert isinstance(info, DeviceInfo)
    reach = Reach(board="pi1", credentials=lab.credentials("pi1"), via={})
    with hold(spec, info, reach, Timeouts(), detached=True, sleep=sleep) as device:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        load = replace(QUICK, stop=replace(QUICK.stop, min_time_s=2.0, max_time_s=6.0))
        measuring = threading.Thread(target=lambda: seen.append(device.measure(load, pictures())))
        measuring.start()
        assert until(lambda: not relay.open)  # it has left
        sent, begin = relay.sent, time.monotonic()
        assert until(lambda: relay.open or relay.sent != sent or list(results.glob("*.answer")))
        assert (relay.open, relay.sent) == (0, sent)
        back.set()
        measuring.join()
        assert away_s == [longest_s(load)]
        samples = seen[0]
        assert samples.here.problems == ()
        left = begin * 1e9 + device.clock().offset_ns
        assert samples.spans["load"][1] - left < longest_s(load) * 1e9
        assert device.infer(pictures(2), 1).shape == (2, CLASSES)  # connected again


@pytest.mark.clock
def test_a_board_that_falls_silent_is_lost(
    silent: Boards, plugins: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, follow, frozen = silent.relays["pi2"], Client.follow, []

    def freeze(self: Client) -> None:
        """While it measures: what came before may take long, and so may a renewal that is under way."""
        with self._renewing:
            self.timeouts = Timeouts(answer=0.5, lost=1.0, renew=0.2)
            relay.frozen = True
        frozen.append(time.monotonic())

    monkeypatch.setattr(
        Client, "follow", lambda self, command, job, s, _: follow(self, command, job, s, lambda: freeze(self))
    )
    spec = spec_of(plugins, "pi2")
    info = described(spec)
    assert isinstance(info, DeviceInfo)
    reach = Reach(board="pi2", credentials=silent.credentials("pi2"), via={})
    device = hold(spec, info, reach, Timeouts(renew=0.2))
    try:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        with pytest.raises(BoardLost, match=r"pi2 \(.*\) did not answer \w+ within 0.5 s") as caught:
            device.measure(
                replace(QUICK, stop=replace(QUICK.stop, min_time_s=20.0, max_time_s=20.0)), pictures()
            )
        assert time.monotonic() - frozen[0] < 4.0
        assert caught.value.board == "pi2"
    finally:
        relay.frozen = False
        begin = time.monotonic()
        device.close()
        assert time.monotonic() - begin < 5.0


@pytest.mark.clock
def test_a_board_that_is_killed_is_lost(lab: Boards, plugins: Any, artifact: Artifact) -> None:
    folder = lab.folder / "pi3"
    secrets.create(folder / "identity")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "harness",
            "agent",
            "serve",
            "--port",
            "0",
            "--folder",
            folder / "identity",
            "--ready-file",
            folder / "ready",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        assert until((folder / "ready").exists)
        lab.enter("pi3", int(json.loads((folder / "ready").read_text())["address"].rpartition(":")[2]))
        device = opened(plugins, spec_of(plugins, "pi3", lost_after=1.0))
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        threading.Timer(0.3, lambda: os.kill(process.pid, signal.SIGKILL)).start()
        begin = time.monotonic()
        with pytest.raises(BoardLost, match=r"pi3 \(.*\) does not answer: ") as caught:
            device.measure(
                replace(QUICK, stop=replace(QUICK.stop, min_time_s=20.0, max_time_s=20.0)), pictures()
            )
        assert time.monotonic() - begin < 6.0
        assert caught.value.board == "pi3"
        with pytest.raises(BoardLost):
            device.infer(pictures(1), 1)
        device.close()
    finally:
        process.kill()
        process.wait()
    found = described(spec_of(plugins, "pi3"))  # as it was when it was opened: nobody described it before
    assert isinstance(found, Unavailable)


# --- several boards ---


def two_parts(folder: Path) -> tuple[Artifact, Artifact]:
    front, back = onnx_file(folder / "front", 1, "front"), onnx_file(folder / "back", 2, "back", (CLASSES,))
    return front, back


def test_a_part_on_another_board(lab: Boards, plugins: Any, tmp_path: Path) -> None:
    front, back = two_parts(tmp_path)
    runtime = plugins.runtimes.get("onnxruntime").entry
    out = TensorSpec(shape=(CLASSES,))
    graph = Graph(
        parts=(
            GraphPart(name="front", inputs=("image",), output=out),
            GraphPart(name="back", inputs=("front",), output=out),
        )
    )
    with (
        opened(plugins, spec_of(plugins, "pi2")) as other,
        opened(plugins, spec_of(plugins, "pi1")) as central,
    ):
        other.load("front", front, runtime)
        central.load("back", back, runtime)
        address = other.serve(central)
        assert address.details["target"] == lab.agents["pi2"].frames_address
        central.connect(graph, {"front": address})
        got = central.infer(pictures(), 1)
        samples = central.measure(QUICK, pictures())
        assert set(samples.parts.timeline) >= {
            "compute:front",
            "transport:front",
            "queue:front",
            "compute:back",
        }
        assert samples.parts.links["rtt:front"] > 0
        other.close()  # its board is gone for the central one
        for ask in (lambda: central.infer(pictures(), 1), lambda: central.measure(QUICK, pictures())):
            with pytest.raises(BoardLost, match=r"pi2 does not answer any more|part front on pi2") as caught:
                ask()
            assert caught.value.board == "pi2"
    flat = pictures().reshape(len(pictures()), -1)
    np.testing.assert_allclose(got, flat @ weights(1) @ weights(2, CLASSES), rtol=1e-4)


def test_a_peer_that_goes_away_says_so(lab: Boards, plugins: Any, tmp_path: Path) -> None:
    front, _ = two_parts(tmp_path)
    answers: list[Answer] = []
    arrived = threading.Condition()

    def take(answer: Answer) -> None:
        with arrived:
            answers.append(answer)
            arrived.notify_all()

    def wait_for(n: int) -> None:
        with arrived:
            assert arrived.wait_for(lambda: len(answers) >= n, 10)

    with opened(plugins, spec_of(plugins, "pi2")) as other:
        other.load("front", front, plugins.runtimes.get("onnxruntime").entry)
        details = {**other.serve(other).details, "device": "pi2#0"}
        with pytest.raises(OSError, match="ticket"):
            open_peer({**details, "ticket": "wrong"}, take)
        peer = open_peer(details, take)
        peer.send(pack({"op": "run", "id": 5, "part": "front"}, [pictures(1)]))
        wait_for(1)
        assert (answers[0].peer, answers[0].query, answers[0].part) == ("pi2#0", 5, "front")
        np.testing.assert_allclose(answers[0].output, pictures(1).reshape(1, -1) @ weights(1), rtol=1e-4)
        peer.send(pack({"op": "run", "id": 6, "part": "no"}, [pictures(1)]))
        wait_for(2)
        assert "no part 'no'" in answers[1].error
        assert not answers[1].lost
    wait_for(3)  # the lease is given back, and with it the worker
    assert answers[2].lost
    with pytest.raises(OSError):
        peer.send(pack({"op": "echo", "id": 7}))
    peer.close()
