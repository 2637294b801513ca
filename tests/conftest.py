"""Fixtures that several test files use."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from pydantic import BaseModel

if TYPE_CHECKING:
    from harness.plugins import Plugins
    from harness.store.artifacts import Store
    from harness.types.plan import Plan

# the width of tables, which otherwise depends on the terminal and on whether tests run side by side
os.environ["COLUMNS"] = "120"

pytest.register_assert_rewrite("broken_plugins", "remote_boards", "remote_calls", "remote_messages")

# how long an example takes says nothing on a shared machine
settings.register_profile(
    "untimed", settings.get_profile("ci" if os.environ.get("CI") else "default"), deadline=None
)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real data (``cifar10/{train,test}.parquet``); the test is skipped where there is none."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("HARNESS_TEST_DATA") or beside)
    if not (folder / "cifar10").is_dir():
        pytest.skip("real data not found: set HARNESS_TEST_DATA to a folder with cifar10/train.parquet")
    return folder


@pytest.fixture
def unknown_keys() -> Callable[[BaseModel], list[str]]:
    """Return a function that lists the keys of a record, or of one of its blocks, that are not named fields."""

    def unknown(value: Any, path: str = "") -> list[str]:
        if isinstance(value, BaseModel):
            inner = [
                key
                for name in type(value).model_fields
                for key in unknown(getattr(value, name), f"{path}.{name}")
            ]
            return [*(f"{path}.{key}" for key in value.model_extra or {}), *inner]
        if isinstance(value, list):
            return [key for item in value for key in unknown(item, f"{path}[]")]
        if isinstance(value, Mapping):
            return [key for name, item in value.items() for key in unknown(item, f"{path}.{name}")]
        return []

    return unknown


@pytest.fixture
def printed_plugin(tmp_path: Path) -> Path:
    """Folder with the plugin of CONTRIBUTING's walk-through, its files as printed there."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    found = re.findall(r"^\*\*([\w/.]+)\*\*\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 5
    folder = tmp_path / "harness-example"
    for name, body in found:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body)
    (folder / "harness_example" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="session")
def toys() -> Iterator[ModuleType]:
    """A plugin of fleets in small: linear parts, a runtime of numpy, and boards that are processes of this machine."""
    folder = str(Path(__file__).parent / "data" / "fleet_toys")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
        import fleet_toys

        yield fleet_toys
        del sys.modules["fleet_toys"]


@pytest.fixture(scope="session")
def prepare_toys(
    toys: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Plan, Plugins, Store]]:
    """Return a function that plans a suite of the plugin ``toys`` and prepares its nodes."""
    from harness.plan.planner import make_plan
    from harness.plugins import load_plugins
    from harness.prepare.nodes import run_node
    from harness.store.artifacts import Store
    from harness.suite.loading import load_suite
    from harness.types.plan import PrepareHost

    def prepare(suite: str) -> tuple[Plan, Plugins, Store]:
        folder = tmp_path_factory.mktemp("toys")
        (folder / "toys.yaml").write_text(suite)
        plugins = load_plugins(extra={"toys": toys})
        plan = make_plan(load_suite(folder / "toys.yaml"), plugins, PrepareHost()).plan
        store = Store(folder / "cache")
        for node in plan.nodes.values():
            run_node(node, plugins, store)
        return plan, plugins, store

    return prepare


@pytest.fixture
def harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command in an empty folder with an empty cache: (exit code, stdout, stderr)."""
    from harness import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        streams = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, streams.out, streams.err

    return call
