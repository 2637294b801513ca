"""The command line. Each command has a file of its own, which is imported only when the command is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import click

from harness.cli.plugin_commands import PluginGroup
from harness.quiet import no_current_folder

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
        with _pipes():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _pipes():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


class _Unread(Exception):
    """Nobody reads the output any more, as in `harness plan | head`, or because the terminal is closed."""


@contextlib.contextmanager
def _pipes() -> Iterator[None]:
    """Raise ``_Unread`` for an output that nobody reads, and a one-line error for any other broken pipe.

    click treats every broken pipe as one of the output and exits without a message. The pipe of a child process can
    break too, and a person must learn of that. A closed terminal gives EIO.
    """
    from harness.errors import HarnessError

    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO) and any(map(_unread, (sys.stdout, sys.stderr))):
            raise _Unread("the terminal is closed" if error.errno == errno.EIO else "") from None
        if isinstance(error, BrokenPipeError):
            raise HarnessError(f"a process of the harness went away: {error}") from error
        raise


def _unread(stream: TextIO) -> bool:
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in asked.poll(0))
    except (OSError, ValueError):  # the stream is closed, or is not a file
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
    """Run the command line.

    An error that a person can act on prints one line and gives exit code 2. Ctrl-C gives 130. Output that nobody
    reads gives 141.
    """
    from harness.errors import HarnessError

    no_current_folder()
    try:
        try:
            code = cli.main(standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            with _pipes():
                error.show(sys.stdout)
            code = 0
    except _Unread as error:
        if str(error):
            _complain(str(error))
        code = 128 + signal.SIGPIPE
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        _complain(error.format_message())
        code = 2
    except HarnessError as error:
        _complain(str(error))
        code = 2
    except KeyboardInterrupt:
        code = 130
    for stream in filter(_unread, (sys.stdout, sys.stderr)):
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), stream.fileno()
        )  # else Python fails at its end, in writing the rest
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may read it
        click.echo(f"error: {text}", err=True)
