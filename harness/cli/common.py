"""Options and steps that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.cli.output import TRACEBACK, echo

if TYPE_CHECKING:
    from harness.plan.planner import Planned
    from harness.plugins import Plugins
    from harness.types.selection import Selection

__all__ = [
    "PathType",
    "SuiteChoice",
    "block_option",
    "load",
    "make",
    "progress_options",
    "results_folder",
    "suite_options",
    "warn_problems",
]

F = TypeVar("F", bound=Callable[..., Any])


class PathType(click.Path):
    """The type of every option and argument that is a path. An empty one is refused.

    Python takes an empty path for the current folder, and a shell gives one for a variable that is not set.
    """

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises ``click.BadParameter`` if it is empty, or is not of the kind that is asked for."""
        if not os.fspath(value):
            self.fail("the path is empty (a shell variable that is not set?)", param, ctx)
        return super().convert(value, param, ctx)


def block_option(function: F) -> F:
    """Add ``--block PLUGIN``, for every command that loads plugins."""
    return click.option("--block", multiple=True, metavar="PLUGIN", help="Leave a plugin out (repeatable).")(
        function
    )


@dataclass(frozen=True)
class SuiteChoice:
    """A suite that the command line names, with the options that narrow or change it.

    ``overrides``: texts KEY=VALUE. ``only``: patterns of methods; empty for all. ``devices``: the devices to keep; empty for all.
    ``block``: names of plugins that are not loaded.
    """

    suite: str
    overrides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    block: tuple[str, ...] = ()

    @property
    def selection(self) -> Selection:
        """Return the part of the suite that is kept."""
        from harness.types.selection import Selection

        return Selection(self.only, self.devices)


def suite_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add SUITE and the options that narrow or change it; ``function`` takes them as one :class:`SuiteChoice`."""

    @wraps(function)
    def grouped(
        suite: str,
        overrides: tuple[str, ...],
        only: tuple[str, ...],
        devices: tuple[str, ...],
        block: tuple[str, ...],
        **options: Any,
    ) -> Any:
        return function(SuiteChoice(suite, overrides, only, devices, block), **options)

    decorated: Callable[..., Any] = grouped
    for decorate in (
        click.argument("suite"),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a value of the suite, e.g. measure.repeats=3 (repeatable).",
        ),
        click.option(
            "--only",
            multiple=True,
            metavar="PATTERN",
            help="Use only methods that match, e.g. 'edgevit-*' (repeatable).",
        ),
        click.option(
            "--device",
            "devices",
            multiple=True,
            metavar="NAME",
            help="Use only this device of the suite (repeatable).",
        ),
        block_option,
    ):
        decorated = decorate(decorated)
    return decorated


def progress_options(function: F) -> F:
    """Add the options that say what a run prints while it runs."""
    for decorate in (
        click.option(
            "--traceback",
            is_flag=True,
            envvar=TRACEBACK,
            help="Print the tracebacks of failures instead of keeping them in the results folder.",
        ),
        click.option("--plain", is_flag=True, help="Print plain lines in place of a live table."),
        click.option("-q", "--quiet", is_flag=True, help="Print only failures and, at the end, the results."),
    ):
        function = decorate(function)
    return function


def load(block: Sequence[str]) -> Plugins:
    """Return all plugins that are not blocked by ``--block`` or ``HARNESS_BLOCK_PLUGINS`` (comma-separated).

    A name in the variable that is not installed is a warning, since the variable may serve several environments.

    Raises:
        PluginError: ``--block`` names a plugin that is not installed.
    """
    from importlib.metadata import entry_points

    from harness.errors import PluginError, nearest
    from harness.plugins import load_plugins

    installed = entry_points(group="harness").names
    for name in block:
        if name not in installed:
            raise PluginError(f"--block {name}: no such plugin; {nearest(name, installed)}")
    always = os.environ.get("HARNESS_BLOCK_PLUGINS", "").replace(" ", "").split(",")
    for name in filter(None, dict.fromkeys(always)):
        if name not in installed:
            echo(f"warning: HARNESS_BLOCK_PLUGINS: no plugin {name!r}; {nearest(name, installed)}", err=True)
    return load_plugins([*block, *always])


def results_folder(suite: str) -> Path:
    """Return the results folder of a suite that `harness run` uses by default."""
    return Path("results") / "local" / suite


def warn_problems(plugins: Plugins) -> None:
    """Print a warning for each plugin that could not be used, or that makes commands slow."""
    for problem in (*plugins.problems, *plugins.slow):
        echo(f"warning: {problem}", err=True)


def make(chosen: SuiteChoice, plugins: Plugins) -> Planned:
    """Load a suite and plan it for this machine."""
    from harness.plan.host import prepare_host
    from harness.plan.planner import make_plan
    from harness.suite.loading import keep_devices, load_suite
    from harness.suite.shipped import find_suite

    suite = keep_devices(load_suite(find_suite(chosen.suite), chosen.overrides), chosen.devices)
    return make_plan(suite, plugins, prepare_host(suite, plugins), chosen.only)
