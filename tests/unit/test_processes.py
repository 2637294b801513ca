"""Tests of programs that end with the process that started them."""

from __future__ import annotations

import subprocess
import sys

from harness.processes import bound

PARENT = """
import subprocess, sys, time
from harness.processes import bound
child = "import time; print('up', flush=True); time.sleep(30); print('outlived its parent', flush=True)"
subprocess.Popen(bound([sys.executable, "-c", child]))
time.sleep(60)
"""


def test_a_bound_program_ends_with_its_parent_also_by_kill() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        assert parent.stdout.read() == ""  # it closes when the child ends
    finally:
        parent.kill()
        parent.wait()


def test_a_bound_program_keeps_arguments_number_and_exit_code() -> None:
    code = "import os, sys; print(os.getpid(), *sys.argv[1:]); sys.exit(3)"
    child = subprocess.Popen(
        bound([sys.executable, "-c", code, "a b", "-I"]), stdout=subprocess.PIPE, text=True
    )
    assert child.communicate(timeout=60)[0] == f"{child.pid} a b -I\n"
    assert child.returncode == 3


def test_a_program_that_is_not_there_gives_an_exit_code() -> None:
    done = subprocess.run(bound(["no-such-program"]), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "no-such-program" in done.stderr or "No such file" in done.stderr
