"""Files that a person names or keeps may be pipes, devices, folders and links: each reader ends, with one line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HarnessError, SuiteError
from harness.machine.environment import machine_id
from harness.plan.profiles.stored import read_profile, stored_profile
from harness.results.leaderboard.published import published_tables
from harness.suite.yamlfile import read_text, read_yaml
from harness_remote.inventory.inventory import Inventory
from harness_remote.lab.state import STATE, State
from harness_remote.wire import secrets

pytestmark = pytest.mark.timeout(40)

MAKE: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a large file": lambda path: (path.touch(), os.truncate(path, 6 * 2**30)),
}


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(HarnessError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MAKE)
def test_a_text_that_a_person_writes(tmp_path, name):
    path = tmp_path / "mine.yaml"
    MAKE[name](path)
    if name == "an empty device":
        assert read_text(path, "a suite") == ""
    else:
        assert refused(lambda: read_text(path, "a suite", wait_s=0.1)).startswith(f"{path}: ")


def test_a_pipe_is_read_while_its_writer_is_there(tmp_path):
    """As in ``harness run <(make-suite)``."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("suite: mine\n",))
    writer.start()
    for _ in range(2):
        assert read_yaml(path)[0] == {"suite": "mine"}
    writer.join()


@pytest.mark.parametrize("name", [name for name in MAKE if name != "a pipe"])
def test_published_figures_and_an_inventory(tmp_path, name):
    path = tmp_path / "mine.yaml"
    MAKE[name](path)
    assert str(path) in refused(lambda: published_tables(path))
    if name != "an empty device":
        assert str(path) in refused(lambda: Inventory.load(path))


@pytest.mark.parametrize("name", MAKE)
def test_a_profile(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HARNESS_PROFILES", str(tmp_path))
    path = tmp_path / "pi.onnxruntime.1.json"
    MAKE[name](path)
    assert str(path) in refused(lambda: read_profile(path))
    assert str(path) in refused(lambda: stored_profile(["pi"], 1, None))
    assert stored_profile(["other"], 1, None) is None


@pytest.mark.parametrize("name", MAKE)
def test_secrets_and_the_state_of_a_lab(tmp_path, name):
    secrets.create(tmp_path, ())
    (tmp_path / secrets.KEY).unlink()
    MAKE[name](tmp_path / secrets.KEY)
    refused(lambda: secrets.load(tmp_path))
    MAKE[name](tmp_path / STATE)
    assert State.load(tmp_path) is None


@pytest.mark.parametrize("name", [*MAKE, "empty", "short"])
def test_the_kept_id_of_a_machine(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    path = tmp_path / "machine-id"
    {**MAKE, "empty": Path.touch, "short": lambda path: path.write_text("abc")}[name](path)
    assert str(path) in refused(lambda: machine_id(tmp_path))


def test_a_folder_is_said_to_be_one(tmp_path):
    with pytest.raises(SuiteError, match=r"is a directory, not a suite file"):
        read_yaml(tmp_path)
