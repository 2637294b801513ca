"""What people see of a board: which columns, rounded how, and the notes below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.results.leaderboard.leaderboard import Board, not_printed
from harness.results.leaderboard.tiers import ALPHA
from harness.types.columns import COLUMNS, Row

__all__ = ["NULL", "Shown", "cell", "columns_of", "name_of", "notes", "setting", "title"]

NULL = "–"
MARKS = {"failed": "✗", "skipped": "✗", "partial": "~", "flagged": "!", "baseline": "*"}

SETTINGS = (
    "device",
    "nodes",
    "runtime",
    "precision",
    "batch",
    "load",
    "energy_method",
    "threads",
    "shape",
    "normalize",
    "machine_id",
    "method_key",
)
"""Columns that tell rows of one method apart: shown where they differ, else said once above the table."""

KEEP = {
    "method": 0,
    "top1": 1,
    "latency_p50_ms": 1,
    "tier": 2,
    "weights_mb": 3,
    "speedup": 4,
    "throughput_ips": 4,
    "gain": 5,
    "top1_drop1": 5,
    "latency_no_input_p50_ms": 5,
    "macs_g": 6,
    "process_peak_mb": 7,
    "latency_p99_ms": 8,
    "energy_net_mj": 9,
    "energy_gross_mj": 9,
    "params_m": 10,
    "seeds": 11,
}
"""Which columns a narrow terminal loses last; what is not named here is never lost."""


@dataclass(frozen=True)
class Shown:
    """One column as people see it: a heading, its unit, one text per row."""

    name: str
    heading: str
    unit: str
    cells: tuple[str, ...]
    numeric: bool


def columns_of(board: Board, names: Sequence[str] | None = None) -> list[Shown]:
    """The columns ``names``, or the ones that say most of this board."""
    wanted = list(names) if names is not None else _default(board)
    return [_shown(board, name) for name in wanted]


def _default(board: Board) -> list[str]:
    if board.published:
        given = [name for name in COLUMNS if any(row[name] is not None for row in board.rows)]
        return [name for name in given if name not in (*_IN_TITLE, "energy_provenance")]
    reference = board.reference is not None
    wanted = ["method", *(name for name in SETTINGS if _varies(board, name))]
    if sum(row["tier"] is not None for row in board.rows) > 1:
        wanted.insert(0, "tier")
    wanted += ["top1", "gain"] if reference else ["top1"]
    wanted += [name for name in ("top1_drop1", "latency_no_input_p50_ms") if _known(board, name)]
    wanted += ["latency_p50_ms", "throughput_ips" if board.key["scenario"] == "offline" else "latency_p99_ms"]
    wanted += ["speedup"] if reference else []
    energy = [name for name in ("energy_net_mj", "energy_gross_mj") if _known(board, name)]
    wanted += energy[:1]
    wanted += ["params_m", "macs_g", "weights_mb", "process_peak_mb", "seeds"]
    return wanted if board.rank_by is None or board.rank_by in wanted else [*wanted, board.rank_by]


def _known(board: Board, name: str) -> bool:
    return any(row[name] is not None for row in board.rows)


def _varies(board: Board, name: str) -> bool:
    """Whether a setting tells rows apart that the columns before it don't."""
    rows = [row for row in board.rows if row[name] is not None]
    above = {"method_key": "method", "precision": "runtime"}.get(name)
    if above is not None:
        return len({(row[above], row[name]) for row in rows}) > len({row[above] for row in rows})
    return len({row[name] for row in rows}) > 1


def _shown(board: Board, name: str) -> Shown:
    if name in _AGAINST:
        heading, unit, text = _AGAINST[name]
        cells = tuple(text(row, board.reference) for row in board.rows)
        return Shown(name, heading, unit, cells, numeric=True)
    column = COLUMNS[name]
    if board.published:
        cells = tuple(NULL if row[name] is None else str(row[name]) for row in board.rows)  # as printed
    else:
        cells = tuple(name_of(board, row) if name == "method" else cell(row, name) for row in board.rows)
    cells = tuple(map(one_line, cells))
    return Shown(name, column.heading, column.unit, cells, numeric=column.kind in ("number", "interval"))


def name_of(board: Board, row: Row) -> str:
    """A method's name with the marks that the notes explain."""
    marks = [MARKS[row["status"]]] if row["status"] in MARKS else []
    marks += [MARKS["flagged"]] if row["flags"] else []
    marks += [MARKS["baseline"]] if row is board.reference else []
    return " ".join([row["method"], "".join(marks)]).strip()


# --- figures ------------------------------------------------------------------------------------


def cell(row: Row, name: str) -> str:
    """One value as text, rounded to what it can mean."""
    value = row[name]
    if value is None:
        return NULL
    kind = COLUMNS[name].kind
    if name == "top1" and row["top1_ci"] is not None:
        low, high = row["top1_ci"]
        return f"{value:.2f} ±{(high - low) / 2:.2f}"
    if name == _certain(row) and row["energy_u_mj"] is not None:
        return f"{_significant(value)} ±{_significant(row['energy_u_mj'])}"
    if COLUMNS[name].unit == "%":
        return f"{value:.2f}" if kind == "number" else f"[{value[0]:.2f}, {value[1]:.2f}]"
    if name == "seeds" and row["repeats"] > 1:
        return f"{value} ({row['repeats']})"
    if name == "method_key":
        return str(value)[:8]
    if kind == "list":
        return ", ".join(value)
    return str(value) if isinstance(value, str) else _significant(value)


