"""A meter's log (CSV) that another program writes during the workload: lines of time and power.

A suite gives the path, the columns and the way to read the log's clock. Only the lines of the window are read,
backwards from the end of the file.
"""

from __future__ import annotations

import contextlib
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, model_validator

from harness.types import MeterEntry, MeterInfo, Params, Scope, Unavailable
from harness_power.csv_lines import Layout, find_layout, moment, reading

__all__ = ["ENTRY", "CsvLog", "CsvParams", "describe", "open_log", "probe"]

BLOCK = 1 << 16
HEAD_LINES = 100
STALE_S = 60.0
SLEW = 500e-6  # the greatest relative rate at which a clock is slewed
KEEP = 3  # files of a log that rotates

Place = str | Annotated[int, Field(ge=0)]
Row = tuple[int, float]


class CsvParams(Params):
    """The path of the log, the meaning of its columns, and the properties of its clock and its meter."""

    path: str = Field(description="path of the log; if a host is named, the path is on that host")
    scope: Scope = Field(description="what the watts contain")
    period: float = Field(gt=0, description="seconds between two lines of the log")
    time: Place = Field("time", description="column of the time: name, or position from 0")
    watt: Place = Field("watt", description="column of the power: name, or position from 0")
    ampere: Place | None = Field(None, description="column of the current: with volt, in place of watt")
    volt: Place | None = Field(None, description="column of the voltage: with ampere, in place of watt")
    scale: float = Field(1.0, gt=0, description="watts in one unit of the power, like 0.001 for milliwatts")
    clock: Literal["unix", "iso", "month-day-year", "elapsed"] = Field(
        "unix",
        description="time since 1970, ISO 8601, MM-DD-YYYY HH:MM:SS (PTDaemon), or time since the log's own start",
    )
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="unit of the time, if it is a number")
    align: Literal["timestamps", "marker"] | None = Field(
        None,
        description="timestamps: the log's clock is right; marker: find the step of the workload in the log (default for elapsed)",
    )
    lag: float = Field(
        5.0, gt=0, le=20, description="greatest time in seconds from a reading to its line in the log"
    )
    averaging: float = Field(
        0.0, ge=0, description="time in seconds before a line over which its power is the mean"
    )
    calibration: float | None = Field(
        None, gt=0, lt=1, description="greatest relative error that the maker states"
    )
    watches: str = Field("board", min_length=1, description="the thing whose power the meter reads")
    host: str = Field("", description="machine with the log, as ssh names it; empty: this machine")

    @model_validator(mode="after")
    def _fits(self) -> CsvParams:
        if (self.ampere is None) != (self.volt is None):
            raise ValueError("ampere and volt go together")
        if self.ampere is not None and "watt" in self.model_fields_set:
            raise ValueError("give watt, or ampere and volt, not both")
        if self.clock == "elapsed" and self.align == "timestamps":
            raise ValueError(
                "align: timestamps needs a clock that tells the day: unix, iso or month-day-year"
            )
        if self.clock in ("iso", "month-day-year") and self.time_unit != "s":
            raise ValueError(f"time_unit has no effect: clock is {self.clock}")
        return self

    @property
    def power(self) -> tuple[Place, ...]:
        """The column of watts, or the columns of amperes and volts."""
        return (self.watt,) if self.ampere is None or self.volt is None else (self.ampere, self.volt)

    @property
    def by_marker(self) -> bool:
        """True if the clock offset is found by the power step of the workload, false if the log's times are trusted."""
        return (self.align or ("marker" if self.clock == "elapsed" else "timestamps")) == "marker"


def probe() -> Iterable[Unavailable]:
    """Return only a reason: a suite must name the log."""
    reason = "a log is read only if a suite names it"
    fix = "meters: [{csv: {path: ..., scope: ..., period: ...}}]"
    return (Unavailable(name="csv", reason=reason, fix=fix),)


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"path: {path}: the home folder that ~ stands for is unknown") from None


