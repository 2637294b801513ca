"""The command line. Each command has a file of its own, which is imported only when the command is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from harness.cli.output import echo, unforeseen
from harness.cli.plugin_commands import PluginGroup
from harness.errors import HarnessError, Stopped
from harness.quiet import clean_path

__all__ = ["main"]

VERBS = {
    "run": "Train, compress, split, export and measure what a suite names; show the leaderboard.",
    "plan": "Show what a run would do, without doing it.",
    "claims": "Print whether each claim of a suite's paper is reproduced.",
    "leaderboard": "Print leaderboards from the records of one or more results folders.",
    "results": "Check and show records.",
    "plugins": "List plugins and what they provide.",
    "devices": "List the devices of this machine, and work with boards.",
    "suites": "List and show the suites that come with the harness; their JSON Schema.",
    "cache": "List and clear prepared artifacts.",
}


class _Verbs(PluginGroup):
    """The commands of the harness, which are imported when they are used, and the commands of plugins."""

    def own(self) -> Mapping[str, str]:
        return VERBS

    def own_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"harness.cli.{name}")
        return module.command  # type: ignore[no-any-return]

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with _stops():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _stops():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


class _Ended(Exception):
    """The command was stopped. click prints a blank line for any ``KeyboardInterrupt`` that it sees."""

    def __init__(self, stopped: Stopped) -> None:
        super().__init__(stopped.reason)
        self.stopped = stopped


@contextmanager
def _stops() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise _Ended(Stopped.of(error)) from None
    except BrokenPipeError as error:  # click ends without a message for any broken pipe
        raise HarnessError(f"a process of the harness went away: {error}") from error


@click.group(
    cls=_Verbs,
    points="harness.commands",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="edge-harness", prog_name="harness")
def cli() -> None:
    """Benchmark Vision Transformers at the edge: accuracy, latency, energy and memory on equal terms.

    Start with:  harness run edge
    """


def main() -> None:
    """Run the command line.

    An error that a person can act on prints one line and gives exit code 2. A command that is stopped gives 128 plus
    the number of the signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 141 if nobody reads the output. An
    error that nobody foresaw is a fault of the harness or of a plugin, and gives 70.
    """
    from harness.cli.signals import stopping_signals
    from harness.cli.streams import standard_streams

    with clean_path(), standard_streams():
        with stopping_signals():
            code, message = _run()
        if message:
            echo(message, err=True)
    sys.exit(code)


def _run() -> tuple[int, str]:
    """Run the command line. Return the exit code, and a line about why the command ended early."""
    try:
        try:
            code = cli.main(standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            with _stops():
                error.show(sys.stdout)
                sys.stdout.flush()
            return 0, ""
    except _Ended as error:
        return error.stopped.code, error.stopped.reason
    except click.exceptions.Abort:
        return 130, "nothing was done: the question was not answered"
    except click.ClickException as error:
        return 2, f"error: {HarnessError(error.format_message())}"
    except HarnessError as error:
        return 2, f"error: {error}"
    except KeyboardInterrupt as error:
        stopped = Stopped.of(error)
        return stopped.code, stopped.reason
    except Exception as error:  # noqa: BLE001 - a person cannot act on a traceback
        return unforeseen(error)
    return code if isinstance(code, int) else 0, ""