def _certain(row: Row) -> str:
    """The energy column that ``energy_u_mj`` is about."""
    return "energy_gross_mj" if row["energy_net_mj"] is None else "energy_net_mj"


def _significant(value: float) -> str:
    """Three significant digits, never an exponent, integers in full."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(f'{digits}e{exponent}'):.{max(0, 2 - int(exponent))}f}"


def _gain(row: Row, reference: Row | None) -> str:
    if reference is None or row["top1"] is None or reference["top1"] is None:
        return NULL
    return f"{row['top1'] - reference['top1']:+.2f}"


def _speedup(row: Row, reference: Row | None) -> str:
    """Ratio of the medians; queries of different batches are not comparable."""
    if reference is None or row["batch"] != reference["batch"]:
        return NULL
    if not row["latency_p50_ms"] or reference["latency_p50_ms"] is None:
        return NULL
    return f"{_significant(reference['latency_p50_ms'] / row['latency_p50_ms'])}×"


_AGAINST: dict[str, tuple[str, str, Callable[[Row, Row | None], str]]] = {
    "gain": ("Gain", "points", _gain),
    "speedup": ("Speed", "of p50", _speedup),
}


# --- words --------------------------------------------------------------------------------------


def title(board: Board) -> str:
    """What all rows of the board share: data, scenario, hardware, provenance."""
    key = board.key
    parts = [f"{key['data']} {key['split']}", key["scenario"], key["device_model"], key["provenance"]]
    parts += [key.get("source")]
    inner = [f"{name} {value}" for name, value in key.items() if name in COLUMNS and name not in _IN_TITLE]
    return one_line(" · ".join(str(part) for part in [*parts, *inner] if part))


_IN_TITLE = ("data", "device_model")


def setting(board: Board) -> str:
    """The settings that all rows share, in one line."""
    words: Mapping[str, Callable[[Any], str]] = {
        "runtime": str,
        "precision": str,
        "batch": lambda value: f"batch {value}",
        "threads": lambda value: f"{value} thread{'s' if value != 1 else ''}",
        "shape": lambda value: f"input {value}",
        "device": lambda value: f"on {value}",
    }
    said = []
    for name, word in words.items():
        values = {row[name] for row in board.rows if row[name] is not None}
        if len(values) == 1:
            said.append(word(values.pop()))
    return one_line(", ".join(said))


def one_line(text: str) -> str:
    """What others named, without line breaks: a row or a note is one line."""
    return " ".join(text.split())


def notes(board: Board, shown: Sequence[Shown]) -> list[str]:
    """The lines below a table: marks, tiers, intervals, and why a figure is missing."""
    if board.published:
        said = [f"As printed in {board.key['source']}: not measured here, not ranked", board.note or ""]
        return [one_line(line) for line in (*said, *_absences(board, shown)) if line]
    names = {column.name for column in shown}
    said = []
    if board.reference is not None and "method" in names:
        said.append(f"{MARKS['baseline']} baseline: gain and speed are against it")
    for row in board.rows:
        if row["status"] in MARKS:
            said.append(f"{MARKS[row['status']]} {row['method']}: {row['reason'] or row['status']}")
    flagged: dict[str, list[str]] = {}
    for row in board.rows:
        for flag in row["flags"]:
            flagged.setdefault(flag, []).append(row["method"])
    said += [f"{MARKS['flagged']} {flag}: {', '.join(methods)}" for flag, methods in flagged.items()]
    if "top1" in names and any(row["top1_ci"] is not None for row in board.rows):
        said.append("± half the 95% t-interval over seeds")
    if names & {"energy_net_mj", "energy_gross_mj"}:
        seen = {(row["energy_scope"], row["energy_meter"], row["energy_provenance"]) for row in board.rows}
        meters = sorted(f"{scope} by {meter}, {how}" for scope, meter, how in seen if scope is not None)
        said.append(f"Energy of one inference, ± its 95% uncertainty: {'; '.join(meters)}")
    told = [
        f"{row['method']} {row['top1_oracle']:.2f}" for row in board.rows if row["top1_oracle"] is not None
    ]
    if told and "top1" in names and "top1_oracle" not in names:
        said.append(
            f"Ceiling of splitting, not ranked: each image answered by its class's sub-model: {', '.join(told)}"
        )
    if "seeds" in names and any(row["repeats"] > 1 for row in board.rows):
        said.append("Seeds: in brackets the processes measured on the first seed")
    if "tier" in names:
        least = board.detectable_top1
        limit = f"; a difference below about {least:.1f} points would go unseen" if least else ""
        test = f"paired McNemar test over seeds, Holm-corrected, {ALPHA:.0%}"
        said.append(f"Tier: the leader and all that can't be told from it, then again ({test}){limit}")
    return [one_line(line) for line in said + _absences(board, shown)]


def _absences(board: Board, shown: Sequence[Shown]) -> list[str]:
    """One line per reason for which a row that ended well lacks a shown figure; a published one, by its own words."""
    silent = not_printed(board.key["source"]) if board.published else None
    missing: dict[tuple[str, str], list[str]] = {}
    for column in shown:
        for row in board.rows:
            ended = board.published or row["status"] in ("ok", "partial")
            if ended and row["why"].get(column.name, silent) != silent:
                missing.setdefault((column.heading, row["why"][column.name]), []).append(row["method"])
    lines = []
    for (heading, reason), methods in missing.items():
        who = "" if len(methods) == len(board.rows) else f" ({', '.join(dict.fromkeys(methods))})"
        lines.append(f"{NULL} {heading}{who}: {reason}")
    return lines
