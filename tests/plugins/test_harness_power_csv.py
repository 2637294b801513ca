"""Tests of logs from any meter: columns, clocks, faults in a line, and the window that is read."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.types import MeterInfo, Unavailable
from harness_power.csv_lines import find_layout, moment, reading
from harness_power.csv_log import BLOCK, ENTRY, CsvLog, CsvParams, describe, open_log

PERIOD = 0.01


class StandingClock:
    """It passes for who sleeps only: a stall between two lines of a test makes no log too old."""

    def __init__(self):
        self._ns = time.monotonic_ns()
        self._ahead = time.time_ns() - self._ns

    def monotonic_ns(self):
        return self._ns

    def monotonic(self):
        return self._ns / 1e9

    def time_ns(self):
        return self._ns + self._ahead

    def time(self):
        return self.time_ns() / 1e9

    def sleep(self, seconds):
        self._ns += round(seconds * 1e9)


@pytest.fixture(autouse=True)
def _one_clock_here_and_there(monkeypatch):
    clock = StandingClock()
    monkeypatch.setattr("harness_power.csv_log.time", clock)
    monkeypatch.setitem(globals(), "time", clock)


def params(path, **more):
    return CsvParams(**{"path": str(path), "scope": "board", "period": PERIOD, "lag": 0.3} | more)


def opened(path, block=BLOCK, **more) -> CsvLog:
    """Open the log as the sampler does, after the meter's description has been converted to JSON and back."""
    (info,) = describe(params(path, host="elsewhere", **more))
    return open_log(MeterInfo(**json.loads(json.dumps(asdict(info)))), block)


def lines(seconds, watts, header="time,watt"):
    return (
        "\n".join([header, *(f"{at:.9f},{watt:.6f}" for at, watt in zip(seconds, watts, strict=True))]) + "\n"
    )


def past(count, *, period=PERIOD, ago=0.0):
    """Unix seconds of lines whose last is ``ago`` seconds old."""
    return time.time() - ago + (np.arange(count) - count + 1) * period


def window(begin_ago, end_ago):
    now = time.monotonic_ns()
    return int(now - begin_ago * 1e9), int(now - end_ago * 1e9)


def fetched(log, begin_ago, end_ago):
    begin, end = window(begin_ago, end_ago)
    return begin, end, log.fetch(begin, end, (begin, end))


# --- what a line holds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "time_", "power", "expected"),
    [
        (["time,watt", "1.5,2.25"], "time", ["watt"], (1_500_000_000, 2.25)),
        (["Time;Power (W)", "1,5;2,25"], "time", ["power (w)"], (1_500_000_000, 2.25)),
        (['"watt"\t"time"', "2,25\t1.5"], "time", ["watt"], (1_500_000_000, 2.25)),
        (["1.5,7,2.25"], 0, [2], (1_500_000_000, 2.25)),
        (["meter 7", "", "1.5,2.25"], 0, [1], (1_500_000_000, 2.25)),
        (
            ["# from a meter", "# time,volt,ampere", "1.5,9,0.25"],
            "time",
            ["ampere", "volt"],
            (1_500_000_000, 2.25),
        ),
    ],
)
def test_columns(head, time_, power, expected):
    layout = find_layout(head, time_, power)
    assert head[-1] not in layout.before
    assert reading(head[-1], layout, moment("unix", "s")) == expected


@pytest.mark.parametrize(
    ("head", "time_", "power", "said"),
    [
        (["time,power", "1,2"], "time", ["powr"], "did you mean 'power'?"),
        (["1,2"], "time", ["watt"], "no header"),
        (["1,2"], 0, [4], "columns 0 to 1"),
    ],
)
def test_missing_columns_are_named(head, time_, power, said):
    with pytest.raises(ValueError, match="no ") as caught:
        find_layout(head, time_, power)
    assert said in str(caught.value)


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)),
    st.integers(-12 * 60, 14 * 60),
    st.sampled_from("T "),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_iso_times(day, zone, mark, colon):
    at = day.replace(tzinfo=timezone(timedelta(minutes=zone)))
    text = at.isoformat(mark)
    if not colon:
        text = text[:-3] + text[-2:]
    since = at - datetime(1970, 1, 1, tzinfo=timezone.utc)
    expected = (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
    assert moment("iso", "s")(text) == expected


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.sampled_from("-/"))
def test_month_first_times(at, mark):
    text = at.strftime(f"%m{mark}%d{mark}%Y %H:%M:%S.%f")[:-3]
    expected = moment("iso", "s")(at.isoformat(timespec="milliseconds"))
    assert moment("month-day-year", "s")(text) == expected


