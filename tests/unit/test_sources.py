"""A plugin's source is its whole distribution; what cannot be listed is refused; blame names the right plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import DeviceError, PluginError
from harness.plugins import Plugins, load_plugins
from harness.store.sources import versions_of

PLUGIN = """
from harness.hookspecs import hookimpl
from harness.types import BackendEntry

@hookimpl
def harness_backends():
    yield BackendEntry(
        name="toy", summary="a toy", requires=("toylib",),
        probe=lambda: (), describe=lambda spec: None, open=lambda spec: None,
    )
"""


class Distribution:
    """A distribution made on the spot, in a folder that is on ``sys.path``."""

    def __init__(self, site: Path, name: str = "harness-toy", module: str = "harness_toy.plugin") -> None:
        self.site, self.name = site, name
        self.info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        self.info.mkdir(parents=True)
        self.write(self.info.name + "/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if module:
            self.write(self.info.name + "/entry_points.txt", f"[harness]\ntoy = {module}\n")

    def write(self, name: str, text: str) -> None:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def record(self) -> None:
        names = [path.relative_to(self.site).as_posix() for path in self.site.rglob("*") if path.is_file()]
        self.write(self.info.name + "/RECORD", "".join(f"{name},,\n" for name in names))


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("harness_toy", "second", "toylib")]:
        del sys.modules[name]


def toy(plugins: Plugins):
    assert not plugins.problems, plugins.problems
    return plugins.origin_of("backend", plugins.backends.get("toy"))


def installed(site: Path, package: str = "harness_toy") -> Distribution:
    made = Distribution(site, module=f"{package}.plugin")
    made.write(f"{package}/plugin.py", PLUGIN)
    made.write(f"{package}/__init__.py", "")
    made.write(f"{package}/weights.json", "[1]")
    made.write("second.py", "LAYERS = 3\n")
    made.record()
    return made


@pytest.mark.parametrize("changed", ["harness_toy/plugin.py", "harness_toy/weights.json", "second.py"])
def test_a_change_of_any_file_of_the_distribution_changes_the_source(site, changed):
    made = installed(site)
    before = toy(load_plugins()).source
    assert toy(load_plugins()).source == before
    made.write(changed, (site / changed).read_text() + "\n# changed\n")
    assert toy(load_plugins()).source != before


def test_a_package_without_init_is_hashed_by_its_files(site):
    made = installed(site)
    (site / "harness_toy/__init__.py").unlink()
    made.record()
    before = toy(load_plugins()).source
    made.write("harness_toy/plugin.py", PLUGIN + "# changed\n")
    assert toy(load_plugins()).source != before


def test_an_editable_install_is_hashed_by_its_tree(site, tmp_path, monkeypatch):
    tree = tmp_path / "project"
    made = Distribution(site)
    made.write(
        f"{made.info.name}/direct_url.json",
        json.dumps({"url": tree.as_uri(), "dir_info": {"editable": True}}),
    )
    made.record()
    for name, text in {
        "harness_toy/plugin.py": PLUGIN,
        "harness_toy/table.csv": "1",
        "second.py": "A = 1",
        "pyproject.toml": "[project]",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    monkeypatch.syspath_prepend(str(tree))
    seen = [toy(load_plugins()).source]
    # what a run or a test writes is no part of it
    for name in ("results/local/records.jsonl", "tests/test_toy.py", ".venv/x.py", "mine/records.jsonl"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    assert toy(load_plugins()).source == seen[0]
    for name in ("harness_toy/plugin.py", "harness_toy/table.csv", "second.py", "pyproject.toml"):
        (tree / name).write_text((tree / name).read_text() + "\n#")
        seen.append(toy(load_plugins()).source)
    assert len(set(seen)) == len(seen)


def test_a_distribution_that_lists_no_files_is_refused(site):
    made = installed(site)
    (made.info / "RECORD").unlink()
    with pytest.raises(PluginError, match=r"plugin toy .*cannot be hashed.*lists no files"):
        toy(load_plugins())


def test_a_distribution_that_does_not_list_its_module_is_refused(site):
    made = installed(site)
    made.write(made.info.name + "/RECORD", "second.py,,\n")
    with pytest.raises(PluginError, match=r"does not list the file of its module harness_toy\.plugin"):
        toy(load_plugins())


def test_the_versions_of_what_an_entry_requires_are_in_its_origin(site):
    installed(site)
    library = Distribution(site, name="toylib", module="")
    library.write("toylib/__init__.py", "")
    assert toy(load_plugins()).requires == {"toylib": "1.0"}
    assert versions_of(["PIL.Image", "not_there"]).keys() == {"pillow"}


def test_a_shipped_plugin_is_its_package_and_the_shipped_packages_that_it_imports():
    code = """
import sys
from harness.plugins import load_plugins
plugins = load_plugins()
files = plugins.files_of(plugins.partitioners.get("edvit").origin)
print(*sorted({name.split("/")[0] for name in files}))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {"harness_edvit", "harness_timm"} <= set(out.split())
    assert "harness_devit" not in out.split()


def test_blame_names_the_plugin_whose_code_raised(site):
    made = installed(site)
    made.write("second.py", "def fail():\n    raise ValueError('no')\n")
    plugins = load_plugins()
    import second

    def call():
        second.fail()

    with pytest.raises(ValueError, match="no") as caught:
        call()
    assert plugins.blame(caught.value) == "toy"
    worker = DeviceError("load on here: no", files=(str(site / "harness_toy/plugin.py"), "/usr/lib/torch.py"))
    assert plugins.blame(worker) == "toy"
    with pytest.raises(ZeroDivisionError) as ours:
        _ = 1 / 0
    assert plugins.blame(ours.value) is None
