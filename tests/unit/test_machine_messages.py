"""Tests of the lines between a sampler and the process that reads: their content, and refused lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.machine.messages import (
    MeterLog,
    Now,
    Open,
    Opened,
    Request,
    Seen,
    Start,
    Started,
    State,
    States,
    Stop,
    Stopped,
    Time,
    line_of,
    read_answer,
    read_request,
)
from harness.machine.sampler import Sampler
from harness.types import MeterInfo, MeterUse, Monitor

INFO = MeterInfo(
    name="m",
    scope="board",
    watches="board",
    provenance="measured",
    quantity="energy",
    period_s=0.01,
    host="bench",
    details={"zone": 3},
)
USE = MeterUse(info=INFO, open="meters:open")


@pytest.mark.parametrize(
    ("request_", "content"),
    [
        (Now(), {"do": "now"}),
        (Start(), {"do": "start"}),
        (State(), {"do": "state"}),
        (Stop(1, 9, (2, 3)), {"do": "stop", "begin": 1, "end": 9, "load": [2, 3]}),
    ],
)
def test_a_request_is_the_line_that_earlier_versions_read(request_: Request[object], content: object) -> None:
    assert json.loads(line_of(request_)) == content
    assert read_request(line_of(request_)) == request_


def test_a_request_to_open_has_each_meter_whole() -> None:
    request = Open((USE,), {"linux": "state:watch"})
    line = line_of(request)
    assert read_request(line) == request
    assert json.loads(line)["meters"][0]["info"]["details"] == {"zone": 3}


@pytest.mark.parametrize(
    ("kind", "answer", "content"),
    [
        (Open, Opened({"m": "gone"}), {"errors": {"m": "gone"}}),
        (Now, Time(5), {"now": 5}),
        (Start, Started(), {}),
        (
            State,
            States([{"mhz": 5.0, "throttle": ["heat"]}]),
            {"states": [{"mhz": 5.0, "throttle": ["heat"]}]},
        ),
        (
            Stop,
            Stopped(
                {"m": MeterLog([1], [2.0], "cut", 0.5)}, [Seen(1, "linux", {"governor": "a"})], {"gpu": "no"}
            ),
            {
                "meters": {"m": {"ns": [1], "value": [2.0], "error": "cut", "clock_error_s": 0.5}},
                "states": [[1, "linux", {"governor": "a"}]],
                "failed": {"gpu": "no"},
            },
        ),
    ],
)
def test_an_answer_is_the_line_that_earlier_versions_write(
    kind: type[Request[object]], answer: object, content: object
) -> None:
    assert json.loads(line_of(answer)) == content
    assert read_answer(kind, line_of(answer)) == answer


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"do": "exec"}', '{"do": []}', '{"do": "stop", "begin": "x"}']
)
def test_a_line_that_is_no_request_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        read_request(line)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Now, "{}"),
        (Now, '{"now": "later"}'),
        (Stop, '{"meters": {"m": {"ns": [1], "value": []}}}'),
        (Stop, '{"meters": {"m": {"ns": ["x"], "value": [1]}}}'),
        (Stop, '{"meters": []}'),
        (Stop, '{"states": [[1, "linux"]]}'),
        (Open, '{"errors": {"m": 5}}'),
        (State, "nonsense"),
    ],
)
def test_a_line_that_is_no_answer_is_refused(kind: type[Request[object]], line: str) -> None:
    with pytest.raises(ValueError):
        read_answer(kind, line)


SSH = """#!{python}
import sys
for line in sys.stdin:
    print('{{"errors": {{}}, "now": 1, "meters": {{"m": {{"ns": [1, 2], "value": [1.0]}}}}}}', flush=True)
"""


def test_another_host_that_answers_nonsense_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.format(python=sys.executable))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    sampler = Sampler(Monitor(meters=(USE,)))
    try:
        sampler.start()
        (meter,) = sampler.stop(0, 9, (1, 2)).meters
    finally:
        sampler.close()
    assert list(meter.ns) == []
    assert meter.error == "the sampler at bench gave no answer to 'stop', but something else"
