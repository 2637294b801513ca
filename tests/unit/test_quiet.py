"""No process of the harness phones home, writes beside its folders, or imports files of the current folder."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.machine.environment import host
from harness.plugins import load_plugins
from harness.processes import start
from harness.quiet import (
    NO_TELEMETRY,
    as_started,
    be_quiet,
    clean_path,
    no_current_folder,
    without_current_folder,
)
from harness.types import IMAGE, Edge, ModuleSpec, Monitor, Part, SessionOptions, Stop, TensorSpec, Workload
from harness.worker import commands
from harness.worker.process import WorkerProcess

SHADOWS = ("random", "queue", "json", "socket", "tempfile", "numpy", "harness_local")
"""Modules that a file of the current folder could stand in for."""


@pytest.fixture
def shadowed(tmp_path):
    """A folder with files that end any process that imports them."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(77)\n")
    return tmp_path


def test_every_variable_is_set_for_this_process_and_in_each_record():
    assert {name: os.environ.get(name) for name in NO_TELEMETRY} == dict(NO_TELEMETRY)
    assert list(host().telemetry_off) == list(NO_TELEMETRY)


def test_what_a_user_switched_on_is_switched_off():
    variables = {"ORT_DISABLE_TELEMETRY": "0"}
    be_quiet(variables)
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("before", [{}, {"PYTHONSAFEPATH": "1"}])
def test_children_start_without_the_current_folder_and_a_setting_of_the_user_is_kept(before):
    variables = dict(before)
    with clean_path(variables):
        assert variables["PYTHONSAFEPATH"]
    assert variables == before
    no_current_folder(variables)
    assert variables["PYTHONSAFEPATH"]
    with clean_path(variables):
        pass
    assert variables["PYTHONSAFEPATH"]
    as_started(variables)
    assert variables == before


def test_a_program_that_imports_the_harness_keeps_its_path(tmp_path):
    """A notebook has the current folder on its path, and a script that it starts has its own folder there."""
    (tmp_path / "mine.py").write_text("print('mine')\n")
    (tmp_path / "script.py").write_text("import mine\n")
    code = (
        "import harness, subprocess, sys, mine\nsubprocess.run([sys.executable, 'script.py'], check=True)\n"
    )
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=variables,
    )
    assert done.stdout.split() == ["mine", "mine"], done.stderr


CHILD = """
import subprocess, sys
from pathlib import Path
from harness.quiet import as_started

def note(path):
    as_started()
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    Path(path).write_text(done.stdout)
"""
"""A module of a plugin, whose training code starts a script."""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_a_child_starts_without_the_current_folder_and_plugins_in_it_have_theirs(
    shadowed, tmp_path, monkeypatch
):
    """``sys.path`` of the parent has a module of the user, which the child finds; the shadows end no process."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "mine.py").write_text(CHILD)
    (shadowed / "sibling.py").write_text("print('sibling')\n")
    (shadowed / "script.py").write_text("import sibling\n")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.syspath_prepend(str(mine))
    monkeypatch.chdir(shadowed)
    note = importlib.import_module("mine").note
    child = multiprocessing.get_context("spawn").Process(target=note, args=(str(tmp_path / "answer"),))
    start(child)
    child.join(60)
    assert child.exitcode == 0
    assert (tmp_path / "answer").read_text() == "sibling\n"
    assert "PYTHONSAFEPATH" not in os.environ


def test_the_meter_reading_process_imports_nothing_of_the_current_folder(shadowed):
    done = subprocess.run(
        without_current_folder("harness.machine.reader"),
        cwd=shadowed,
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [["plugins", "list"], ["suites", "list"]])
def test_python_m_harness_imports_nothing_of_the_current_folder(shadowed, tmp_path, command):
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command],
        cwd=shadowed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONSAFEPATH": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")


def internet_sockets(pid):
    """The internet sockets that a process has open, as lines of /proc/net."""
    open_files = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            open_files.append(os.readlink(fd))
    lines = [
        line
        for name in ("tcp", "tcp6", "udp", "udp6")
        if (table := Path(f"/proc/{pid}/net/{name}")).exists()
        for line in table.read_text().splitlines()[1:]
    ]
    return [line for line in lines if f"socket:[{line.split()[9]}]" in open_files]


def test_an_internet_socket_is_seen():
    before = internet_sockets(os.getpid())  # other tests of this process may have left some
    with socket.create_server(("127.0.0.1", 0)):
        assert len(internet_sockets(os.getpid())) == len(before) + 1


@pytest.mark.parametrize(
    ("runtime", "threads"), [("onnxruntime", 2), ("onnxruntime-int8", 2), ("torch", None)]
)
def test_a_measuring_process_opens_no_socket_and_writes_nothing_at_home(
    runtime, threads, tmp_path, monkeypatch, shadowed
):
    """``threads``: the worker's own and the one that ends it with its parent; a telemetry client would add more."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if sys.version_info >= (3, 11):  # older Pythons start a child with the current folder on its path
        monkeypatch.chdir(shadowed)
    entry = load_plugins().runtimes.get(runtime).entry
    spec = ModuleSpec(factory="torch.nn:Linear", params={"in_features": 4, "out_features": 3})
    edge = Edge(source=IMAGE, tensor=TensorSpec(shape=(4,)))
    part = Part(name="model", module=spec.build(), spec=spec, output=TensorSpec(shape=(3,)), inputs=(edge,))
    work = tmp_path / "work"
    work.mkdir()
    artifact = entry.export(SimpleNamespace(workdir=work), part, entry.params())
    worker = WorkerProcess("here", Monitor(), preload=entry.preload)
    try:
        loader = f"{entry.load.__module__}:{entry.load.__qualname__}"
        worker.ask(commands.Load("model", artifact, loader, SessionOptions()))
        stop = Stop(min_time_s=0.5, max_time_s=0.5, warmup="one")
        measured = threading.Thread(
            target=worker.ask, args=(commands.Measure(Workload(stop=stop), np.ones((8, 4), np.float32)),)
        )
        measured.start()
        seen, most = [], 0
        while measured.is_alive():
            seen += internet_sockets(worker.pid)
            most = max(most, len(list(Path(f"/proc/{worker.pid}/task").iterdir())))
        assert seen == []
        assert threads is None or most <= threads
    finally:
        worker.close()
    assert list(home.rglob("*")) == []
