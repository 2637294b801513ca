"""The view of a table for people: its columns, rounded figures, and the notes below it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from harness.render.characters import shown
from harness.render.disturbances import by_old_rules, flag_texts, left_out, marked
from harness.render.figures import interval_text, rank_text, significant, with_interval
from harness.render.ranking import rank_notes
from harness.results.leaderboard.leaderboard import Table, not_printed
from harness.results.leaderboard.place import short_names
from harness.types.columns import COLUMNS, Row

__all__ = [
    "APART",
    "IMPORTANCE",
    "NULL",
    "SETTINGS",
    "Shown",
    "cell",
    "columns_of",
    "name_of",
    "notes",
    "setting",
    "title",
]

NULL = "–"
MARKS = {"failed": "✗", "skipped": "✗", "partial": "~", "flagged": "!", "baseline": "*", "noted": "†"}

APART = ("folder", "run", "method_key")
"""Settings that are shown only if they distinguish rows that are alike in all settings before them."""

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
    "resize",
    "machine_id",
    *APART,
)
"""Columns that can distinguish rows of one method. They are shown if they differ, else written once above the table."""

IMPORTANCE = (
    "top1",
    "latency_p50_ms",
    "energy_net_mj",
    "energy_gross_mj",
    "latency_p99_ms",
    "process_peak_mb",
    "throughput_ips",
    "weights_mb",
    "speedup",
    "gain",
    "top1_drop1",
    "latency_no_input_p50_ms",
    "macs_g",
    "params_m",
    "seeds",
)
"""Columns of figures, the most important first: on a narrow terminal the last ones stand in a further block."""


@dataclass(frozen=True)
class Shown:
    """One column of a view: a heading, its unit, and one text per row."""

    name: str
    heading: str
    unit: str
    cells: tuple[str, ...]
    numeric: bool


def columns_of(table: Table, names: Sequence[str] | None = None) -> list[Shown]:
    """Return the columns ``names``; by default the usual columns of this table."""
    wanted = list(names) if names is not None else _default(table)
    return [_shown(table, name) for name in wanted]


def _default(table: Table) -> list[str]:
    if table.published:
        printed = [name for name in COLUMNS if _known(table, name)]
        return [name for name in printed if name not in (*_IN_TITLE, "energy_provenance")]
    reference = table.reference is not None
    wanted = ["method", *(name for name in SETTINGS if _varies(table, name))]
    wanted += ["started"] if table.differences else []
    ranked = [row for row in table.rows if row[table.rank_by or "top1"] is not None]
    if len(ranked) > 1 and _known(table, "tier"):  # a row without a tier has the reason in a note
        wanted[:0] = ["tier", "rank_ci"] if _known(table, "rank_ci") else ["tier"]
    wanted += ["top1", "gain"] if reference else ["top1"]
    wanted += [name for name in ("top1_drop1", "latency_no_input_p50_ms") if _known(table, name)]
    wanted += ["latency_p50_ms", "throughput_ips" if table.key.scenario == "offline" else "latency_p99_ms"]
    wanted += ["speedup"] if reference else []
    energy = [name for name in ("energy_net_mj", "energy_gross_mj") if _known(table, name)]
    wanted += energy[:1]
    wanted += ["params_m", "macs_g", "weights_mb", "process_peak_mb"]
    wanted += ["seeds"] if len(_seed_counts(table)) > 1 else []
    if table.rank_by is not None and table.rank_by not in wanted:
        wanted.append(table.rank_by)
    if table.rank_by is not None and _known(table, "ratio_ci"):
        wanted.insert(wanted.index(table.rank_by) + 1, "ratio_ci")
    return wanted


def _seed_counts(table: Table) -> set[tuple[float | None, float | None]]:
    """Return each number of seeds, with the number of processes on the seed that has most, that a row has."""
    return {(row.number("seeds"), row.number("repeats")) for row in table.rows}


def _known(table: Table, name: str) -> bool:
    return any(row[name] is not None for row in table.rows)


def _varies(table: Table, name: str) -> bool:
    """Return whether a setting distinguishes rows that the columns before it do not distinguish."""
    rows = [row for row in table.rows if row[name] is not None]
    above: Sequence[str] = ("runtime",) if name == "precision" else ()
    if name in APART:
        above = ("method", *SETTINGS[: SETTINGS.index(name)])
    before = [tuple(row[other] for other in above) for row in rows]
    return len({(known, row[name]) for known, row in zip(before, rows, strict=True)}) > len(set(before))


def _shown(table: Table, name: str) -> Shown:
    if name in _AGAINST:
        heading, unit, text = _AGAINST[name]
        cells = tuple(text(row, table.reference) for row in table.rows)
        return Shown(name, heading, unit, cells, numeric=True)
    column = COLUMNS[name]
    if table.published:
        cells = tuple(NULL if row[name] is None else str(row[name]) for row in table.rows)  # not rounded
    else:
        cells = tuple(name_of(table, row) if name == "method" else cell(row, name) for row in table.rows)
    if name == "folder":
        short = short_names(cells)
        cells = tuple(short[folder] for folder in cells)
    cells = tuple(map(one_line, cells))
    return Shown(name, column.heading, column.unit, cells, numeric=column.kind in ("number", "interval"))


def name_of(table: Table, row: Row) -> str:
    """Return a method's name with the marks that the notes explain."""
    status = str(row["status"])
    marks = [MARKS[status]] if status in MARKS else []
    marks += [MARKS["flagged"]] if row["flags"] else []
    marks += [MARKS["noted"]] if row["notes"] else []
    marks += [MARKS["baseline"]] if row is table.reference else []
    return " ".join([str(row["method"]), "".join(marks)]).strip()


