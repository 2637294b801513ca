"""Tests of a plugin's source: it is the whole distribution, it must be listable, and blame names the right plugin."""

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


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"__init__.py": '__version__ = "1.2"\n'}, "1.2"),
        ({"__init__.py": "__version__: str = '1.2'\n"}, "1.2"),
        (
            {"__init__.py": "from .version import version as __version__\n", "version.py": "version = '3'\n"},
            "3",
        ),
        ({"__init__.py": "", "_version.py": "__version__ = version = '4.5'\n"}, "4.5"),
    ],
)
def test_a_library_without_metadata_has_the_version_that_its_source_states(site, files, version):
    package = f"bare{version.replace('.', '_')}{len(files)}{len(files['__init__.py'])}"
    for name, text in files.items():
        write(site / package / name, text)
    assert versions_of([f"{package}.part"]) == {package.replace("_", "-"): version}
    assert package not in sys.modules


@pytest.mark.parametrize("text", ["raise SystemExit", "__version__ = str(1)", "not Python ("])
def test_a_library_that_states_no_version_is_unknown_and_this_is_said_once(site, caplog, text):
    package = f"silent{len(text)}"
    write(site / package / "__init__.py", text)
    assert versions_of([package]) == versions_of([package]) == {package: "unknown"}
    (warning,) = caplog.messages
    assert warning.startswith(f"{package}: its version is unknown")


def test_a_library_of_one_file_states_its_version_there(site):
    write(site / "onefile.py", "__version__ = '0.3'\n")
    assert versions_of(["onefile"]) == {"onefile": "0.3"}


def test_a_module_of_python_has_no_version_of_its_own():
    assert versions_of(["sqlite3"]) == {}


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
    assert plugins.blame(DeviceError("load on pi: no", plugin="there")) == "there"
    with pytest.raises(ZeroDivisionError) as ours:
        _ = 1 / 0
    assert plugins.blame(ours.value) is None


# --- what else a distribution can be ----------------------------------------------------------------


def editable(site: Path, tree: Path) -> Distribution:
    """Make a project with a flat layout that is installed editable."""
    made = Distribution(site)
    made.write(
        f"{made.info.name}/direct_url.json",
        json.dumps({"url": tree.as_uri(), "dir_info": {"editable": True}}),
    )
    made.record()
    for name, text in {"harness_toy/plugin.py": PLUGIN, "pyproject.toml": "[project]"}.items():
        write(tree / name, text)
    return made


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(site, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    editable(site, folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("name", ["fast.cpython-311-x86_64-linux-gnu.so", "fast/net.abi3.so"])
def test_a_compiled_module_of_a_project_is_part_of_its_source(tree, name):
    write(tree / name, "1")
    before = toy(load_plugins()).source
    write(tree / name, "2")
    assert toy(load_plugins()).source != before


def test_a_compiled_module_beside_the_metadata_of_an_editable_install_is_part_of_its_source(site, tree):
    library = site / "harness_toy_fast.abi3.so"  # as scikit-build-core installs it
    library.write_text("1")
    record = next(site.glob("*.dist-info")) / "RECORD"
    record.write_text(f"{record.read_text()}{library.name},,\n")
    before = toy(load_plugins()).source
    library.write_text("2")
    assert toy(load_plugins()).source != before


def test_code_behind_a_link_to_a_folder_is_part_of_the_source(tree, tmp_path):
    write(tmp_path / "shared/net.py", "A = 1")
    (tree / "harness_toy/shared").symlink_to(tmp_path / "shared")
    (tree / "harness_toy/loop").symlink_to(tree)
    before = toy(load_plugins()).source
    write(tmp_path / "shared/net.py", "A = 2")
    assert toy(load_plugins()).source != before


def test_what_editors_and_runs_leave_in_a_package_is_no_part_of_its_source(tree):
    before = toy(load_plugins()).source
    for name in (".plugin.py.swp", ".DS_Store", "plugin.py~", "mine/records.jsonl", "mine/samples/ab/x.npz"):
        write(tree / "harness_toy" / name, "x")
    assert toy(load_plugins()).source == before


def test_file_names_of_any_bytes_are_hashed(tree):
    before = toy(load_plugins()).source
    with open(bytes(tree / "harness_toy") + b"/\xff.bin", "w") as file:
        file.write("1")
    assert toy(load_plugins()).source != before


def test_the_metadata_in_a_projects_own_tree_gives_the_same_source_as_its_editable_install(site, tree):
    """``python -m harness`` in that folder finds this metadata first."""
    installed = toy(load_plugins()).source
    egg = tree / "harness_toy.egg-info"
    write(egg / "PKG-INFO", "Metadata-Version: 2.1\nName: harness-toy\nVersion: 1.0\n")
    write(egg / "entry_points.txt", "[harness]\ntoy = harness_toy.plugin\n")
    write(egg / "SOURCES.txt", "README.md\nharness_toy/plugin.py\n")
    write(tree / "README.md", "words")
    assert toy(load_plugins()).source == installed
    write(tree / "harness_toy/later.py", "A = 1")
    assert toy(load_plugins()).source != installed


def test_of_two_distributions_that_give_the_same_plugin_the_first_is_hashed(site, tmp_path, monkeypatch):
    installed(site)
    before = toy(load_plugins())
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.syspath_prepend(str(other))  # renamed: the old metadata was left behind
    Distribution(other, name="toy-of-old").record()
    monkeypatch.setattr(sys, "path", [*[p for p in sys.path if p != str(other)], str(other)])
    assert toy(load_plugins()) == before


def test_a_plugin_that_is_compiled_is_not_refused(site, monkeypatch):
    import py_compile

    made = installed(site)
    source = site / "harness_toy/plugin.py"
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")))
    source.unlink()
    made.write(
        made.info.name + "/RECORD", "harness_toy/__init__.py,,\nharness_toy/plugin.pyc,,\nsecond.py,,\n"
    )
    before = toy(load_plugins()).source
    with source.with_suffix(".pyc").open("ab") as file:
        file.write(b"\0")
    assert toy(load_plugins()).source != before


def test_a_change_of_a_shipped_plugin_changes_the_source_of_what_builds_on_it(site):
    made = installed(site)
    made.write("second.py", "def net():\n    from harness_timm import vit\n    return vit\n")
    plugins = load_plugins()
    names = plugins.files_of(plugins.backends.get("toy").origin)
    assert {"harness_timm/vit.py", "second.py"} <= names.keys()
    error = ValueError("no")
    error.files = (str(names["harness_timm/vit.py"]),)  # type: ignore[attr-defined]
    assert plugins.blame(error) == "timm"


def test_a_project_that_is_gone_or_too_large_is_refused(site, tree, monkeypatch):
    from harness.store.sources import source_hash

    with pytest.raises(PluginError, match="at most"):
        source_hash({str(n): tree / "pyproject.toml" for n in range(20_001)})
    plugins = load_plugins()
    import shutil

    shutil.rmtree(tree)
    with pytest.raises(PluginError, match=r"plugin toy .*cannot be hashed.*No such file"):
        toy(plugins)
