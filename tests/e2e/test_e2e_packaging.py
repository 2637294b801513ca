"""Tests of the wheel outside the checkout, of the light install, and of other people's distributions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def sh(
    *command: str | Path, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )


def build(source: Path, into: Path) -> Path:
    done = sh(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", into, source, cwd=into)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = into.glob("*.whl")
    return wheel


def unpack(wheel: Path, into: Path) -> Path:
    done = sh(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        into,
        wheel,
        cwd=into.parent,
    )
    assert done.returncode == 0, done.stderr
    return into


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_runs_a_shipped_suite_without_the_checkout(wheel, tmp_path):
    site = unpack(wheel, tmp_path / "site")
    environment = {"PYTHONPATH": str(site), "HARNESS_CACHE": str(tmp_path / "cache")}
    where = sh(
        sys.executable,
        "-c",
        "import harness, harness_timm; print(harness.__file__, harness_timm.__file__)",
        cwd=tmp_path,
        **environment,
    )
    assert where.stdout.count(str(site)) == 2, where.stdout

    assert (site / "harness" / "_suites" / "papers" / "edvit.claims.yaml").is_file()
    listed = sh(sys.executable, "-m", "harness", "suites", "list", cwd=tmp_path, **environment)
    assert {"edge", "smoke", "cifar10", "latency"} <= set(listed.stdout.split())
    ran = sh(
        sys.executable,
        "-m",
        "harness",
        "run",
        "smoke",
        "--only",
        "cloudvit",
        "--set",
        "seeds=[0]",
        "--set",
        "defaults.train.epochs=1",
        "--set",
        "measure.repeats=1",
        "--set",
        "methods.cloudvit.build.vit.depth=2",
        "--set",
        "prepare.jobs=1",
        "-q",
        cwd=tmp_path,
        **environment,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "results" / "local" / "smoke" / "records.jsonl").exists()


def test_the_light_install_says_what_to_install(wheel, tmp_path):
    venv.create(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--python", tmp_path / "venv" / "bin" / "python")
    done = sh(*pip, "install", "--quiet", "--no-compile", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    harness = tmp_path / "venv" / "bin" / "harness"
    assert sh(harness, "--help", cwd=tmp_path).returncode == 0

    ran = sh(harness, "run", "edge", cwd=tmp_path, HARNESS_CACHE=str(tmp_path / "cache"))
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    advice = f"pip install '{wheel}[bench]'"
    assert advice in ran.stderr
    for command in (
        "agent serve",
        "agent init --folder agent",
        "devices check",
        "lab run nano4",
        "devices profile cpu",
    ):
        told = sh(harness, *command.split(), cwd=tmp_path, HARNESS_CACHE=str(tmp_path / "cache"))
        assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
        assert f"pip install '{wheel}[" in told.stderr

    plugins = sh(harness, "plugins", "list", cwd=tmp_path)
    assert plugins.returncode == 0, plugins.stdout
    assert f"{wheel.name}[bench]" in plugins.stdout.replace("\n", "")


def test_a_distribution_of_others_is_found_and_runs(printed_plugin, tmp_path):
    (tmp_path / "wheels").mkdir()
    site = unpack(build(printed_plugin, tmp_path / "wheels"), tmp_path / "site")
    environment = {"PYTHONPATH": str(site), "HARNESS_CACHE": str(tmp_path / "cache")}
    listed = sh(sys.executable, "-m", "harness", "plugins", "list", "--json", cwd=tmp_path, **environment)
    entries = json.loads(listed.stdout)["entries"]
    theirs = [entry for entry in entries if not entry["from"].startswith("edge-harness ")]
    assert sorted(entry["kind"] for entry in theirs) == ["compressor", "model"]

    suite = printed_plugin / "example.yaml"
    ran = sh(
        sys.executable,
        "-m",
        "harness",
        "run",
        suite,
        "--json",
        "--only",
        "mixer*",
        "--set",
        "seeds=[0]",
        "--set",
        "measure.repeats=1",
        "--set",
        "measure.min_queries=100",
        "--set",
        "defaults.train.epochs=6",
        "--set",
        "methods.mixer.build.mixer.depth=1",
        "--set",
        "prepare.jobs=1",
        cwd=tmp_path,
        **environment,
    )
    assert ran.returncode == 0, ran.stderr
    rows = [row for board in json.loads(ran.stdout)["boards"] for row in board["rows"]]
    assert {row["method"] for row in rows} == {"mixer", "mixer-r4", "mixer-r8"}
    assert all(row["status"] == "ok" and row["top1"] > 20 for row in rows), rows

    blocked = sh(
        sys.executable,
        "-m",
        "harness",
        "run",
        suite,
        "--block",
        theirs[0]["plugin"],
        cwd=tmp_path,
        **environment,
    )
    assert blocked.returncode == 2
    assert theirs[0]["name"] in blocked.stderr or theirs[1]["name"] in blocked.stderr


def test_a_broken_distribution_is_named_and_the_rest_works(tmp_path):
    site = tmp_path / "site"
    info = site / "broken_thing-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-thing\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[harness]\nbroken = broken_thing\n")
    (site / "broken_thing.py").write_text("import a_module_that_is_not_there\n")
    environment = {"PYTHONPATH": str(site)}
    listed = sh(sys.executable, "-m", "harness", "plugins", "list", cwd=tmp_path, **environment)
    text = " ".join(listed.stdout.split())
    assert listed.returncode == 1
    assert "broken-thing 1.2" in text
    assert "a_module_that_is_not_there" in text
    planned = sh(
        sys.executable,
        "-m",
        "harness",
        "plan",
        "smoke",
        cwd=tmp_path,
        **environment,
        HARNESS_CACHE=str(tmp_path / "cache"),
    )
    assert planned.returncode == 0, planned.stderr
    assert "broken-thing 1.2" in planned.stderr
    quiet = sh(
        sys.executable, "-m", "harness", "plugins", "list", "--block", "broken", cwd=tmp_path, **environment
    )
    assert quiet.returncode == 0


def test_every_plugin_folder_is_an_entry_point():
    from importlib.metadata import entry_points

    groups = ("harness", "harness.commands", "harness.commands.devices")  # a plugin may give commands alone
    modules = {point.value.partition(".")[0] for group in groups for point in entry_points(group=group)}
    folders = {path.name for path in (ROOT / "plugins").glob("harness_*")}
    assert folders <= modules
