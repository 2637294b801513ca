"""Tests of how a row treats disturbed cells: which it leaves out, when it is marked, and what it says, with made records."""

from __future__ import annotations

from typing import Any

import pytest

from harness.render.disturbances import record_lines
from harness.render.view import cell, columns_of, notes
from harness.results.leaderboard.disturbed import judged
from harness.results.leaderboard.leaderboard import leaderboard_of
from harness.types.record import Record

TIMES = ["p50", "p90", "p99", "mean", "throughput"]


def signal(flag: str, name: str, value: float, limit: float, figures: list[str]) -> dict[str, Any]:
    return {
        "flag": flag,
        "name": name,
        "value": value,
        "limit": limit,
        "over": value > limit,
        "figures": figures,
    }


def waited(share: float) -> list[dict[str, Any]]:
    return [
        signal("contended", "waiting_share", share, 0.02, TIMES[1:]),
        signal("contended", "waiting_share", share, 0.05, ["p50"]),
    ]


CALM = waited(0.001)
DRIFTS = [*CALM, signal("unsteady", "drift", 0.3, 0.1, [*TIMES, "energy"])]
HOT = [*CALM, signal("throttled", "thermal_events", 4, 0, [*TIMES, "energy"])]


def process(repeat: int, p50: float, p99: float, signals: Any = CALM, **more: Any) -> Record:
    """Return the record of one process. ``blocks`` in ``more`` are the figures of its undisturbed blocks."""
    blocks, latency = more.pop("blocks", None), more.pop("latency", {})
    return Record(
        **{
            "run_id": "r",
            "machine_id": "m",
            "cell_id": str(repeat),
            "attempt": 1,
            "status": "ok",
            "suite": "s",
            "method": "vit",
            "method_key": "k",
            "seed": 0,
            "repeat": repeat,
            "device": {"name": "here", "model": "CPU", "kind": "cpu", "nodes": 1},
            "runtime": {"name": "onnxruntime", "params": {}, "precision": "float32"},
            "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
            "data": {"name": "digits", "split": "test", "shape": [1, 8, 8], "task": "t"},
            "latency": {
                "n": 1000,
                "p50_ms": p50,
                "p99_ms": p99,
                **latency,
                **({} if blocks is None else {"undisturbed": blocks}),
            },
            "signals": signals,
            "flags": sorted({one["flag"] for one in signals or () if one["over"]}),
            **more,
        }
    )


def only(*records: Record):
    """Return the row of the records, and the table that has it."""
    (table,) = leaderboard_of(records).tables
    (row,) = table.rows
    return row, table


# --- cells that are left out ----------------------------------------------------------------------


def test_a_disturbed_process_is_left_out_if_three_others_remain():
    calm = [process(i, 1.0, 2.0) for i in range(4)]
    row, table = only(*calm, process(4, 1.5, 8.0, waited(0.1)))
    assert (row["latency_p50_ms"], row["latency_p99_ms"], row["flags"]) == (1.0, 2.0, [])
    by_figure = {found.figure: found for found in row.disturbances}
    assert list(by_figure) == ["p50", "p99"]  # the records have no other figure
    assert [(found.cells, found.used, found.marked) for found in by_figure.values()] == [(5, 4, False)] * 2
    assert (by_figure["p99"].whole, by_figure["p99"].undisturbed) == (2.0, 2.0)
    assert "vit: 4 of 5 processes in p50, p99; the others were disturbed (contended waited 10%)" in notes(
        table, columns_of(table)
    )
    (as_json,) = table.to_json()["rows"]
    assert [(one["figure"], one["cells"], one["used"]) for one in as_json["disturbances"]] == [
        ("p50", 5, 4),
        ("p99", 5, 4),
    ]


def test_each_figure_is_judged_by_itself():
    row, _ = only(*(process(i, 1.0, 2.0) for i in range(3)), process(3, 1.3, 2.6, waited(0.03)))
    assert row["latency_p50_ms"] == 1.0  # of all four
    assert [(found.figure, found.used) for found in row.disturbances] == [("p99", 3)]


def test_two_undisturbed_processes_are_too_few_to_leave_the_others_out():
    row, _ = only(
        process(0, 1.0, 2.0), process(1, 1.0, 2.0), *(process(i, 1.5, 8.0, waited(0.1)) for i in (2, 3))
    )
    assert row["latency_p50_ms"] == 1.25
    assert [(found.figure, found.cells, found.used) for found in row.disturbances] == [
        ("p50", 4, 4),
        ("p99", 4, 4),
    ]


def test_a_value_far_from_the_others_is_not_left_out():
    row, _ = only(*(process(i, 1.0, 2.0) for i in range(4)), process(4, 9.0, 90.0, latency={"mean_ms": 9.0}))
    assert row.disturbances == ()
    assert row["latency_mean_ms"] is None  # four cells have none: nothing is made up


