"""The commands ``harness suites list``, ``show`` and ``schema``."""

from __future__ import annotations

import click

from harness.cli.common import block_option, load
from harness.cli.output import echo, echo_json


@click.group("suites")
def command() -> None:
    """List and print the suites that come with the harness."""


@command.command("list")
def list_() -> None:
    """List the names of the shipped suites. `harness run NAME` runs one."""
    from harness.suite.shipped import shipped_suites

    suites = shipped_suites()
    width = max(map(len, suites), default=0)
    for name, path in suites.items():
        first = path.read_text().partition("\n")[0]  # a comment that describes the suite
        echo(f"{name:<{width}}  {first.lstrip('# ')}")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Print the YAML of a suite, from which you can start your own."""
    from harness.suite.shipped import find_suite
    from harness.suite.yamlfile import read_text

    echo(read_text(find_suite(name), "a suite"), end="")


@command.command("schema")
@block_option
def schema(block: tuple[str, ...]) -> None:
    """Print a JSON Schema of suites, for editors.

    It contains the parameters of the installed plugins.
    """
    from harness.plan.schema import suite_schema

    echo_json(suite_schema(load(block)))
