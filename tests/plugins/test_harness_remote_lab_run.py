"""Tests of `harness run` in a child process on a lab's boards: its inventory, exit code and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness_remote.lab.run import run_suite


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_exit_code_is_the_childs(code: int) -> None:
    assert run_suite([], Path("x"), child(f"raise SystemExit({code})")) == code


def test_a_child_ended_by_a_signal_gives_128_and_its_number() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_suite([], Path("x"), child(code)) == 137


def test_the_child_gets_arguments_and_the_labs_inventory(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).write_text(' '.join([os.environ['HARNESS_DEVICES'], *sys.argv[2:]]))"
    )
    assert run_suite([str(tmp_path / "seen"), "-q"], Path("/lab/devices.yaml"), child(code)) == 0
    assert (tmp_path / "seen").read_text() == "/lab/devices.yaml -q"


RUN = """
import signal, sys
from pathlib import Path
from harness_remote.lab.run import run_suite
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
code = (
    "import signal, sys, time\\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\\n"
    "try:\\n"
    "    print('up', flush=True); time.sleep(60)\\n"
    "except KeyboardInterrupt:\\n"
    "    sys.exit(130)"
)
sys.exit(run_suite([], Path("x"), (sys.executable, "-c", code)))
"""


def test_an_interrupt_ends_the_child_and_gives_its_code() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