def test_an_unsteady_process_stays_since_that_flag_comes_from_the_latencies():
    row, _ = only(*(process(i, 1.0, 2.0) for i in range(4)), process(4, 1.5, 3.0, DRIFTS))
    assert {(found.figure, found.used, found.cells) for found in row.disturbances} == {
        ("p50", 5, 5),
        ("p99", 5, 5),
    }
    assert row["flags"] == []  # the medians over five processes are those of the four


# --- marks ----------------------------------------------------------------------------------------


def test_a_row_is_marked_if_the_disturbed_processes_change_its_figure():
    row, table = only(
        process(0, 1.0, 2.0), process(1, 1.5, 2.0, waited(0.1)), process(2, 1.5, 2.0, waited(0.3))
    )
    assert row["flags"] == ["contended"]
    marked = [found for found in row.disturbances if found.marked]
    assert [found.figure for found in marked] == ["p50"]  # p99 is 2 ms in all of them
    assert "! contended: vit (waited 30%: p50)" in notes(table, columns_of(table))
    assert cell(row, "flags") == "contended waited 30%"


def test_all_figures_of_latency_have_one_name_together():
    more = {"p90_ms": 1.0, "mean_ms": 1.0, "throughput_ips": 1.0}
    _, table = only(process(0, 1.0, 2.0, waited(0.1), latency=more))
    assert "! contended: vit (waited 10%: all times)" in notes(table, columns_of(table))


def test_rows_whose_same_figures_changed_are_in_one_note_with_the_range_of_the_strength():
    def disturbed(method: str, share: float, p99: float = 2.0) -> list[Record]:
        return [
            process(0, 1.0, 2.0, method=method, method_key=method, cell_id=f"{method}0"),
            process(1, 1.5, p99, waited(share), method=method, method_key=method, cell_id=f"{method}1"),
        ]

    (table,) = leaderboard_of([*disturbed("a", 0.1), *disturbed("b", 0.3), *disturbed("c", 0.2, 9.0)]).tables
    said = notes(table, columns_of(table))
    assert "! contended: a, b (waited 10% to 30%: p50); c (waited 20%: p50, p99)" in said
    (table,) = leaderboard_of([*disturbed("a", 0.1), *disturbed("b", 0.3), *disturbed("c", 0.2)]).tables
    assert "! contended: all rows (waited 10% to 30%: p50)" in notes(table, columns_of(table))


def test_rows_that_leave_out_as_many_processes_are_in_one_note():
    rows = [
        process(
            i,
            1.0,
            2.0,
            waited(share) if i == 4 else CALM,
            method=method,
            method_key=method,
            cell_id=f"{method}{i}",
        )
        for method, share in (("a", 0.1), ("b", 0.2))
        for i in range(5)
    ]
    (table,) = leaderboard_of(rows).tables
    assert (
        "a, b: 4 of 5 processes in p50, p99; the others were disturbed (contended waited 10% to 20%)"
        in notes(table, columns_of(table))
    )


def test_a_row_is_not_marked_if_the_difference_is_within_its_interval():
    row, _ = only(process(0, 1.0, 2.0), process(1, 1.01, 2.0, waited(0.1)))
    assert row["flags"] == []
    clean = (0.8, 1.0, 1.2)
    row, _ = only(
        *(
            process(i, 1.05 * p50, 2.0, waited(0.1), blocks={"p50_ms": p50, "p99_ms": 2.0})
            for i, p50 in enumerate(clean)
        )
    )
    assert row["flags"] == []


def test_disturbed_processes_do_not_widen_the_interval_that_judges_them():
    row, _ = only(process(0, 1.0, 2.0), process(1, 1.2, 2.0, waited(0.1)), process(2, 0.8, 2.0))
    assert row["flags"] == ["contended"]  # the median is 1.0 over all, 0.9 over the two undisturbed ones


@pytest.mark.parametrize(("p50", "flags"), [(1.01, []), (1.3, ["contended"])])
def test_undisturbed_blocks_stand_for_a_disturbed_process(p50, flags):
    blocks = {"p50_ms": 1.0, "p99_ms": 2.0}
    row, _ = only(process(0, p50, 2.0, waited(0.1), blocks=blocks))
    assert row["flags"] == flags


def test_a_row_with_nothing_undisturbed_is_marked():
    row, _ = only(*(process(i, 1.0, 2.0, waited(0.1)) for i in range(5)))
    assert row["flags"] == ["contended"]


def test_blocks_tell_nothing_of_a_throttled_clock():
    row, _ = only(process(0, 1.0, 2.0, HOT, blocks={"p50_ms": 1.0, "p99_ms": 2.0}))
    assert row["flags"] == ["throttled"]


