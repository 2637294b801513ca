"""Tests of finding plugins and their entries, of faults in plugins, and of `harness plugins`."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from harness import hookspecs
from harness.cli import cli
from harness.errors import PluginError, UnknownEntry
from harness.extras import install_command
from harness.hookspecs import hookimpl
from harness.plugins import load_plugins
from harness.types import ModelEntry, Params


def giving(*names: str, **changes):
    """Return a plugin object that gives model entries with these names."""

    class Plugin:
        @hookimpl
        def harness_models(self):
            return [
                ModelEntry(**{"name": name, "summary": "for tests", "build": print, **changes})
                for name in names
            ]

    return Plugin()


def test_what_ships_is_found_by_entry_point_without_a_problem():
    plugins = load_plugins()
    assert plugins.problems == ()
    assert {"vit", "timm"} <= {item.entry.name for item in plugins.models}
    assert {item.origin.distribution for item in plugins.models} == {"edge-harness"}


def test_parameters_of_every_plugin_are_shown_as_json():
    for origin in load_plugins().origins:
        answer = CliRunner().invoke(cli, ["plugins", "show", origin.plugin, "--json"])
        assert answer.exit_code == 0, origin
        assert all(entry["plugin"] == origin.plugin for entry in json.loads(answer.stdout))


def test_a_plugin_is_added_and_blocked():
    assert "mine" in load_plugins(extra={"my-plugin": giving("mine")}).models
    assert "mine" not in load_plugins(["my-plugin"], extra={"my-plugin": giving("mine")}).models
    assert "vit" not in load_plugins(["timm"]).models


def test_entries_of_one_name_are_an_error_that_names_both_plugins():
    with pytest.raises(PluginError) as caught:
        load_plugins(extra={"a": giving("same"), "b": giving("same")})
    text = str(caught.value)
    assert all(word in text for word in ("'same'", "a (", "b (", "--block a", "--block b"))


class Raises:
    @hookimpl
    def harness_models(self):
        raise RuntimeError("boom")


class RaisesLate:
    @hookimpl
    def harness_models(self):
        yield ModelEntry(name="early", summary="", build=print)
        raise RuntimeError("late boom")


class WrongType:
    @hookimpl
    def harness_models(self):
        return [{"name": "dict"}]


class WrongParams:
    @hookimpl
    def harness_models(self):
        return [ModelEntry(name="x", summary="", build=print, params=dict)]


class UnknownHook:
    @hookimpl
    def harness_model(self):
        return []


@pytest.mark.parametrize(
    ("plugin", "hook", "words"),
    [
        (Raises(), "harness_models", "RuntimeError: boom"),
        (RaisesLate(), "harness_models", "RuntimeError: late boom"),
        (WrongType(), "harness_models", "gave dict, not ModelEntry"),
        (WrongParams(), "harness_models", "model 'x': params is <class 'dict'> (contract: params must be a "),
        (UnknownHook(), "import", "did you mean 'harness_models'?"),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_work(plugin, hook, words):
    plugins = load_plugins(extra={"bad": plugin, "good": giving("fine")})
    (problem,) = plugins.problems
    assert (problem.origin.plugin, problem.hook) == ("bad", hook)
    assert words in problem.reason
    assert "--block bad" in str(problem)
    assert "fine" in plugins.models
    with pytest.raises(UnknownEntry, match="not loaded: bad"):
        plugins.models.get("early")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(
        UnknownEntry, match=r"here: unknown model 'vot': did you mean 'vit'\? allowed: .*timm"
    ):
        load_plugins().models.get("vot", "here")


def test_a_missing_module_says_what_to_install():
    plugins = load_plugins(extra={"p": giving("x", requires=("no_such_module",), extra="bench")})
    assert plugins.models.get("x").not_installed == f"x needs no_such_module: {install_command('bench')}"
    plugins = load_plugins(extra={"p": giving("x", requires=("no_such_module",))})
    why = "x needs no_such_module: install the packages that contain them"
    assert plugins.models.get("x").not_installed == why


@pytest.mark.parametrize("inside_hook", [False, True])
def test_a_plugin_that_imports_torch_when_it_is_loaded_is_warned_of(tmp_path, inside_hook):
    """``torch`` is an empty module here, because only the import matters."""
    (tmp_path / "torch.py").touch()
    hook = "from harness.hookspecs import hookimpl\n@hookimpl\ndef harness_models():\n    import torch\n    return []\n"
    (tmp_path / "waves_plugin.py").write_text(hook if inside_hook else "import torch\n")
    info = tmp_path / "harness_waves-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-waves\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[harness]\nwaves = waves_plugin\n")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "plugins", "list", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stderr.splitlines() == [
        "warning: plugin waves (harness-waves 1.2) imports torch when it is loaded, which makes every command slow: "
        "import torch inside the function that uses it"
    ]


def test_what_ships_imports_nothing_slow_when_it_is_loaded():
    assert load_plugins().slow == ()


def test_a_typo_in_the_variable_that_blocks_plugins_is_warned_of(monkeypatch):
    monkeypatch.setenv("HARNESS_BLOCK_PLUGINS", "timn, edvit")
    answer = CliRunner().invoke(cli, ["plugins", "list", "--json"])
    assert answer.exit_code == 0
    assert answer.stderr.startswith(
        "warning: HARNESS_BLOCK_PLUGINS: no plugin 'timn'; did you mean 'timm'? allowed: "
    )
    assert answer.stderr.count("\n") == 1


def test_an_unknown_name_names_the_plugins_that_are_blocked():
    with pytest.raises(UnknownEntry, match=r"unknown model 'mine': allowed: .* \(blocked: my-plugin\)$"):
        load_plugins(["my-plugin", "absent"], extra={"my-plugin": giving("mine")}).models.get("mine")


def test_an_observer_that_raises_stops_nobody():
    seen = []

    class Bad:
        @hookimpl
        def harness_run_finished(self, records):
            raise ValueError("no")

    class Good:
        @hookimpl
        def harness_run_finished(self, records):
            seen.append(records)

    plugins = load_plugins(extra={"a-bad": Bad(), "good": Good()})
    plugins.notify("harness_run_finished", records=[1])
    assert seen == [[1]]
    assert [problem.origin.plugin for problem in plugins.observed] == ["a-bad"]


def test_every_hook_has_an_example_and_is_either_collecting_or_observing():
    specs = {name for name, value in vars(hookspecs).items() if hasattr(value, "harness_spec")}
    assert specs == {*hookspecs.COLLECTING, *hookspecs.OBSERVERS}
    for name in specs:
        assert "Example::" in inspect.getdoc(getattr(hookspecs, name)), name
    for name in hookspecs.COLLECTING:
        assert not inspect.signature(getattr(hookspecs, name)).parameters


TORCH_FREE = """
import sys
import harness, harness.types, harness.hookspecs, harness.plan.planner, harness.worker.worker, harness.run.runner
from harness.plugins import load_plugins
assert not load_plugins().problems
heavy = {"torch", "timm", "onnx", "onnxruntime", "pyarrow", "sklearn", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
HELP = """
import sys
from harness.cli import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
loaded = {"pydantic", "rich", "numpy", "torch", "pluggy", "ruamel"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize("code", [TORCH_FREE, HELP], ids=["core", "help"])
def test_what_must_stay_light(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_params_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="extra"):
        Params(**vars(SimpleNamespace(unknown=1)))


@pytest.mark.parametrize("hook", ["harness_models", "harness_run_started"])
def test_a_plugin_that_ends_the_process_is_a_problem(hook):
    def leave(self):
        sys.exit(0)

    plugins = load_plugins(extra={"p": type("Leaves", (), {hook: hookimpl(leave)})()})
    plugins.notify("harness_run_started", plan=None)
    assert [problem.hook for problem in (*plugins.problems, *plugins.observed)] == [hook]
