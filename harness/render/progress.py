"""The progress of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.render.characters import shown
from harness.render.console import console_on
from harness.render.counted import counted
from harness.results.unnamed import unnamed

if TYPE_CHECKING:
    from harness.prepare.messages import Failure
    from harness.types.plan import Cell, Node, Plan
    from harness.types.record import Record

__all__ = ["LiveWatcher", "PlainWatcher", "QuietWatcher", "watcher"]

MARKS = {"ok": "[green]✓[/]", "partial": "[yellow]~[/]", "failed": "[red]✗[/]", "skipped": "[dim]–[/]"}


def watcher(
    stream: IO[str], *, quiet: bool, plain: bool, environment: Mapping[str, str] = os.environ
) -> LiveWatcher | PlainWatcher | QuietWatcher:
    """Return a watcher that prints failures only if ``quiet``, lines if ``plain``, and else shows a live table.

    A live table needs a terminal that moves its cursor. ``TERM=dumb`` and ``NO_COLOR`` say that a person wants none.
    """
    if quiet:
        return QuietWatcher(sys.stderr)
    dumb = environment.get("TERM", "dumb") in ("dumb", "unknown") or environment.get("NO_COLOR")
    return PlainWatcher(stream) if plain or dumb or not stream.isatty() else LiveWatcher(console_on(stream))


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _named(node: Node) -> str:
    return f"{node.stage} {node.entry}, {node.label}"


def _reason(failure: Failure) -> str:
    """Return the plugin whose code failed, if it was a plugin's code, the reason, and the file of the traceback."""
    name = unnamed(failure.plugin, failure.reason)
    plugin = f" (plugin {name})" if name else ""
    trace = f" (traceback: {failure.traceback})" if failure.traceback else ""
    return f"{plugin}: {failure.reason}{trace}"


def _summary(record: Record) -> str:
    """Return a short text about a finished cell."""
    if record.status in ("failed", "skipped"):
        return f"{record.status}: {record.reason}" + (f" ({record.traceback})" if record.traceback else "")
    latency = record.latency.p50_ms
    top1 = record.accuracy.top1
    words = [f"top1 {top1:.1f} %" if top1 is not None else "", f"p50 {latency:.3g} ms" if latency else ""]
    return "  ".join(word for word in [*words, " ".join(record.flags)] if word)