def test_energy_is_marked_by_a_tenth_of_a_core_and_the_times_are_not():
    meter = {"meter": "rapl", "scope": "package", "provenance": "measured", "energy_gross_mj": 5.0}
    busy = [*CALM, signal("contended", "foreign_cores", 0.3, 0.1, ["energy"])]
    row, _ = only(*(process(i, 1.0, 2.0, busy, energy=[meter]) for i in range(3)))
    assert [(found.figure, found.marked) for found in row.disturbances] == [("energy", True)]
    quiet = {**meter, "energy_gross_mj": 4.0}
    row, _ = only(
        process(9, 1.0, 2.0, busy, energy=[meter]), *(process(i, 1.0, 2.0, energy=[quiet]) for i in range(3))
    )
    assert row["energy_gross_mj"] == 4.0
    assert row["flags"] == []


def test_energy_is_judged_by_the_meter_that_the_table_shows():
    """A plug says more than the processor's counter, and is the first reading of some cells only."""
    rapl = {"meter": "rapl", "scope": "package", "provenance": "measured", "energy_gross_mj": 4.0}
    plug = {"meter": "plug", "scope": "board", "provenance": "measured", "energy_gross_mj": 90.0}
    busy = [*CALM, signal("contended", "foreign_cores", 0.3, 0.1, ["energy"])]
    cells = [process(i, 1.0, 2.0, energy=[rapl]) for i in range(2)]
    disturbed = [process(i, 1.0, 2.0, busy, energy=[plug, {**rapl, "energy_gross_mj": 4.04}]) for i in (2, 3)]
    others = [process(i, 1.0, 2.0, energy=[rapl], method="other") for i in range(4, 7)]
    (table,) = leaderboard_of(
        [*cells, *disturbed, *others, process(8, 1.0, 2.0, energy=[rapl], method="b")]
    ).tables
    row = next(row for row in table.rows if row["method"] == "vit")
    assert (row["energy_scope"], row["energy_gross_mj"], row["flags"]) == ("package", 4.02, [])
    (found,) = row.disturbances
    assert (found.used, found.cells, found.whole, found.undisturbed) == (4, 4, 4.02, 4.0)


def test_memory_is_judged_by_swapping():
    swaps = [*CALM, signal("swapped", "swap_in_pages", 9, 0, ["memory", "p99"])]
    memory = {"memory": {"process_peak_bytes": 10**8}}
    row, _ = only(
        process(9, 1.0, 2.0, swaps, memory={"process_peak_bytes": 10**9}),
        *(process(i, 1.0, 2.0, **memory) for i in range(3)),
    )
    assert row["process_peak_mb"] == 100.0


def test_a_short_window_always_marks_the_row():
    row, table = only(process(0, 1.0, 2.0, flags=["short"]))
    assert row["flags"] == ["short"]
    assert not any("records of 0.1.0" in line for line in notes(table, columns_of(table)))


def test_records_without_signals_are_judged_by_their_flags():
    old = [
        process(i, 1.0, 2.0, None, flags=flags) for i, flags in enumerate([[], ["contended"], ["unsteady"]])
    ]
    row, table = only(*old)
    assert row["flags"] == ["contended", "unsteady"]
    assert row.disturbances == ()
    said = notes(table, columns_of(table))
    assert "! contended: vit" in said
    assert sum("records of 0.1.0" in line for line in said) == 1
    assert "disturbances" not in table.to_json()["rows"][0]


def test_a_row_without_figures_has_no_flags():
    assert judged([]).flags == []


# --- a record in words ----------------------------------------------------------------------------


def test_a_record_says_signal_value_limit_and_what_to_do():
    lines = record_lines(
        process(0, 1.0, 2.0, [*waited(0.03), signal("stalled", "stalled_s", 2.0, 0.16, TIMES)])
    )
    assert lines == [
        "contended waited 3%: waiting_share 0.03 (limit 0.02); can change p90, p99, mean, throughput",
        "  to do: end other programs, or keep them off these cores; then `harness run SUITE --retry-flagged`",
        "stalled 2.0 s: stalled_s 2 (limit 0.16); can change p50, p90, p99, mean, throughput",
        "  to do: look for what stopped the process: a debugger, SIGSTOP, a CPU quota, a suspended or paused machine; "
        "then `harness run SUITE --retry-flagged`",
        "within limits: waiting_share 0.03 (limit 0.05)",
    ]


def test_a_calm_record_says_that_all_signals_are_within_their_limits():
    assert record_lines(process(0, 1.0, 2.0)) == [
        "none",
        "within limits: waiting_share 0.001 (limit 0.02); waiting_share 0.001 (limit 0.05)",
    ]


def test_an_old_record_says_that_it_has_no_signals():
    assert record_lines(process(0, 1.0, 2.0, None, flags=["contended"])) == [
        "contended",
        "made by the rules of 0.1.0, without signals",
    ]
