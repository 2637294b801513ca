"""The commands ``harness plugins list`` and ``harness plugins show``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import block_option, load
from harness.cli.output import echo, echo_json

if TYPE_CHECKING:
    from harness.registry import Registered
    from harness.types.json import JsonObject


@click.group("plugins")
def command() -> None:
    """List plugins and what they provide."""


@command.command("list")
@block_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(block: tuple[str, ...], as_json: bool) -> int:
    """List every plugin, what it provides, and what is missing or broken. Exit code 1 means that a plugin is broken."""
    plugins = load(block)
    rows = [
        {
            "kind": registry.kind,
            "name": item.entry.name,
            "summary": item.entry.summary,
            "plugin": item.origin.plugin,
            "from": f"{item.origin.distribution} {item.origin.version}",
            "missing": item.not_installed,
        }
        for registry in plugins.registries()
        for item in registry
    ]
    broken = [
        {
            "plugin": problem.origin.plugin,
            "from": f"{problem.origin.distribution} {problem.origin.version}",
            "hook": problem.hook,
            "reason": problem.reason,
        }
        for problem in plugins.problems
    ]
    for slow in plugins.slow:
        echo(f"warning: {slow}", err=True)
    if as_json:
        echo_json({"entries": rows, "broken": broken, "blocked": plugins.blocked})
        return 1 if broken else 0
    from rich.markup import escape
    from rich.table import Table

    from harness.render.console import wide_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "name", "summary", "plugin", "from"):
        table.add_column(column, overflow="fold")
    kind = ""
    for row in rows:
        summary = (
            f"{row['summary']}\n[yellow]{escape(row['missing'])}[/]" if row["missing"] else row["summary"]
        )
        table.add_row(
            row["kind"] if row["kind"] != kind else "",
            f"[bold]{row['name']}[/]",
            summary,
            row["plugin"],
            row["from"],
        )
        kind = row["kind"]
    console = wide_console()
    console.print(table)
    for problem in plugins.problems:
        console.print(f"[red]broken[/] {escape(str(problem))}", soft_wrap=True, highlight=False)
    return 1 if broken else 0


@command.command("show")
@click.argument("name")
@block_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, block: tuple[str, ...], as_json: bool) -> None:
    """Show the parameters, defaults and origin of an entry.

    NAME is an entry (edgevit) or a plugin (timm). For a plugin all its entries are shown.
    """
    from harness.errors import SuiteError, nearest

    plugins = load(block)
    items = [(r.kind, i) for r in plugins.registries() for i in r if name in (i.entry.name, i.origin.plugin)]
    if not items:
        names = {i.entry.name for r in plugins.registries() for i in r} | {o.plugin for o in plugins.origins}
        raise SuiteError(f"no entry or plugin {name!r}; {nearest(name, names)}")
    shown = [_EntryView.of(kind, item) for kind, item in items]
    if as_json:
        echo_json([view.to_json() for view in shown])
        return
    for view in shown:
        echo(f"{view.name}", bold=True, end="")
        echo(f"  {view.kind}: {view.summary}\n  from {view.origin}, plugin {view.plugin}")
        if view.missing:
            echo(f"  {view.missing}", fg="yellow")
        for key, param in view.params.items():
            default = "required" if param.required else f"default {param.default!r}"
            echo(
                f"    {key}: {param.type}, {default}"
                + (f"  ({param.description})" if param.description else "")
            )
        echo()


@dataclass(frozen=True)
class _ParamView:
    """A parameter of an entry. ``default`` is JSON, None if the parameter is required."""

    type: str
    required: bool
    default: Any
    description: str


@dataclass(frozen=True)
class _EntryView:
    """An entry. ``origin``: distribution and version. ``missing``: why it cannot be used here, or None."""

    kind: str
    name: str
    summary: str
    plugin: str
    origin: str
    missing: str | None
    params: Mapping[str, _ParamView]

    @classmethod
    def of(cls, kind: str, item: Registered[Any]) -> _EntryView:
        from pydantic_core import to_jsonable_python

        fields = item.entry.params.model_fields
        schema = item.entry.params.model_json_schema().get("properties", {})
        params = {
            name: _ParamView(
                type=_type(schema.get(field.alias or name, {})),
                required=field.is_required(),
                default=None
                if field.is_required()
                else to_jsonable_python(field.get_default(call_default_factory=True)),
                description=field.description or "",
            )
            for name, field in fields.items()
        }
        return cls(
            kind=kind,
            name=item.entry.name,
            summary=item.entry.summary,
            plugin=item.origin.plugin,
            origin=f"{item.origin.distribution} {item.origin.version}",
            missing=item.not_installed,
            params=params,
        )

    def to_json(self) -> JsonObject:
        return {"from" if name == "origin" else name: value for name, value in asdict(self).items()}


def _type(schema: JsonObject) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type(option) for option in schema["anyOf"])
    kind = str(schema.get("type", "value"))
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    bounds = f" from {low}" if low is not None else ""
    bounds += f" to {high}" if high is not None else ""
    return kind + bounds
