"""Tests of the user's folders: no home, an empty one, an unknown user, relative paths of variables."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from forked import forked
from harness.errors import StorageError
from harness.plan.profiles.stored import profiles_folder
from harness.store.files import default_cache
from harness.store.home import DEFAULTS, expanded, user_folder

OWN = {"HARNESS_CACHE": None, "HARNESS_DEVICES": None, "HARNESS_PROFILES": None, **dict.fromkeys(DEFAULTS)}


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in OWN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that the system does not know, as after ``docker run --user 54321``."""

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_variables_of_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache/harness"
    assert profiles_folder() == tmp_path / ".local/share/harness/profiles"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert default_cache() == tmp_path / "c/harness"
    for ignored in ("", "relative", "./c", "~/c"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache() == tmp_path / ".cache/harness"


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_home_the_system_knows_it(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    listed = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert user_folder("XDG_STATE_HOME", "") == listed / ".local/state"


@pytest.mark.usefixtures("nobody")
def test_no_home_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    with pytest.raises(StorageError, match=r"no home folder is known: HOME is not set.*set HARNESS_CACHE"):
        default_cache()
    with pytest.raises(StorageError, match="~/x: the home folder that ~ stands for is unknown"):
        expanded("~/x")


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("cache list", "HARNESS_CACHE"),
        ("cache clear --yes", "HARNESS_CACHE"),
        ("plan smoke", "HARNESS_CACHE"),
        ("run smoke", "HARNESS_CACHE"),
        ("devices check", "HARNESS_DEVICES"),
        ("devices add pi --host 127.0.0.1", "HARNESS_DEVICES"),
        ("devices remove pi", "HARNESS_DEVICES"),
        ("agent init", "--folder"),
        ("agent serve", "--folder"),
        ("lab status", "XDG_STATE_HOME"),
        ("lab down", "XDG_STATE_HOME"),
    ],
)
def test_a_command_of_a_user_without_home(words: str, fix: str, tmp_path: Path) -> None:
    ended = forked(words.split(), environment={**OWN, "HOME": None})
    assert (ended.code, ended.out, ended.message.count("\n")) == (2, b"", 1), ended.message
    assert ended.message.startswith("error: no home folder is known")
    assert fix in ended.message
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("words", ["plan smoke --json", "devices list --json", "plugins list --json"])
def test_what_needs_no_home_works_without_one(words: str, tmp_path: Path) -> None:
    cache = {"HARNESS_CACHE": str(tmp_path / "cache")}
    ended = forked(words.split(), environment={**OWN, "HOME": None, **cache})
    assert ended.code == 0, ended.message
    json.loads(ended.out)


@pytest.mark.parametrize("home", ["", "relative"])
def test_an_odd_home_makes_nothing_in_the_current_folder(home: str, tmp_path: Path) -> None:
    ended = forked(["cache", "list"], environment={**OWN, "HOME": home, "XDG_CACHE_HOME": "relative"})
    assert ended.code == 0, ended.message
    assert not list(tmp_path.iterdir())