def describe(params: CsvParams) -> Iterable[MeterInfo | Unavailable]:
    """Return the log as a meter, or the reason why it cannot be used: unreadable, empty, stale, or a wrong clock.

    A log at another host is not opened here. Raises ``ValueError`` if a line of the log cannot be read.
    """
    name = f"csv:{Path(params.path).name}:{'*'.join(str(column) for column in params.power)}"
    path = Path(params.path) if params.host else _expanded(params.path).absolute()
    info = MeterInfo(
        name=name,
        scope=params.scope,
        watches=params.watches,
        provenance="measured",
        quantity="power",
        period_s=params.period,
        averaging_s=params.averaging,
        calibration=params.calibration,
        host=params.host,
        details=params.model_copy(update={"path": str(path)}).model_dump(mode="json", exclude_unset=True),
    )
    if params.host:
        return (info,)
    start = "start the program that writes it before the run"
    try:
        log = CsvLog(info)
    except OSError as error:
        fix = start if isinstance(error, FileNotFoundError) else "let this user read it"
        return (Unavailable(name=name, reason=f"cannot read {path}: {error.strerror}", fix=fix),)
    try:
        age = time.time() - path.stat().st_mtime
        last = log.last() if age <= STALE_S else None
    except OSError as error:
        raise ValueError(str(error)) from None
    finally:
        log.close()
    if age > STALE_S:
        return (Unavailable(name=name, reason=f"{path} was last written {age:.0f} s ago", fix=start),)
    if last is None:
        return (Unavailable(name=name, reason=f"{path} holds no reading yet", fix=start),)
    off = (time.time_ns() - last) / 1e9
    if not params.by_marker and not -max(params.period, 1.0) <= off <= STALE_S:
        fix = "set the clock, or write a time zone, or use align: marker"
        reason = f"the clock of {path} is {off:+.6g} s behind this machine's"
        return (Unavailable(name=name, reason=reason, fix=fix),)
    return (info,)


def open_log(info: MeterInfo, block: int = BLOCK) -> CsvLog:
    """Open the log. ``block`` is the number of bytes that are read at once. Raises ``OSError`` if it cannot be read."""
    return CsvLog(info, block)


class _NotYetError(OSError):
    """The log does not yet contain the requested readings, but it may contain them later."""


