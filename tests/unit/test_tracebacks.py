"""Tests of failures: one line with stage and cause, and the traceback in a file that the line names."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import CellError, DeviceError, HarnessError, first_line
from harness.render.outcome import interruption
from harness.render.progress import LiveWatcher, PlainWatcher, QuietWatcher, watcher
from harness.results.folder import Results
from harness.run.tracebacks import Tracebacks, trace_of
from harness.types.data import DataChoice
from harness.types.plan import DataRef, Node


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def test_a_traceback_is_a_file_of_the_results_folder(tmp_path: Path) -> None:
    tracebacks = Tracebacks(tmp_path)
    name = tracebacks.keep("../ex port", "0123456789abcdef", "Traceback ...\nValueError: no\n")
    assert name == "tracebacks/export-0123456789ab.txt"
    assert (tmp_path / name).read_text() == "Traceback ...\nValueError: no\n"
    assert tracebacks.keep("export", "k", "") == ""
    assert Tracebacks(tmp_path / "missing").keep("export", "k", "Traceback") == ""


@pytest.mark.parametrize(
    ("fresh", "end"),
    [(False, "the same command continues from here"), (True, "command without --fresh continues from here")],
)
def test_a_stopped_run_names_the_command_that_keeps_its_records(
    fresh: bool, end: str, tmp_path: Path
) -> None:
    assert interruption("interrupted", [], 2, tmp_path, fresh=fresh).endswith(end)


def test_a_traceback_that_is_asked_for_is_shown(tmp_path: Path) -> None:
    shown: list[str] = []
    assert Tracebacks(tmp_path, shown.append).keep("export", "k", "Traceback ...\n") == ""
    assert shown == ["Traceback ..."]
    assert not list(tmp_path.iterdir())


def test_the_harness_s_own_messages_need_no_traceback() -> None:
    assert trace_of(raised(DeviceError("no board"))) == ""
    assert trace_of(raised(CellError("no", stage="measure"), raised(DeviceError("no board")))) == ""
    cause = raised(ValueError("a\x1b[2Jb"))
    trace = trace_of(raised(CellError("no", stage="measure"), raised(CellError("no", stage="x"), cause)))
    assert trace.startswith("Traceback")
    assert trace.rstrip().endswith("ValueError: a\\x1b[2Jb")


@pytest.mark.parametrize("make", [HarnessError, DeviceError])
def test_a_hostile_message_is_one_short_printable_line(make: type[HarnessError]) -> None:
    text = str(make("a\x1b]0;title\x07\r\nb\u2028c\u202e\x9b2Jd\x00" + "x" * 10**6))
    assert "\n" not in text
    assert text.isprintable()
    assert text.startswith("a\\x1b]0;title\\x07 b c\\u202e\\x9b2Jd\\x00xxx")
    assert len(text) < 10_000
    line = first_line(ValueError("\n\x1b[31m" + "y" * 10**6 + "\nsecond"), kind=True)
    assert line.isprintable()
    assert line.startswith("ValueError: \\x1b[31myyy")
    assert len(line) < 1_200


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "plain", "kind"),
    [
        ({"TERM": "xterm-256color"}, False, LiveWatcher),
        ({"TERM": "xterm-256color"}, True, PlainWatcher),
        ({"TERM": "dumb"}, False, PlainWatcher),
        ({"TERM": "unknown"}, False, PlainWatcher),
        ({}, False, PlainWatcher),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, PlainWatcher),
        ({"TERM": "xterm", "NO_COLOR": ""}, False, LiveWatcher),
    ],
)
def test_a_terminal_that_moves_no_cursor_gets_plain_lines(
    environment: dict[str, str], plain: bool, kind: type
) -> None:
    assert type(watcher(Screen(), quiet=False, plain=plain, environment=environment)) is kind
    assert type(watcher(io.StringIO(), quiet=False, plain=plain, environment=environment)) is PlainWatcher
    assert type(watcher(Screen(), quiet=True, plain=plain, environment=environment)) is QuietWatcher


def test_plain_lines_say_at_times_how_far_a_long_step_is() -> None:
    now = [0.0]
    said = io.StringIO()
    plain = PlainWatcher(said, every_s=60, clock=lambda: now[0])
    node = Node(
        key="k",
        stage="data",
        label="data digits",
        entry="digits",
        plugin="data",
        inputs=(),
        task=DataRef(entry="digits", params={}, choice=DataChoice(name="digits")),
    )
    plain.node_started(node)
    for now[0], text in ((1, "one"), (59, "two"), (61, "three"), (62, "four"), (121, "five")):
        plain.node_progress(node, text, 0.25 if text == "three" else None)
    assert said.getvalue() == (
        "preparing data      digits           data digits  three, 25% done\n"
        "preparing data      digits           data digits  five\n"
    )


PLUGIN = """
import os
import time
from harness.hookspecs import hookimpl
from harness.types import ModelEntry, Params


