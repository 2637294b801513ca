"""Tests of boards of the inventory in planning, and of the commands that change the inventory."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.errors import BoardLost
from harness.types import DeviceInfo, Unavailable

pytest.importorskip("grpc")

from harness_remote.inventory import boards
from harness_remote.inventory.inventory import Inventory
from remote_boards import PATIENT, Boards, Relay, described, opened, spec_of

pytest_plugins = ["remote_boards"]


def test_a_board_that_is_away_is_planned_as_it_was(
    own: Boards, plugins: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(plugins)
    there = described(spec)
    assert isinstance(there, DeviceInfo)
    assert there.machine_id
    own.relays["pi1"].close()
    assert not caplog.records
    assert described(spec) == there
    assert "pi1 (127.0.0.1" in caplog.text
    assert "planned as it was on" in caplog.text
    with pytest.raises(BoardLost, match=r"pi1 .* does not answer"):
        opened(plugins, spec)


def test_backends_are_for_their_boards(
    lab: Boards, plugins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"devices.yaml:2: pi1.backend: agent, and the suite says raspberry-pi"
    ):
        described(spec_of(plugins, backend="raspberry-pi"))
    with pytest.raises(ValueError, match=r"no board 'board7' in .*; allowed: pi1, pi2(, pi3)?"):
        described(spec_of(plugins, "board7"))
    answer = boards.ask_board("pi1", lab.credentials("pi1"), patience=PATIENT)
    cpu_only = {**answer.onnxruntime, "providers": ["CPUExecutionProvider"]}
    without_gpu = replace(answer, onnxruntime=cpu_only)
    with pytest.raises(ValueError, match=r"device: tensorrt: its ONNX Runtime .* has CPU"):
        boards.info_of("pi1", "agent", Inventory.load().boards["pi1"], without_gpu, "tensorrt")
    pi = Inventory.load().boards["pi1"].model_copy(update={"backend": "raspberry-pi"})
    with pytest.raises(ValueError, match=r"pi1 is .*: backend: raspberry-pi is for others; write agent"):
        boards.info_of("pi1", "raspberry-pi", pi, without_gpu)
    emulated = boards.info_of("pi1", "raspberry-pi", pi.model_copy(update={"emulated": True}), without_gpu)
    assert emulated.emulated
    real = boards.info_of(
        "pi1", "raspberry-pi", pi, replace(without_gpu, model="Raspberry Pi 4 Model B Rev 1.4")
    )
    assert (real.model, real.emulated) == ("Raspberry Pi 4 Model B Rev 1.4", False)


def test_meters_of_the_inventory_are_those_that_answer(
    own: Boards, tmp_path: Path, plugins: Any, caplog: pytest.LogCaptureFixture
) -> None:
    entry = own.path.read_text()
    own.path.write_text(
        f"{entry}  meters: [{{csv: {{path: {tmp_path}/log.csv, scope: board, period: 0.1}}}}]\n"
    )
    (tmp_path / "log.csv").write_text(f"time,watt\n{time.time()},1\n")
    info = described(spec_of(plugins))
    assert isinstance(info, DeviceInfo)
    (use,) = info.external
    assert use.info.scope == "board"
    assert use.open.startswith("harness_power.")
    (tmp_path / "log.csv").unlink()
    info = described(spec_of(plugins))
    assert isinstance(info, DeviceInfo)
    assert info.external == ()
    assert "is not read" in caplog.text
    own.path.write_text(f"{entry}  meters: [cvs]\n")
    with pytest.raises(
        ValueError, match=r"devices.yaml:7: pi1.meters.0: unknown meter 'cvs': did you mean 'csv'"
    ):
        described(spec_of(plugins))
    own.relays["pi1"].close()


def test_all_boards_are_probed(lab: Boards) -> None:
    found = {board.name: board for board in boards.probe("agent", PATIENT)}
    assert isinstance(found["pi1"], DeviceInfo)
    assert [board.reason for board in boards.probe("jetson", PATIENT) if isinstance(board, Unavailable)]


# --- commands ---


def test_add_check_and_remove(lab: Boards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_remote.cli.devices import add, check, remove

    monkeypatch.setenv("HARNESS_DEVICES", str(tmp_path / "devices.yaml"))
    run = CliRunner().invoke
    identity = lab.folder / "pi1" / "identity"
    secrets_of = ["--certificate", str(identity / "certificate.pem"), "--token", str(identity / "token")]
    port = str(lab.relays["pi1"].port)
    done = run(add, ["desk", "--host", "127.0.0.1", "--port", port, *secrets_of, "--label", "mine"])
    assert done.exit_code == 0, done.exception
    assert done.output.startswith("desk: agent, in ")
    done = run(check, ["--json"])
    assert done.exit_code == 0, done.output
    (checked,) = json.loads(done.output)
    assert checked["usable"]
    assert checked["link"]["rtt_ms"] > 0
    assert checked["clock"]["error_ms"] > 0
    assert checked["onnxruntime"]["version"]
    assert checked["frames"] == ""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        path = tmp_path / "devices.yaml"
        path.write_text(f"{path.read_text()}  frames_port: {closed.getsockname()[1]}\n")
    done = run(check)
    assert done.exit_code == 0, done.output  # alone it can be measured
    assert "no fleet whose central device is this machine can have it: 127.0.0.1:" in done.output
    assert "refused" in done.output
    lab.relays["gone"] = Relay(1)
    dead = str(lab.relays["gone"].port)
    assert run(add, ["dead", "--host", "127.0.0.1", "--port", dead, "--backend", "agent"]).exit_code == 0
    done = run(check, ["dead"])
    assert done.exit_code == 1
    assert "dead (127.0.0.1:" in done.output
    assert "not usable" in done.output
    assert run(remove, ["dead"]).exit_code == 0
    assert list(Inventory.load().boards) == ["desk"]