@pytest.mark.parametrize(
    "text", ["2023-01-10 13:35:07", "13-01-2023 13:35:07", "01-10-2023", "1-10-2023 13:35:07"]
)
def test_no_month_first_time(text):
    with pytest.raises(ValueError, match=r"time|month"):
        moment("month-day-year", "s")(text)


def test_a_log_of_ptdaemon(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(
        "".join(
            f"Time,{datetime.fromtimestamp(at):%m-%d-%Y %H:%M:%S.%f},Watts,16.9,Volts,230.1,Amps,0.1,PF,0.9\n"
            for at in past(1000)
        )
    )
    begin, end, samples = fetched(opened(path, clock="month-day-year", time=1, watt=3), 8.0, 4.0)
    assert [watts for _, watts in samples] == [16.9] * len(samples)
    assert samples[0][0] <= begin < end <= samples[-1][0]


def test_iso_zones_and_fractions():
    ns = moment("iso", "s")
    assert ns("1970-01-01T00:00:01Z") == 10**9
    assert ns("1970-01-01 00:00:01,5+0000") == 1_500_000_000
    assert ns("1970-01-01T01:00:00.123456789123+01:00") == 123_456_789
    assert ns("2026-03-01 12:00:00") == round(datetime(2026, 3, 1, 12).timestamp()) * 10**9
    with pytest.raises(ValueError, match="not an ISO 8601 time"):
        ns("1763725000.5")


@pytest.mark.parametrize(
    ("unit", "text"), [("s", "1.5"), ("ms", "1500"), ("us", "1.5e6"), ("ns", "1500000000")]
)
def test_units_of_time(unit, text):
    assert moment("unix", unit)(text) == 1_500_000_000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ampere": "i"}, "ampere and volt go together"),
        ({"ampere": "i", "volt": "u", "watt": "p"}, "not both"),
        ({"clock": "elapsed", "align": "timestamps"}, "needs a clock"),
        ({"clock": "iso", "time_unit": "ms"}, "no effect"),
        ({"period": 0}, "greater than 0"),
        ({"watt": -1}, "greater than or equal to 0"),
        ({"scope": "house"}, "wall"),
    ],
)
def test_wrong_parameters_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        params("x", **wrong)


# --- the window ------------------------------------------------------------------------------------


def test_the_window_and_one_line_to_either_side(tmp_path):
    path = tmp_path / "log.csv"
    seconds = past(1000)
    path.write_text(lines(seconds, np.arange(1000.0)))
    log = opened(path)
    begin, end, samples = fetched(log, 8.0, 4.0)
    at = [ns for ns, _ in samples]
    assert at[0] <= begin < at[1]
    assert at[-2] < end <= at[-1]
    wall = np.array(at) + time.time_ns() - time.monotonic_ns()
    expected = [seconds[int(watts)] for _, watts in samples]
    assert np.abs(wall / 1e9 - expected).max() < 1e-3
    log.close()


def test_amperes_times_volts_and_a_scale(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("\n".join(f"{at:.6f};1500,0;5,1" for at in past(1000)) + "\n")
    log = opened(path, time=0, ampere=1, volt=2, scale=0.001)
    watts = [watts for _, watts in fetched(log, 8.0, 4.0)[2]]
    assert watts == pytest.approx([7.65] * len(watts))
    log.close()


def test_iso_log_without_zone_is_of_this_machine(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "time,watt\n" + "".join(f"{datetime.fromtimestamp(at).isoformat()},3\n" for at in past(1000))
    )
    begin, end, samples = fetched(opened(path, clock="iso"), 8.0, 4.0)
    assert samples[0][0] <= begin
    assert samples[-1][0] >= end


def test_waits_for_the_last_line_and_takes_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    seconds = past(400, ago=-0.9)  # the last lines are still to come
    whole, rest = (
        part.tobytes()
        for part in np.split(np.frombuffer(lines(seconds, np.full(400, 3.0)).encode(), "u1"), [3000])
    )
    path.write_bytes(whole)

    def later(_):
        with path.open("ab") as file:
            file.write(rest[:-4])  # half a line at the end

    log = opened(path, lag=10)
    monkeypatch.setattr(time, "sleep", later)
    begin = time.monotonic_ns() - 5 * 10**8
    end = time.monotonic_ns() + int(0.15e9)
    samples = log.fetch(begin, end, (begin, end))
    assert samples[-1][0] >= end
    assert {watts for _, watts in samples} == {3.0}


def test_a_log_that_stops_is_an_error(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(100, ago=1.0), np.ones(100)))
    log = opened(path, lag=0.1)
    with pytest.raises(OSError, match=r"ends [\d.]+ s before the window.*still written"):
        fetched(log, 1.5, 0.2)