class CsvLog:
    """A :class:`~harness.types.Log` of watts.

    Its times are moved to the monotonic clock by the wall clock, or by the power step of the workload.
    """

    def __init__(self, info: MeterInfo, block: int = BLOCK) -> None:
        self._block = block
        self._choice = CsvParams(**info.details)
        self._averaging_s = info.averaging_s
        self._path = str(_expanded(self._choice.path))
        self._moment = moment(self._choice.clock, self._choice.time_unit)
        self._files: list[BinaryIO] = [_open(self._path)]
        self._wall = _wall_clock()
        self.clock_error_s = 0.0

    def close(self) -> None:
        """Close all files of the log."""
        for file in self._files:
            file.close()

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        """Return the readings of the window, with one reading before and one after it to interpolate both ends.

        Waits up to ``lag`` after the window for the last line. Raises ``OSError`` with the reason if there is no
        answer.
        """
        fetch = self._by_marker if self._choice.by_marker else self._by_timestamps
        deadline = end_ns + int((self._choice.lag + self._choice.period) * 1e9)
        if self._choice.by_marker:  # before that, another step could be mistaken for the workload's
            time.sleep(max(0, deadline - time.monotonic_ns()) / 1e9)
        while True:
            self._follow()
            try:
                return fetch(begin_ns, end_ns, load)
            except _NotYetError:
                if time.monotonic_ns() >= deadline:
                    raise
            time.sleep(min(max(self._choice.period / 2, 0.02), 0.2))

    def last(self) -> int | None:
        """Return the time of the last whole line, in nanoseconds of the log's clock."""
        return next((at for at, _ in self._backwards()), None)

    def _by_timestamps(self, begin_ns: int, end_ns: int, _: tuple[int, int]) -> list[Row]:
        """Return the readings of the window, moved by the offset between the wall clock and the monotonic clock."""
        now, offset = _wall_clock()
        then, before = self._wall
        self._wall = now, offset
        stepped = abs(offset - before) / 1e9
        if stepped > self._choice.period + SLEW * (now - then) / 1e9:
            raise self._error(f"the wall clock was set by {stepped:.3g} s: align: marker needs none")
        last = self._last()
        ahead = (last - offset - now) / 1e9
        if ahead > max(self._choice.period, 1.0):
            raise self._error(f"its clock is {ahead:.6g} s ahead of this machine's")
        short_s = (end_ns - (last - offset)) / 1e9
        if short_s > 0:
            text = f"ends {short_s:.3g} s before the window: is it still written, by the right clock?"
            raise _NotYetError(f"{self._path} {text}")
        rows = self._rows(begin_ns + offset)
        return self._window(rows, -offset, begin_ns, end_ns)

    def _by_marker(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> list[Row]:
        """Return the readings of the window, moved by the offset that the power step of the workload gives.

        The newest line is at most ``lag`` old, which limits the search for the offset.
        """
        from harness_power.align import align_step  # numpy is not loaded for planning

        choice, last, now = self._choice, self._last(), time.monotonic_ns()
        age = time.time() - os.fstat(self._files[-1].fileno()).st_mtime
        if age > choice.lag + choice.period:
            raise self._error(f"was last written {age:.3g} s ago, but lag allows {choice.lag:g} s")
        margin = int(4 * choice.period * 1e9)  # idle readings around the load, if the window has none
        window = min(begin_ns, load[0] - margin), max(end_ns, load[1] + margin)
        rows = self._rows(last - (now - window[0]) - margin)

        def seconds(ns: int) -> float:
            return (ns - begin_ns) / 1e9

        try:
            found = align_step(
                [(at - last) / 1e9 for at, _ in rows],
                [watts for _, watts in rows],
                (seconds(load[0]), seconds(load[1])),
                (seconds(window[0]), seconds(window[1])),
                (seconds(now) - choice.lag - choice.period, seconds(now) + choice.period),
                averaging=self._averaging_s,
            )
        except ValueError as error:
            raise self._error(f"does not tell when the load ran: {error}") from None
        self.clock_error_s = found.error_s
        return self._window(rows, begin_ns - last + round(found.offset_s * 1e9), begin_ns, end_ns)

    def _window(self, rows: Sequence[Row], shift: int, begin_ns: int, end_ns: int) -> list[Row]:
        """Shift the rows by ``shift`` nanoseconds and return those of the window, with one row before and after it."""
        moved = [(at + shift, watts * self._choice.scale) for at, watts in rows]
        late = (moved[0][0] - begin_ns) / 1e9
        if late > self._choice.period:
            raise self._error(f"begins {late:.3g} s after the window: was it truncated?")
        times = [at for at, _ in moved]
        return moved[max(bisect_right(times, begin_ns) - 1, 0) : bisect_left(times, end_ns) + 1]

    def _rows(self, since: int) -> list[Row]:
        """Return readings, oldest first, from the last line at or before ``since``, or from the first line."""
        rows: list[Row] = []
        for row in self._backwards():
            if rows and rows[-1][0] <= since:
                break  # one more line was read, to check the order
            rows.append(row)
        return rows[::-1]

    def _last(self) -> int:
        last = self.last()
        if last is None:
            raise _NotYetError(f"{self._path} holds no reading")
        return last

    def _backwards(self) -> Iterator[Row]:
        """Yield readings, newest first. Raises ``OSError`` for a line that cannot be read or is out of order."""
        newer: int | None = None
        for line in self._lines():
            if not line or line in self._layout.before or line.startswith("#"):
                continue
            try:
                at, watts = reading(line, self._layout, self._moment)
                if newer is not None and at >= newer:
                    other = "the same" if at == newer else "an earlier"
                    raise ValueError(f"a line after it has {other} time")
            except ValueError as error:
                raise self._error(f"has a line {line!r}: {error}") from None
            newer = at
            yield at, watts

    def _lines(self) -> Iterator[str]:
        """Yield whole lines, newest first, across the files of a log that rotates."""
        for file in reversed(self._files):
            end, rest = os.fstat(file.fileno()).st_size, b""
            newest = True
            while end > 0:
                begin = max(0, end - self._block)
                block = os.pread(file.fileno(), end - begin, begin) + rest
                lines = block.split(b"\n")
                rest = lines.pop(0) if begin else b""
                if newest and lines:
                    lines.pop()  # an unfinished line, or the empty text after the last line's end
                    newest = False
                for line in reversed(lines):
                    yield _text(line)
                end = begin

    @cached_property
    def _layout(self) -> Layout:
        heads = [
            os.pread(file.fileno(), self._block, 0).split(b"\n")[:-1][:HEAD_LINES] for file in self._files
        ]
        head = next(filter(None, heads))  # never empty, because a line was read
        try:
            return find_layout([_text(line) for line in head], self._choice.time, self._choice.power)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _follow(self) -> None:
        """Open the new file if the log was rotated. The old file stays open and readable."""
        with contextlib.suppress(FileNotFoundError):  # the old file is moved and the new one not yet made
            there, here = os.stat(self._path), os.fstat(self._files[-1].fileno())
            if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                self._files.append(_open(self._path))
                for file in self._files[:-KEEP]:
                    file.close()
                del self._files[:-KEEP]

    def _error(self, text: str) -> OSError:
        return OSError(f"{self._path}: {text}")


def _open(path: str) -> BinaryIO:
    return Path(path).open("rb")


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").lstrip("\ufeff").strip()


def _wall_clock() -> tuple[int, int]:
    """Return monotonic nanoseconds, and the difference of the wall clock to them.

    Of five pairs of readings, the pair that took the shortest time is used.
    """
    tries = []
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        tries.append((after - before, after, wall - (before + after) // 2))
    _, at, offset = min(tries)
    return at, offset


ENTRY = MeterEntry(
    name="csv",
    summary="a log from any meter, written by another program: time and watts",
    params=CsvParams,
    probe=probe,
    describe=describe,
    open=open_log,
)