# --- figures ------------------------------------------------------------------------------------


def cell(row: Row, name: str) -> str:
    """Return one value as text, rounded to its significant digits."""
    value = row[name]
    if value is None:
        return NULL
    if COLUMNS[name].kind == "list":
        return ", ".join(flag_texts(row) if name == "flags" else row.texts(name))
    if COLUMNS[name].kind == "interval":
        interval = row.numbers(name)
        return rank_text(interval) if name == "rank_ci" else interval_text(interval, COLUMNS[name].unit)
    if isinstance(value, str):
        return value[:8] if name == "method_key" else value
    number = row.number(name) or 0
    if name == "top1" and (interval := row.numbers("top1_ci")):
        return f"{number:.2f} ±{(interval[1] - interval[0]) / 2:.2f}"
    if name == "latency_p50_ms" and (interval := row.numbers("latency_p50_ci")):
        return with_interval(number, interval)
    uncertainty = row.number("energy_u_mj")
    if name == _certain(row) and uncertainty is not None:
        return f"{significant(number)} ±{significant(uncertainty)}"
    if COLUMNS[name].unit == "%":
        return f"{number:.2f}"
    if name == "seeds" and (row.number("repeats") or 0) > 1:
        return f"{number} ({row['repeats']})"
    return significant(number)


def _certain(row: Row) -> str:
    """Return the name of the energy column to which the uncertainty ``energy_u_mj`` belongs."""
    return "energy_gross_mj" if row["energy_net_mj"] is None else "energy_net_mj"


def _gain(row: Row, reference: Row | None) -> str:
    ours = row.number("top1")
    theirs = reference.number("top1") if reference is not None else None
    return NULL if ours is None or theirs is None else f"{ours - theirs:+.2f}"


def _speedup(row: Row, reference: Row | None) -> str:
    """Return the ratio of the median latencies, or a dash for different batches, which are not comparable."""
    if reference is None or row["batch"] != reference["batch"]:
        return NULL
    ours, theirs = row.number("latency_p50_ms"), reference.number("latency_p50_ms")
    return NULL if not ours or theirs is None else f"{significant(theirs / ours)}×"


_AGAINST: dict[str, tuple[str, str, Callable[[Row, Row | None], str]]] = {
    "gain": ("Gain", "points", _gain),
    "speedup": ("Speed", "of p50", _speedup),
}


# --- words --------------------------------------------------------------------------------------