class PlainWatcher:
    """A watcher that prints one line per finished step, and one about a long step every ``every_s`` seconds.

    It implements :class:`~harness.run.outcome.Watcher`. ``clock`` returns a time in seconds.
    """

    def __init__(
        self, stream: IO[str], *, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream = stream
        self.total = self.done = 0
        self._every_s = every_s
        self._clock = clock
        self._last_said: dict[str, float] = {}  # key of a node in progress -> time of its start or last line

    def say(self, text: str) -> None:
        """Print a line to the stream at once."""
        print(shown(text, self.stream), file=self.stream, flush=True)

    def started(self, plan: Plan, nodes: Sequence[Node], cells: Sequence[Cell], kept: int) -> None:
        """Print how many steps are to be prepared and how many cells are to be measured."""
        self.total = len(cells)
        kept_text = f", {kept} measured already" if kept else ""
        self.say(
            f"suite {plan.suite}: {counted(len(nodes), 'step')} to prepare, {counted(len(cells), 'cell')} to measure{kept_text}"
        )

    def node_started(self, node: Node) -> None:
        """Print nothing."""
        self._last_said[node.key] = self._clock()

    def node_progress(self, node: Node, text: str, fraction: float | None) -> None:
        """Print what the step does, if nothing was printed about it for a while."""
        now = self._clock()
        if now - self._last_said.setdefault(node.key, now) >= self._every_s:
            self._last_said[node.key] = now
            share = "" if fraction is None else f", {fraction:.0%} done"
            self.say(f"preparing {node.stage:<9} {node.entry:<16} {node.label}  {text}{share}")

    def node_finished(self, node: Node, seconds: float) -> None:
        """Print the step and its duration."""
        self.say(f"prepared  {node.stage:<9} {node.entry:<16} {node.label}  {seconds:.1f} s")

    def node_failed(self, node: Node, failure: Failure) -> None:
        """Print the failed step, the reason, and the file of the traceback."""
        self.say(f"FAILED    {node.stage:<9} {node.entry:<16} {node.label}{_reason(failure)}")

    def traced(self, trace: str) -> None:
        """Print the traceback."""
        self.say(trace)

    def noted(self, text: str) -> None:
        """Print a warning."""
        self.say(f"warning: {text}")

    def tick(self) -> None:
        """Print nothing."""

    def cell_started(self, cell: Cell) -> None:
        """Print nothing."""

    def cell_finished(self, cell: Cell, record: Record) -> None:
        """Print the cell, its number, and its status or main figures."""
        self.done += 1
        device = cell.task.device
        self.say(
            f"[{self.done}/{self.total}] {cell.method} on {device}, seed {cell.seed}, "
            f"repeat {cell.repeat}: {_summary(record)}"
        )

    def cell_delayed(self, cell: Cell, board: str) -> None:
        """Print that a cell is tried again, and count it once more."""
        self.total += 1
        self.say(f"{cell.method} on {cell.task.device} is tried again when {board} is back")

    def board_awaited(self, board: str, seconds: float) -> None:
        """Print the board and the longest wait."""
        self.say(f"waiting for {board}, {seconds:.0f} s at most")

    def close(self) -> None:
        """Print nothing."""


class QuietWatcher:
    """A watcher that prints failed steps and warnings only. It implements :class:`~harness.run.outcome.Watcher`.

    Cells that failed are in the lines at the end of the run.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._plain = PlainWatcher(stream)
        self.node_failed = self._plain.node_failed
        self.noted = self._plain.noted
        self.traced = self._plain.traced

    def started(self, plan: Plan, nodes: Sequence[Node], cells: Sequence[Cell], kept: int) -> None:
        """Print nothing."""

    def node_started(self, node: Node) -> None:
        """Print nothing."""

    def node_progress(self, node: Node, text: str, fraction: float | None) -> None:
        """Print nothing."""

    def node_finished(self, node: Node, seconds: float) -> None:
        """Print nothing."""

    def tick(self) -> None:
        """Print nothing."""

    def cell_started(self, cell: Cell) -> None:
        """Print nothing."""

    def cell_finished(self, cell: Cell, record: Record) -> None:
        """Print nothing."""

    def cell_delayed(self, cell: Cell, board: str) -> None:
        """Print nothing."""

    def board_awaited(self, board: str, seconds: float) -> None:
        """Print nothing."""

    def close(self) -> None:
        """Print nothing."""


@dataclass
class _Row:
    """The state of one method in the live table."""

    nodes: set[str] = field(default_factory=set)
    cells: int = 0
    prepared: set[str] = field(default_factory=set)
    measured: int = 0
    status: str = ""
    last: str = ""


class LiveWatcher:
    """A watcher that shows a table with a row per method and a line per training in progress.

    It implements :class:`~harness.run.outcome.Watcher`. It draws only when something happened, in the thread that
    runs the suite. Therefore it draws nothing while a window is open.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.rows: dict[str, _Row] = {}
        self.active: dict[str, tuple[Node, str, float | None, float]] = {}
        self.measuring = ""
        self.start = self.drawn = time.monotonic()
        self.counts = [0, 0, 0, 0]  # steps done, all steps, cells done, all cells

    def started(self, plan: Plan, nodes: Sequence[Node], cells: Sequence[Cell], kept: int) -> None:
        """Count the steps and cells of each method, and show the table."""
        pending = {node.key for node in nodes}
        for cell in cells:
            row = self.rows.setdefault(cell.method, _Row())
            row.cells += 1
            if cell.skipped is None:
                row.nodes |= pending.intersection(plan.needed_by(cell))
        self.counts = [0, len(nodes), 0, len(cells)]
        self.start = time.monotonic()
        kept_text = f", {counted(kept, 'cell')} measured already" if kept else ""
        self.console.print(
            f"[bold]{plan.suite}[/]: {counted(len(plan.cells), 'cell')}, {counted(len(nodes), 'step')} to prepare{kept_text}"
        )
        self.live.start()
        self.draw(force=True)

    def node_started(self, node: Node) -> None:
        """Add a line for the step."""
        self.active[node.key] = (node, "", None, time.monotonic())
        self.draw()

    def node_progress(self, node: Node, text: str, fraction: float | None) -> None:
        """Update the step's line."""
        started = self.active[node.key][3] if node.key in self.active else time.monotonic()
        self.active[node.key] = (node, text, fraction, started)
        self.draw()

    def node_finished(self, node: Node, seconds: float) -> None:
        """Remove the step's line, and count the step in its methods' rows."""
        self.active.pop(node.key, None)
        self.counts[0] += 1
        for row in self.rows.values():
            if node.key in row.nodes:
                row.prepared.add(node.key)
        self.draw(force=True)

    def node_failed(self, node: Node, failure: Failure) -> None:
        """Remove the step's line, and print the failure above the table."""
        self.active.pop(node.key, None)
        self.console.print(f"[red]failed[/] {escape(_named(node) + _reason(failure))}", highlight=False)
        self.draw(force=True)

    def noted(self, text: str) -> None:
        """Print a warning above the table."""
        self.console.print(f"[yellow]warning[/]: {escape(text)}", highlight=False, soft_wrap=True)
        if self.live.is_started:
            self.draw(force=True)

    def traced(self, trace: str) -> None:
        """Print the traceback above the table."""
        self.console.print(trace, style="dim", markup=False, highlight=False)

    def tick(self) -> None:
        """Redraw the table, so that the times advance."""
        self.draw()

    def cell_started(self, cell: Cell) -> None:
        """Show which cell is measured."""
        self.measuring = f"{cell.method} on {cell.task.device}, seed {cell.seed}, repeat {cell.repeat}"
        self.draw(force=True)

    def cell_finished(self, cell: Cell, record: Record) -> None:
        """Show the status and main figures of the cell in its method's row."""
        row = self.rows[cell.method]
        row.measured += 1
        self.counts[2] += 1
        order = ["ok", "skipped", "partial", "failed"]
        row.status = max(row.status, record.status, key=lambda s: order.index(s) if s in order else -1)
        row.last = _summary(record)
        self.measuring = ""
        self.draw(force=True)

    def cell_delayed(self, cell: Cell, board: str) -> None:
        """Print that a cell is tried again, and count it once more."""
        self.rows[cell.method].cells += 1
        self.counts[3] += 1
        self.console.print(
            f"[yellow]{escape(board)} is lost[/]: {escape(cell.method)} is tried again when it is back",
            highlight=False,
        )
        self.draw(force=True)

    def board_awaited(self, board: str, seconds: float) -> None:
        """Print the board and the longest wait above the table."""
        self.console.print(f"waiting for {escape(board)}, {seconds:.0f} s at most", highlight=False)
        self.draw(force=True)

    def close(self) -> None:
        """Remove the table from the terminal."""
        self.live.stop()

    def draw(self, force: bool = False) -> None:
        """Draw the table, at most five times a second unless ``force``."""
        now = time.monotonic()
        if not force and now - self.drawn < 0.2:
            return
        self.drawn = now
        self.live.update(self.picture(), refresh=True)

    def picture(self) -> RenderableType:
        """Return the table, the lines of the steps in progress, and the footer."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("", width=1)
        table.add_column("method", no_wrap=True)
        table.add_column("prepared", justify="right")
        table.add_column("measured", justify="right")
        table.add_column("last", no_wrap=True, overflow="ellipsis")
        room = max(4, self.console.size.height - 8 - len(self.active))
        for name, row in list(self.rows.items())[:room]:
            mark = MARKS.get(row.status, "") if row.measured == row.cells or row.status == "failed" else ""
            table.add_row(
                mark,
                escape(name),
                f"{len(row.prepared)}/{len(row.nodes)}",
                f"{row.measured}/{row.cells}",
                escape(row.last),
            )
        if len(self.rows) > room:
            table.add_row("", f"and {len(self.rows) - room} more", "", "", "")
        work = Table(box=None, pad_edge=False, show_header=False)
        for node, text, fraction, started in self.active.values():
            bar: RenderableType = (
                ProgressBar(total=1.0, completed=fraction, width=20) if fraction is not None else Text()
            )
            elapsed = _span(time.monotonic() - started)
            work.add_row(escape(_named(node)), bar, escape(text) or elapsed)
        steps, all_steps, cells, all_cells = self.counts
        foot = (
            f"steps {steps}/{all_steps}   cells {cells}/{all_cells}   {_span(time.monotonic() - self.start)}"
        )
        if self.measuring:
            foot += f"   measuring {self.measuring}"
        return Group(table, work, Text(foot, style="dim", overflow="ellipsis", no_wrap=True))