class Broken(Params):
    waits: bool = False


def build(ctx, params):
    if params.waits:
        open(os.environ["STARTED"], "w").close()
        time.sleep(600)
    raise ValueError("no \\x1b[2Jlayer\\nsecond line")


@hookimpl
def harness_models():
    yield ModelEntry(name="broken", summary="fails \\x1b[31m", params=Broken, build=build)
"""

SUITE = """\
suite: mine
data: {name: synthetic, num_classes: 6, size: 8, channels: 1, train: 60, test: 12}
defaults: {train: {epochs: 0}}
methods: {bad: {build: broken}}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a folder with a suite of a plugin whose builder fails, or waits."""
    (tmp_path / "mine.yaml").write_text(SUITE)
    site, info = tmp_path / "site", tmp_path / "site" / "my_broken-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "my_broken.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-broken\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[harness]\nbroken = my_broken\n")
    files = ("my_broken.py", *(f"{info.name}/{name}" for name in ("METADATA", "entry_points.txt", "RECORD")))
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "HARNESS_CACHE": str(tmp_path / "cache"), "STARTED": str(tmp_path / "started")}

    def start(*words: str) -> subprocess.Popen[str]:
        code = (
            "import os, signal, sys\n"
            "for number in (signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'harness', *sys.argv[1:]])"
        )  # a process in the background ignores some signals
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env={**os.environ, **own},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def test_a_failure_is_one_line_that_names_the_file(
    harness: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = harness("run", "mine.yaml", "--out", "out")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    (file,) = (tmp_path / "out" / "tracebacks").iterdir()
    place = f"tracebacks/{file.name}"
    (line,) = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert f"(plugin broken): ValueError: no \\x1b[2Jlayer (traceback: {place})" in line
    reason = "build in plugin broken: ValueError: no \\x1b[2Jlayer"
    assert err == f"failed: bad (seed 0): {reason} (traceback: out/{place})\n"
    text = file.read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("ValueError: no \\x1b[2Jlayer\nsecond line\n")
    (record,) = Results(tmp_path / "out").latest()
    assert record.traceback == place

    process = harness("run", "mine.yaml", "--out", "quiet", "-q", "--traceback")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.startswith("synthetic")  # the leaderboard alone
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1] == f"failed: bad (seed 0): {reason}"
    assert not (tmp_path / "quiet" / "tracebacks").exists()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP: the terminal was closed"),
        (signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_is_one_line_that_says_what_is_kept(
    number: signal.Signals, reason: str, harness: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = harness(
        "run", "mine.yaml", "--out", "out", "--set", "methods.bad.build={broken: {waits: true}}"
    )
    end = time.monotonic() + 120
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == (
        f"{reason}: 0 of 1 cells are measured and kept in out, prepared models and checkpoints in the cache; "
        "the same command continues from here\n"
    )
    assert Results(tmp_path / "out").validate() == []