def title(table: Table) -> str:
    """Return the facts that all rows of the table share: data, scenario, hardware, provenance."""
    key = table.key
    parts = [f"{key.data} {key.split}", key.scenario, key.device_model, key.provenance, key.source]
    inner = [f"{name} {value}" for name, value in key.within if name not in _IN_TITLE]
    return one_line(" · ".join(str(part) for part in [*parts, *inner] if part))


_IN_TITLE = ("data", "device_model")


def setting(table: Table, shown: Sequence[Shown]) -> str:
    """Return in one line the settings that all rows share, and their seeds where no column of ``shown`` has them."""
    forms = {
        "runtime": "{}",
        "precision": "{}",
        "batch": "batch {}",
        "threads": "{} threads",
        "shape": "input {}",
        "device": "on {}",
    }
    words = []
    for name, form in forms.items():
        values = {str(row[name]) for row in table.rows if row[name] is not None}
        if len(values) == 1:
            words.append(form.format(values.pop()))
    counts = _seed_counts(table)
    if len(counts) == 1 and all(column.name != "seeds" for column in shown):
        seeds, repeats = counts.pop()
        words += [f"{seeds} seeds"] if seeds else []
        words += [f"{repeats} processes on the first seed"] if seeds and (repeats or 0) > 1 else []
    singular = {"1 threads": "1 thread", "1 seeds": "1 seed"}
    return one_line(", ".join(singular.get(word, word) for word in words))


def one_line(text: str) -> str:
    """Return ``text`` as one line that can be shown. A row or a note is one line, whatever names people chose."""
    return shown(" ".join(text.split()))


def notes(table: Table, shown: Sequence[Shown], *, usual: bool = True) -> list[str]:
    """Return the lines below a table: marks, tiers, intervals, and the reasons for missing figures.

    ``usual``: ``shown`` are the usual columns, not columns that a person chose.
    """
    if table.published:
        lines = [f"As printed in {table.key.source}: not measured here, not ranked", table.note or ""]
        return [one_line(line) for line in (*lines, *_absences(table, shown)) if line]
    names = {column.name for column in shown}
    lines = []
    if table.reference is not None and "method" in names:
        name = table.reference["method"]
        hidden = all(row is not table.reference for row in table.rows)
        lines.append(
            f"Gain and speed are against the baseline {name}, which is not shown"
            if hidden
            else f"{MARKS['baseline']} baseline: gain and speed are against it"
        )
    elif table.baseline is not None and (usual or names & _AGAINST.keys()):
        lines.append(f"No gain and no speed: the baseline {table.baseline} has no measured row here")
    labels = _labels(table, shown)
    for label, row in zip(labels, table.rows, strict=True):
        status = str(row["status"])
        if status in MARKS:
            lines.append(f"{MARKS[status]} {label}: {row.reason or status}")
    lines += [f"{MARKS['flagged']} {line}" for line in marked(labels, table.rows)]
    lines += [*by_old_rules(table.rows), *left_out(labels, table.rows)]
    if _known(table, "resize"):  # records of 0.1.0 do not have it
        lines += _preprocessing(table)
    noted: dict[str, list[str]] = {}
    for label, row in zip(labels, table.rows, strict=True):
        for note in row.texts("notes"):
            noted.setdefault(note, []).append(label)
    lines += [f"{MARKS['noted']} {', '.join(dict.fromkeys(who))}: {note}" for note, who in noted.items()]
    lines += _plus_minus(table, names)
    if names & {"energy_net_mj", "energy_gross_mj"}:
        seen = {(row["energy_scope"], row["energy_meter"], row["energy_provenance"]) for row in table.rows}
        meters = sorted(f"{scope} by {meter}, {how}" for scope, meter, how in seen if scope is not None)
        lines.append(f"Energy of one inference, ± its 95% uncertainty: {'; '.join(meters)}")
    oracle = [
        f"{row['method']} {top1:.2f}" for row in table.rows if (top1 := row.number("top1_oracle")) is not None
    ]
    if oracle and "top1" in names and "top1_oracle" not in names:
        lines.append(
            f"Ceiling of splitting, not ranked: each image answered by its class's sub-model: {', '.join(oracle)}"
        )
    if "seeds" in names and any((row.number("repeats") or 0) > 1 for row in table.rows):
        lines.append("Seeds: in brackets the processes measured on the first seed")
    lines += rank_notes(table, names)
    lines += table.differences
    lines += _absences(table, shown)
    if "energy" in table.why and any(name.startswith("energy_") for name in names):
        lines.append(f"Meters: {table.why['energy']}")
    if table.note:
        lines.append(f"Data: {table.note}")
    return [one_line(line) for line in lines]


