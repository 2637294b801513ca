"""Tests of keys: they cover the code that can change a result, checked by imports and by changes of the code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import harness
from harness.measure.predictions import PREDICTING
from harness.plan import identity

ROOT = Path(harness.__file__).parents[1]

REFUSES = "refuses what breaks a contract; what it accepts it does not change"

EXCEPTIONS = {
    "contracts.datasets": REFUSES,
    "contracts.devices": REFUSES,
    "contracts.entries": REFUSES,
    "contracts.json": REFUSES,
    "contracts.meters": REFUSES,
    "contracts.measuring": REFUSES,
    "contracts.need": REFUSES,
    "contracts.opened": REFUSES,
    "contracts.planning": REFUSES,
    "contracts.runtimes": REFUSES,
    "doors": "imports a name on its first use; no figure depends on it",
    "errors": "messages and exit codes; no figure depends on them",
    "extras": "messages about what is not installed; no figure depends on them",
    "hookspecs": "declarations of hooks, without code",
    "plugins": "finds the entries, whose own source is in every key",
    "registry": "holds the entries, whose own source is in every key",
    "quiet": "sets variables of the environment that switch telemetry off",
    "processes": "starts and ends child processes; no figure comes from it",
    "store.artifacts": "where an artifact lies, not what is in it",
    "store.sealed": "whether an artifact is what was written, not what is in it",
    "store.full_disk": "whether an error is the disk's fault",
    "store.locks": "who makes an artifact, not what is in it",
    "store.files": "how a file is written, not what is in it",
    "store.hashing": "computes the keys themselves",
    "store.home": "where the files of a user are, not what is in them",
    "store.remembered": "whether a file is read again, not what is in it",
    "store.sources": "computes the keys themselves",
    "plan.profiles.line": "predicts times while planning; what is decided by them is in the task",
    "plan.profiles.profile": "read while planning only; a decision that it leads to is in the task",
    "plan.profiles.stored": "finds profiles while planning; a decision that they lead to is in the task",
    "suite.shipped": "finds files that ship with the harness, such as profiles",
}
"""Modules that are in no key, each with the reason."""

LISTS = {
    "DATA": identity.DATA,
    "TRAINING": identity.TRAINING,
    "EXPORTING": identity.EXPORTING,
    "MEASURING": identity.MEASURING,
    "PREDICTING": PREDICTING,
}

ENTRIES = {
    "PREDICTING": ("measure.evaluator", "worker.worker"),
    "TRAINING": ("prepare.child", "prepare.team", "methods"),
    "EXPORTING": ("prepare.export",),
    "MEASURING": ("measure.cell", "worker.worker", "machine.reader", "devices"),
}
"""What the harness starts to train, to export and to measure, and the doors of the plugins that do it."""

SUITE = """
suite: mutations
task: image-classification
data: {name: digits, image_size: 16}
methods:
  vit: {build: {vit: {patch_size: 8, dim: 16, depth: 1, heads: 2}}}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


def covered(module: str, names: tuple[str, ...]) -> bool:
    path = module.replace(".", "/")
    files = {path, f"{path}/__init__"}
    return any(name.removesuffix(".py") in files or path.startswith(f"{name}/") for name in names)


def reached(graph, list_name: str) -> set[str]:
    """Return the modules of the core that the entries of a list import, directly or not."""
    entries = {f"harness.{name}" for name in ENTRIES[list_name]}
    modules = entries.union(*(graph.find_upstream_modules(entry) for entry in entries))
    return {name.removeprefix("harness.") for name in modules}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("harness", cache_dir=None)


@pytest.mark.parametrize("list_name", ENTRIES)
def test_every_module_that_can_change_a_result_is_in_its_key(graph, list_name):
    names = LISTS[list_name]
    modules = reached(graph, list_name)
    assert len(modules) > 20
    assert {name for name in modules - EXCEPTIONS.keys() if not covered(name, names)} == set()


@pytest.mark.parametrize("list_name", LISTS)
def test_every_name_of_a_list_is_a_package_or_file(list_name):
    for name in LISTS[list_name]:
        path = ROOT / "harness" / name
        assert path.is_file() if name.endswith(".py") else (path / "__init__.py").is_file(), name


def test_every_exception_is_needed(graph):
    uncovered = {
        name
        for list_name, names in LISTS.items()
        if list_name in ENTRIES
        for name in reached(graph, list_name)
        if not covered(name, names)
    }
    assert EXCEPTIONS.keys() - uncovered == set()


# --- changing the code ----------------------------------------------------------------------------


class Copy:
    """A copy of the source, which plans the suite above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skip = shutil.ignore_patterns("__pycache__")
        plugins = Path(sys.modules["harness_timm"].__file__ or "").parents[1]
        shutil.copytree(ROOT / "harness", folder / "harness", ignore=skip)
        for package in plugins.glob("harness_*"):
            if package.is_dir() and not package.name.endswith(".dist-info"):
                shutil.copytree(package, folder / "plugins" / package.name, ignore=skip)
        (folder / "suite.yaml").write_text(SUITE)

    def keys(self) -> tuple[str, list[str]]:
        """Return the cell's identity, and the keys of its nodes by stage."""
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}:{self.folder / 'plugins'}"}
        command = [sys.executable, "-m", "harness", "plan", "suite.yaml", "--json"]
        done = subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, check=True
        )
        plan = json.loads(done.stdout)
        (cell,) = plan["cells"]
        return cell["id"], sorted(f"{node['stage']} {node['key']}" for node in plan["nodes"])


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    import harness_timm  # noqa: F401 - tells where the plugins lie

    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def before(copy):
    return copy.keys()


@pytest.mark.parametrize(
    ("file", "measured_again", "prepared_again"),
    [
        ("harness/machine/energy/integrate.py", True, []),
        ("harness/measure/accuracy.py", True, []),
        ("harness/measure/parity.py", True, []),
        ("harness/train/loop.py", True, ["build", "export"]),
        ("harness/prepare/export.py", True, ["build", "export"]),
        ("plugins/harness_timm/vit.py", True, ["build", "export"]),
        ("plugins/harness_runtimes/onnx_session.py", True, ["export"]),
        ("plugins/harness_local/plugin.py", True, []),
        ("harness/cli/run.py", False, []),
        ("harness/render/view.py", False, []),
        ("plugins/harness_edvit/plugin.py", False, []),
    ],
)
def test_a_change_of_code_changes_the_keys_of_what_depends_on_it(
    copy, before, file, measured_again, prepared_again
):
    path = copy.folder / file
    text = path.read_text()
    try:
        path.write_text(f"{text}\nCHANGED = 1\n")
        cell, nodes = copy.keys()
    finally:
        path.write_text(text)
    assert (cell != before[0]) == measured_again
    assert sorted({node.split()[0] for node in set(nodes) - set(before[1])}) == prepared_again
