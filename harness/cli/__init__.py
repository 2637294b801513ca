"""The command line: one file per verb, loaded only when its verb is used."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from harness.cli.plugin_commands import GivenGroup

__all__ = ["main"]

VERBS = {
    "run": "Train, compress, split, export and measure what a suite names; show the leaderboard.",
    "plan": "Show what a run would do, without doing it.",
    "claims": "Say of every claim of a suite's paper whether it is reproduced.",
    "leaderboard": "Leaderboards from the records of one or more results folders.",
    "results": "Check and show records.",
    "plugins": "List plugins and what they give.",
    "devices": "The devices of this machine, and boards.",
    "suites": "List and show the suites that come with the harness; their JSON Schema.",
    "cache": "List and clear prepared artifacts.",
}


class _Verbs(GivenGroup):
    """The verbs of the harness, imported on use, and those of plugins."""

    def own(self) -> Mapping[str, str]:
        return VERBS

    def own_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"harness.cli.{name}")
        return module.command  # type: ignore[no-any-return]

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        with _pipes():
            return super().make_context(*given, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _pipes():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


class _Unread(Exception):
    """Nobody reads our output any more: `harness plan | head`."""


@contextmanager
def _pipes() -> Iterator[None]:
    """Whatever pipe breaks, click takes it for our output, and ends without a word: so it is told no pipe."""
    from harness.errors import HarnessError

    try:
        yield
    except BrokenPipeError as error:
        if any(map(_unread, (sys.stdout, sys.stderr))):
            raise _Unread from None
        raise HarnessError(f"a process of the harness went away: {error}") from error


def _unread(stream: TextIO) -> bool:
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        return any(told & (select.POLLERR | select.POLLHUP) for _, told in asked.poll(0))
    except (OSError, ValueError):  # closed, or no file
        return False


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
    """Entry point: errors that a person can act on are one line and exit code 2; Ctrl-C is 130, output unread 141."""
    from harness.errors import HarnessError

    try:
        try:
            code = cli.main(standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            with _pipes():
                error.show(sys.stdout)
            code = 0
    except _Unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except HarnessError as error:
        click.echo(f"error: {error}", err=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
