"""Tests of commands of plugins: found without being imported, blocked, broken, in conflict."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from harness.cli import VERBS, cli, main
from harness.cli.plugin_commands import SUMMARIES
from harness.errors import PluginError


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install a distribution: ``distribution(name, entry_points, code)``; its module is ``name`` with ``_``."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, points: str, code: str) -> None:
        module = name.replace("-", "_")
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(points)
        (tmp_path / f"{module}.py").write_text(code)

    yield install
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def call(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


WAVE = """
import click
@click.command("wave")
@click.option("--twice", is_flag=True)
def command(twice):
    "Wave."
    click.echo("hello" * (1 + twice))
"""


@pytest.mark.parametrize(
    ("group", "words"), [("harness.commands", ["wave"]), ("harness.commands.devices", ["devices", "wave"])]
)
def test_a_command_of_a_plugin_runs_and_is_hidden_with_its_plugin(
    distribution, monkeypatch, capsys, group, words
):
    distribution("my-waves", f"[harness]\nwaves = my_waves\n[{group}]\nwave = my_waves:command\n", WAVE)
    assert call(monkeypatch, capsys, *words, "--twice") == (0, "hellohello\n", "")
    assert "from my-waves 1.2" in call(monkeypatch, capsys, *words[:-1], "--help")[1]

    monkeypatch.setenv("HARNESS_BLOCK_PLUGINS", "waves")
    assert "wave" not in call(monkeypatch, capsys, *words[:-1], "--help")[1]
    code, _, message = call(monkeypatch, capsys, *words)
    assert (code, message.count("\n")) == (2, 1)
    assert "no command 'wave'; its plugin is blocked by HARNESS_BLOCK_PLUGINS" in message


@pytest.mark.parametrize(
    ("code", "value", "reason"),
    [
        ("import a_module_that_is_not_there", "my_waves:command", "ModuleNotFoundError: No module named"),
        ("def command(): ...", "my_waves:command", "gave function, not a click.Command"),
        ("", "my_waves:command", "AttributeError"),
        ("", "not_my_waves:command", "No module named 'not_my_waves'"),
    ],
)
def test_a_broken_command_is_one_line_and_the_others_work(
    distribution, monkeypatch, capsys, code, value, reason
):
    distribution("my-waves", f"[harness.commands]\nwave = {value}\n", code)
    left, _, message = call(monkeypatch, capsys, "wave")
    assert (left, message.count("\n")) == (2, 1)
    assert reason in message
    assert "my-waves 1.2" in message
    assert "install my-waves again" in message
    assert call(monkeypatch, capsys, "suites", "list")[0] == 0


def test_a_command_with_the_name_of_a_core_verb_names_both(distribution, monkeypatch, capsys):
    distribution("my-waves", "[harness.commands]\nsuites = my_waves:command\n", WAVE)
    left, _, message = call(monkeypatch, capsys, "suites", "list")
    assert (left, message.count("\n")) == (2, 1)
    assert all(word in message for word in ("'suites'", "the harness itself", "my-waves 1.2"))
    left, shown, _ = call(monkeypatch, capsys, "--help")
    assert left == 0
    assert "given by the harness itself and my-waves 1.2" in " ".join(shown.split())


def test_a_command_that_two_distributions_give_names_both(distribution):
    distribution("my-waves", "[harness.commands]\nwave = my_waves:command\n", WAVE)
    distribution("your-waves", "[harness.commands]\nwave = your_waves:command\n", WAVE)
    with pytest.raises(PluginError, match=r"'wave' is given by my-waves 1\.2 and your-waves 1\.2"):
        cli.get_command(click.Context(cli), "wave")


def test_help_imports_no_plugin_and_no_core():
    code = (
        "import sys; sys.argv = ['harness', '--help']\n"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('harness_', 'numpy', 'grpc', 'harness.plugins'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
    assert "agent" in done.stdout


@pytest.mark.parametrize("points", SUMMARIES)
def test_what_help_says_of_a_shipped_command_is_what_the_command_says(points):
    context = click.Context(cli)
    group = cli if points == "harness.commands" else cli.get_command(context, "devices")
    assert isinstance(group, click.Group)
    for name, summary in SUMMARIES[points].items():
        command = group.get_command(context, name)
        assert command is not None, name
        assert command.get_short_help_str(200) == summary
    assert not set(SUMMARIES[points]) & set(VERBS)