def _plus_minus(table: Table, names: Collection[str]) -> list[str]:
    """Return a line that says what ± means beside the accuracy and beside p50."""
    top1 = "top1" in names and _known(table, "top1_ci")
    p50 = "latency_p50_ms" in names and _known(table, "latency_p50_ci")
    lines = ["±: 95% interval of top-1 over seeds (half its width)"] if top1 else []
    if p50:
        before = f"{lines.pop()}, of" if lines else "±: 95% interval of"
        lines.append(f"{before} p50 over processes (the distance to its farther end)")
    return lines


def _preprocessing(table: Table) -> list[str]:
    """Return a line with the preprocessing that all rows share. What differs is a column."""
    shared = []
    for name, form in (("resize", "size {}"), ("normalize", "normalised by {}")):
        values = {str(row[name]) for row in table.rows if row[name] is not None}
        silent = dict.fromkeys(str(row["method"]) for row in table.rows if row[name] is None)
        if name == "resize" and values != {"as stored"}:
            form = "resized by {}"
        unknown = f" (not recorded for {', '.join(silent)})" if silent else ""
        shared += [form.format(value) + unknown for value in values if len(values) == 1]
    return [f"Images: {', '.join(shared)}"] if shared else []


def _absences(table: Table, shown: Sequence[Shown]) -> list[str]:
    """Return one line for each reason why a shown figure is missing in a row without a failure.

    For a published table, only the reasons that its file gives are included.
    """
    silent = not_printed(table.key.source) if table.published else None
    labels = _labels(table, shown)
    affected: dict[tuple[str, str], dict[str, list[str]]] = {}  # heading, reason's form -> reason -> rows
    for column in shown:
        for label, row in zip(labels, table.rows, strict=True):
            ended = table.published or row["status"] in ("ok", "partial")
            reason = row.why.get(column.name, silent)
            if ended and reason is not None and reason != silent:
                form = _COUNT.sub("", reason)
                affected.setdefault((column.heading, form), {}).setdefault(reason, []).append(label)
    lines = []
    for (heading, _), reasons in affected.items():
        methods = [label for labels in reasons.values() for label in labels]
        who = "" if len(methods) == len(table.rows) else f" ({', '.join(dict.fromkeys(methods))})"
        lines.append(f"{NULL} {heading}{who}: {_joined(list(reasons))}")
    return lines


_COUNT = re.compile(r"^[0-9]+(?= )")
"""The count with which a reason begins: ``34 queries in a process; p99 needs 662``."""


def _joined(reasons: Sequence[str]) -> str:
    """Return reasons that differ only in the count with which they begin as one: ``34 to 87 queries ...``."""
    counts = sorted(int(count[0]) for reason in reasons if (count := _COUNT.match(reason)))
    if len(counts) < 2:
        return reasons[0]
    return _COUNT.sub(f"{counts[0]} to {counts[-1]}", reasons[0])


def _labels(table: Table, shown: Sequence[Shown]) -> list[str]:
    """Return the names of the rows in notes: the method, with the settings that distinguish its rows if it has several."""
    methods = [str(row["method"]) for row in table.rows]
    settings = [column for column in shown if column.name in SETTINGS]
    labels = list(methods)
    places_of: dict[str, list[int]] = {}
    for place, method in enumerate(methods):
        places_of.setdefault(method, []).append(place)
    for method, places in ((name, own) for name, own in places_of.items() if len(own) > 1):
        chosen: list[Shown] = []
        for column in settings:
            before = {tuple(other.cells[place] for other in chosen) for place in places}
            after = {tuple(other.cells[place] for other in [*chosen, column]) for place in places}
            chosen += [column] if len(after) > len(before) else []
        for place in places if chosen else ():
            labels[place] = f"{method} ({', '.join(column.cells[place] for column in chosen)})"
    return labels