def test_a_log_that_begins_too_late_is_an_error(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(100), np.ones(100)))
    with pytest.raises(OSError, match=r"begins .* s after the window"):
        fetched(opened(path), 30.0, 5.0)


def test_a_clock_that_is_ahead_is_an_error(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(1000, ago=-3600, period=5.0), np.ones(1000)))
    with pytest.raises(OSError, match=r"3[56]\d\d\S* s ahead"):
        fetched(opened(path), 8.0, 4.0)


def test_a_wall_clock_that_is_set_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(1000), np.ones(1000)))
    log = opened(path)
    true = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true() + 500_000_000)
    with pytest.raises(OSError, match=r"wall clock was set by 0\.5 s"):
        fetched(log, 8.0, 4.0)


@pytest.mark.parametrize(
    ("at", "line", "said"),
    [
        (400, "{same:.9f},3", "has the same time"),
        (400, "{earlier:.9f},3", "has an earlier time|has the same time"),
        (400, "{here:.9f},nan", "'nan' is not a number"),
        (400, "{here:.9f},-", "'-' is not a number"),
        (400, "{here:.9f}", "1 columns only"),
        (400, "yesterday,3", "'yesterday' is not a number"),
    ],
)
def test_a_line_that_cannot_be_is_named(tmp_path, at, line, said):
    path = tmp_path / "log.csv"
    seconds = past(1000)
    text = lines(seconds, np.ones(1000)).splitlines()
    bad = line.format(same=seconds[at - 1], earlier=seconds[at - 2], here=seconds[at - 1] + 0.001)
    path.write_text("\n".join([*text[: at + 1], bad, *text[at + 1 :]]) + "\n")
    with pytest.raises(OSError, match=said) as caught:
        fetched(opened(path), 8.0, 1.0)
    assert "log.csv: has a line '" in str(caught.value)


def test_a_bad_line_outside_the_window_does_no_harm(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("time,watt\ngarbage\n" + lines(past(1000), np.ones(1000), header=""))
    assert len(fetched(opened(path), 8.0, 4.0)[2]) > 390


def test_a_repeated_header_is_no_data(tmp_path):
    path = tmp_path / "log.csv"
    text = lines(past(1000), np.ones(1000)).splitlines()
    path.write_text("\n".join([*text[:400], "time,watt", "", "# restarted", *text[400:]]) + "\n")
    assert len(fetched(opened(path), 8.0, 1.0)[2]) > 690


def test_only_the_end_of_a_large_file_is_read(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text("time,watt\n" + "1,2\n" * 4_000_000 + lines(past(1000), np.ones(1000), header=""))
    log = opened(path)
    read = []
    true = os.pread

    def counted(file, size, offset):
        read.append(size)
        return true(file, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    samples = fetched(log, 8.0, 4.0)[2]
    assert len(samples) > 390
    assert sum(read) < path.stat().st_size / 20


@pytest.mark.parametrize(("count", "block"), [(10_000, 64), (9_999, 64), (9_998, 16)])
def test_blocks_lose_no_line(tmp_path, count, block):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(count), np.arange(float(count))))
    samples = fetched(opened(path, block), 60.0, 2.0)[2]
    assert np.all(np.diff([watts for _, watts in samples]) == 1)
    assert len(samples) > 5700


def test_a_log_that_rotates(tmp_path):
    path = tmp_path / "log.csv"
    seconds = past(1000)
    path.write_text(lines(seconds[:400], np.arange(400.0)))
    log = opened(path)
    path.rename(tmp_path / "log.csv.1")
    path.write_text(lines(seconds[400:], np.arange(400.0, 1000.0)))
    samples = fetched(log, 8.0, 1.0)[2]
    assert np.all(np.diff([watts for _, watts in samples]) == 1)
    assert len(samples) > 690


def test_a_log_that_was_just_rotated_and_is_still_empty(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(1000), np.ones(1000)))
    log = opened(path)
    path.rename(tmp_path / "log.csv.1")
    path.touch()
    assert len(fetched(log, 8.0, 1.0)[2]) > 690


