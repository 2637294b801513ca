"""Tables of a plan: its steps, with those that are prepared already, and its cells by method and device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.render.console import wide_console
from harness.render.counted import counted

if TYPE_CHECKING:
    from harness.types.plan import Cell, Plan

__all__ = ["show"]


def show(plan: Plan, prepared: set[str], console: Console | None = None) -> None:
    """Print ``plan``. ``prepared`` has the keys of the steps that are in the cache."""
    console = console or wide_console()
    host = plan.host
    where = host.gpu or f"{host.device}, {host.capability}"
    console.print(
        f"[bold]{plan.suite}[/]: {counted(len(plan.nodes), 'step')} ({len(prepared)} prepared already), "
        f"{counted(len(plan.cells), 'cell')}; training on {where}"
    )
    steps = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        title="steps (✓: prepared already)",
        title_justify="left",
    )
    for column, least in (("", 1), ("stage", 9), ("entry", 16), ("for", 20), ("key", 8)):
        steps.add_column(column, no_wrap=True, min_width=least)
    for node in plan.nodes.values():
        mark = "[green]✓[/]" if node.key in prepared else "·"
        steps.add_row(mark, node.stage, node.entry, node.label, f"[dim]{node.key[:8]}[/]")
    console.print(steps)
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.method, cell.task.device, cell.task.runtime.name), []).append(cell)
    table = Table(box=None, pad_edge=False, header_style="dim", title="cells", title_justify="left")
    for column in ("method", "device", "runtime", "seeds", "cells", "note"):
        table.add_column(column, overflow="fold")
    for (method, device, runtime), cells in groups.items():
        seeds = ", ".join(str(seed) for seed in sorted({cell.seed for cell in cells}))
        reason = cells[0].impossible or ("its data is not here" if cells[0].absent else "")
        note = f"[yellow]skipped: {escape(reason)}[/]" if reason else ""
        table.add_row(method, device, runtime, seeds, str(len(cells)), note)
    console.print(table)
    facts = [cell.task.data for cell in plan.cells]
    for name, note in dict.fromkeys((data.name, data.note) for data in facts if data.note):
        console.print(f"data {escape(name)}: {escape(note)}", highlight=False)
    for device, meters in dict.fromkeys(_energy(cell) for cell in plan.cells):
        console.print(f"energy on {device}: {escape(meters)}", highlight=False)


def _energy(cell: Cell) -> tuple[str, str]:
    """Return the device of a cell, and its meters or the reason why there are none."""
    names = [use.info.name for monitor in cell.task.monitors for use in monitor.meters]
    no_meter = cell.task.no_meter
    texts = [", ".join(names), no_meter if names else no_meter.partition(" (")[0]]
    return cell.task.device, "; ".join(filter(None, texts))
