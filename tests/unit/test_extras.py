"""Tests of the advice about missing extras: it fits how the harness was installed, and every command gives it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest

from harness.extras import MODULES, install_command, missing_module

METADATA = """\
Metadata-Version: 2.1
Name: edge-harness
Version: 0.1.0
Requires-Dist: numpy>=1.26
Requires-Dist: grpcio>=1.66; extra == "agent"
Requires-Dist: protobuf>=5.28 ; extra == 'agent'
Requires-Dist: torch>=2.11; extra == "bench"
"""
GIT = {"url": "https://example.org/harness.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}


def installed(folder: Path, noted: object = None, by: str = "pip") -> PathDistribution:
    (folder / "METADATA").write_text(METADATA)
    (folder / "INSTALLER").write_text(f"{by}\n")
    if noted is not None:
        (folder / "direct_url.json").write_text(noted if isinstance(noted, str) else json.dumps(noted))
    return PathDistribution(folder)


def local(path: Path, **about: object) -> dict[str, object]:
    return {"url": path.as_uri(), **about}


def test_a_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "a b"
    checkout.mkdir()
    noted = local(checkout, dir_info={"editable": True})
    assert install_command("agent", installed(tmp_path, noted), checkout) == "pip install -e '.[agent]'"
    elsewhere = install_command("agent", installed(tmp_path, noted), tmp_path)
    assert elsewhere == f"pip install -e '{checkout}[agent]'"
    assert (
        install_command("agent", installed(tmp_path, noted, "uv"), checkout) == "uv pip install -e '.[agent]'"
    )
    noted = local(checkout, dir_info={})
    assert install_command("agent", installed(tmp_path, noted), checkout) == "pip install '.[agent]'"


def test_a_wheel_that_is_there_and_one_that_is_gone(tmp_path: Path) -> None:
    wheel = tmp_path / "edge_harness-0.1.0-py3-none-any.whl"
    wheel.touch()
    noted = local(wheel, archive_info={})
    assert install_command("agent", installed(tmp_path, noted), tmp_path) == f"pip install '{wheel}[agent]'"
    wheel.unlink()
    packages = "pip install 'grpcio>=1.66' 'protobuf>=5.28'"
    assert install_command("agent", installed(tmp_path, noted), tmp_path) == packages


@pytest.mark.parametrize(
    ("noted", "place"),
    [
        (GIT, "git+https://example.org/harness.git@c0ffee"),
        (
            {**GIT, "vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "c"}},
            "git+https://example.org/harness.git@v1",
        ),
        ({**GIT, "subdirectory": "sub"}, "git+https://example.org/harness.git@c0ffee#subdirectory=sub"),
        ({"url": "https://example.org/h.whl", "archive_info": {}}, "https://example.org/h.whl"),
    ],
)
def test_an_address(tmp_path: Path, noted: object, place: str) -> None:
    command = install_command("agent", installed(tmp_path, noted), tmp_path)
    assert command == f"pip install 'edge-harness[agent] @ {place}'"


@pytest.mark.parametrize("noted", [None, "", "no JSON", "[]", '{"url": 7}', '{"vcs_info": null}'])
def test_without_a_note_the_checkout_that_is_imported(tmp_path: Path, noted: object) -> None:
    checkout = Path(__file__).parents[2]
    assert install_command("bench", installed(tmp_path, noted), checkout) == "pip install -e '.[bench]'"


def test_the_modules_are_those_of_the_extras() -> None:
    declared = set(distribution("edge-harness").metadata.get_all("Provides-Extra") or ()) - {"all", "test"}
    assert set(MODULES) == declared
    error = ModuleNotFoundError("No module named 'grpc._cython'", name="grpc._cython")
    assert missing_module(error) == f"needs grpc, which is not installed: {install_command('agent')}"
    assert missing_module(ModuleNotFoundError("numpy", name="numpy")) is None
    assert missing_module(ImportError("grpc", name="grpc")) is None


BLOCKED = """
import sys
blocked = set(sys.argv[1].split(","))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv[:2] = ["harness"]
from harness.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("lab run nano4", "agent"),
        ("lab up nano4", "agent"),
        ("agent serve", "agent"),
        ("agent init", "agent"),
        ("devices add pi --host 127.0.0.1", "agent"),
        ("devices check", "agent"),
        ("devices profile cpu", "bench"),
        ("devices setup pi --ssh pi@pi", "agent"),
        ("run smoke", "bench"),
        ("plan smoke", None),
        ("plan edge --estimate", None),
        ("claims papers/devit", None),
        ("plugins list", None),
        ("devices list", None),
        ("lab status", None),
    ],
)
def test_a_command_without_its_extra(words: str, extra: str | None, tmp_path: Path) -> None:
    modules = ",".join(name for names in MODULES.values() for name in names if name != "google")
    place = {"HOME": str(tmp_path), "HARNESS_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", BLOCKED, f"{modules},google", *words.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env=place
    )
    assert "Traceback" not in done.stderr
    assert "fault of the harness" not in done.stderr
    if extra is None:
        assert done.returncode == 0, done.stderr
    else:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert install_command(extra, here=tmp_path) in done.stderr
    assert not list(tmp_path.glob("**/agent.key"))