# --- by the load's step ---------------------------------------------------------------------------


@pytest.mark.parametrize(("clock", "origin"), [("elapsed", 7.0), ("unix", 1e9)])
def test_by_the_loads_step(tmp_path, clock, origin):
    """The log's clock has another origin, and its last line was measured half a second ago."""
    path = tmp_path / "log.csv"
    now = time.monotonic()
    load = now - 6.5, now - 5.5
    seconds = np.arange(now - 12, now - 0.5, PERIOD)
    busy = (seconds >= load[0]) & (seconds < load[1])
    watts = 3 + 6 * busy + np.random.default_rng(0).normal(0, 0.2, len(seconds))
    path.write_text(lines(seconds - now + 12 + origin, watts))
    log = opened(path, clock=clock, align="marker", lag=4)
    begin, end, up, down = (round(at * 1e9) for at in (now - 7.5, now - 4.5, *load))
    samples = log.fetch(begin, end, (up, down))
    lit = [ns / 1e9 for ns, value in samples if value > 6]
    assert 0 < log.clock_error_s <= 3 * PERIOD
    assert lit[0] == pytest.approx(load[0], abs=2 * PERIOD)
    assert lit[-1] == pytest.approx(load[1], abs=2 * PERIOD)
    assert samples[0][0] <= begin < samples[1][0]
    assert samples[-2][0] < end <= samples[-1][0]


def test_no_step_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(np.arange(1500) * PERIOD, np.full(1500, 3.0)))
    log = opened(path, clock="elapsed", lag=4)
    begin, end = window(7.5, 4.5)
    with pytest.raises(OSError, match="does not tell when the load ran: no rise and fall"):
        log.fetch(begin, end, (begin + 10**9, end - 10**9))


def test_it_waits_before_it_looks_for_the_step(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(np.arange(1500) * PERIOD, np.full(1500, 3.0)))
    log = opened(path, clock="elapsed", lag=0.3)
    begin, end = window(2.0, -0.1)
    with pytest.raises(OSError, match=r"does not tell|last written"):
        log.fetch(begin, end, (begin + 10**9, end - 10**8))
    assert time.monotonic_ns() >= end + 3 * 10**8


def test_a_log_of_unknown_clock_that_stopped_is_an_error(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(np.arange(400) * PERIOD, np.full(400, 3.0)))
    os.utime(path, (time.time() - 5, time.time() - 5))
    with pytest.raises(OSError, match="last written 5"):
        fetched(opened(path, clock="elapsed", lag=0.4), 2.5, 0.6)


# --- what is said of it ---------------------------------------------------------------------------


def test_it_is_described_as_a_meter(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(lines(past(10), np.ones(10)))
    (info,) = describe(params(path, scope="wall", calibration=0.01, averaging=0.5, watches="pi1"))
    assert (info.name, info.scope, info.watches) == ("csv:log.csv:watt", "wall", "pi1")
    assert (info.quantity, info.provenance, info.period_s) == ("power", "measured", PERIOD)
    assert (info.averaging_s, info.calibration, info.host) == (0.5, 0.01, "")


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        (None, {}, "No such file"),
        ("", {}, "holds no reading yet"),
        ("time,watt\n", {}, "holds no reading yet"),
        ("old", {}, "last written 3600 s ago"),
        ("1000.0", {}, "behind this machine's"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(tmp_path, text, more, reason):
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(
            {"old": lines(past(9), np.ones(9)), "1000.0": "time,watt\n1000.0,3\n"}.get(text, text)
        )
    if text == "old":
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    (said,) = describe(params(path, **more))
    assert isinstance(said, Unavailable)
    assert reason in said.reason
    assert said.fix


def test_wrong_columns_are_refused_when_it_is_planned(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("time,power\n1,2\n")
    with pytest.raises(ValueError, match=r"no column 'watt'.*power"):
        describe(params(path))


def test_at_another_host_it_is_taken_as_the_suite_says():
    (info,) = describe(params("meter.csv", host="pi@bench"))
    assert (info.host, info.details["path"]) == ("pi@bench", "meter.csv")


def test_it_is_there_only_when_named():
    (said,) = ENTRY.probe()
    assert "names it" in said.reason
