"""Commands of plugins. They are found by entry point and imported on use, so that ``--help`` imports none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["SUMMARIES", "PluginGroup"]

# The lines of --help for the commands that ship with the harness. Other commands show their distribution.
SUMMARIES = {
    "harness.commands": {
        "agent": "Make this machine a board that others measure on.",
        "lab": "Run virtual boards on this machine: the same agent, behind emulated links.",
    },
    "harness.commands.devices": {
        "add": "Add a board whose agent is already running to the inventory.",
        "check": "Check the named boards, or all boards, and measure clock and link.",
        "profile": "Measure the speed of NAME, a board of the inventory or cpu, for estimates and placers.",
        "remove": "Remove a board from the inventory.",
        "setup": "Install or upgrade the agent on a board over ssh, and add the board to the inventory.",
    },
}


class PluginGroup(click.Group):
    """A group with its own commands and with those that entry points in the group ``points`` name."""

    def __init__(self, *arguments: Any, points: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.points = points

    def own(self) -> Mapping[str, str]:
        """Return the commands of the harness itself, as name -> line of --help."""
        return {name: command.get_short_help_str(90) for name, command in self.commands.items()}

    def own_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command ``name`` of the harness itself, or None if there is none."""
        return super().get_command(ctx, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands: first those of the harness, then those of plugins.

        No command is imported.
        """
        return [*self.own(), *(name for name in self._plugin_points() if name not in self.own())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return the command ``name``, or return None if there is none.

        Raises:
            PluginError: two distributions give the command, or it cannot be imported.
        """
        points = self._plugin_points().get(name, [])
        self._check_clash(name, points)
        return _load(points[0]) if points else self.own_command(ctx, name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that the arguments name. The error for an unknown command names the nearest match."""
        from harness.errors import nearest

        if args and not args[0].startswith("-") and args[0] not in self.own():
            names = self.list_commands(ctx)
            if args[0] not in names:
                hint = nearest(args[0], names)
                if args[0] in self._blocked_names():
                    hint = "its plugin is blocked by HARNESS_BLOCK_PLUGINS"
                raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for ``--help``. A command of a plugin shows the name of its distribution."""
        from harness.errors import PluginError

        rows, troubles = dict(self.own()), []
        for name, points in self._plugin_points().items():
            try:
                self._check_clash(name, points)
            except PluginError as error:
                troubles.append((name, str(error)))
                continue
            rows[name] = SUMMARIES[self.points].get(name) or f"from {_distribution(points[0])}"
        with formatter.section("Commands"):
            formatter.write_dl(list(rows.items()))
        if troubles:
            with formatter.section("Not usable"):
                formatter.write_dl(troubles)

    def _blocked_names(self) -> set[str]:
        """Return the names of commands whose plugins are blocked."""
        from importlib.metadata import entry_points

        return {point.name for point in entry_points(group=self.points)} - self._plugin_points().keys()

    def _plugin_points(self) -> dict[str, list[EntryPoint]]:
        """Return name -> the entry points of that name whose plugins are not blocked."""
        from importlib.metadata import entry_points

        points = entry_points()
        blocked = set(os.environ.get("HARNESS_BLOCK_PLUGINS", "").replace(" ", "").split(","))
        hidden = {_package(point) for point in points.select(group="harness") if point.name in blocked}
        by_name: dict[str, list[EntryPoint]] = {}
        for point in sorted(points.select(group=self.points), key=lambda point: (point.name, point.value)):
            if _package(point) not in hidden:
                by_name.setdefault(point.name, []).append(point)
        return by_name

    def _check_clash(self, name: str, points: list[EntryPoint]) -> None:
        from harness.errors import PluginError

        owners = [_distribution(point) for point in points]
        if points and name in self.own():
            owners.insert(0, "the harness itself")
        if len(owners) > 1:
            raise PluginError(
                f"command {name!r} is given by {' and '.join(owners)}; uninstall one, or name its plugin in "
                "HARNESS_BLOCK_PLUGINS"
            )


def _load(point: EntryPoint) -> click.Command:
    from harness.errors import PluginError, first_line
    from harness.extras import missing_module

    try:
        command = point.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"gave {type(command).__name__}, not a click.Command")
    except Exception as error:
        if missing := missing_module(error):
            raise PluginError(f"command {point.name!r} {missing}") from error
        text = first_line(error, kind=True)
        raise PluginError(
            f"command {point.name!r} of {_distribution(point)} cannot be used: {point.value}: {text}; install "
            f"{point.dist.metadata['Name'] if point.dist else 'it'} again, with the extras that it asks for"
        ) from error
    return command


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.metadata['Name']} {point.dist.version}" if point.dist else "?"


def _package(point: EntryPoint) -> str:
    """Return the top-level package of an entry point: a command belongs to the plugins of its package."""
    return point.value.partition(":")[0].partition(".")[0]
