"""Tests of tables from records: which rows are compared, how seeds combine, and that no figure is invented."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SuiteError
from harness.render import render
from harness.results.answers import SeedAnswers
from harness.results.leaderboard.differences import SHOWN
from harness.results.leaderboard.filters import parse_where
from harness.results.leaderboard.leaderboard import Leaderboard, leaderboard_of
from harness.results.leaderboard.place import Place, short_names
from harness.results.leaderboard.selection import filtered, sorted_by
from harness.results.summary import Summary
from harness.types.column_names import check_columns, column_named, sort_order
from harness.types.columns import COLUMNS
from harness.types.figures import Accuracy, Counts, Latency
from harness.types.record import Record

N = 400


def record(method: str = "vit", seed: int = 0, repeat: int = 0, **more: Any) -> Record:
    """Return a record of a measured cell. ``more`` replaces blocks; a dict is merged into its block."""
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": method,
        "method_key": f"key of {method}",
        "seed": seed,
        "repeat": repeat,
        "cell_id": f"{method}{seed}{repeat}{sorted(map(str, more.items()))}",
        "attempt": 1,
        "status": "ok",
        "baseline": "vit",
        "rank_by": "top1",
        "device": {"name": "here", "model": "CPU 1", "kind": "cpu", "nodes": 1},
        "runtime": {"name": "onnxruntime", "params": {}, "precision": "float32"},
        "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
        "data": {
            "task": "image-classification",
            "name": "digits",
            "split": "test",
            "classes": 10,
            "shape": [1, 8, 8],
            "fingerprint": "f",
        },
        "counts": {"params": 2_000_000, "macs": 3_000_000_000, "weight_bytes": 8_000_000},
        "accuracy": {"top1": 90.0, "top5": 99.0, "n": N, "on": "device"},
        "latency": {"n": 662, "p50_ms": 4.0, "p90_ms": 5.0, "p99_ms": 6.0, "mean_ms": 4.0, "std_ms": 1.0},
    }
    for name, value in more.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) and name in values else value
    return Record(**values)


def failed(method: str = "vit", seed: int = 0, reason: str = "out of memory", **more: Any) -> Record:
    made = record(method, seed, status="failed", reason=reason, stage="train", **more)
    return made.model_copy(update={"counts": Counts(), "accuracy": Accuracy(), "latency": Latency()})


def rows(records: list[Record], **options: Any) -> list[dict[str, Any]]:
    (board,) = leaderboard_of(records, **options).tables
    return [row.to_json() for row in board.rows]


# --- what is compared with what -----------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"data": {"name": "cifar"}},
        {"data": {"fingerprint": "g"}},
        {"data": {"split": "validation"}},
        {"scenario": {"name": "offline"}},
        {"device": {"model": "CPU 2"}},
        {"provenance": "emulated"},
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_on_another_board(other: dict[str, Any]) -> None:
    assert len(leaderboard_of([record(), record("small", **other)]).tables) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"runtime": {"name": "torch"}},
        {"scenario": {"batch": 8}},
        {"scenario": {"threads": 2}},
        {"device": {"name": "pair", "nodes": 2}},
        {"machine_id": "m2"},
        {"method_key": "changed"},
    ],
    ids=str,
)
def test_another_setting_is_another_row_of_the_same_board(other: dict[str, Any]) -> None:
    assert len(rows([record(), record(**other)])) == 2


def test_measured_boards_come_first_and_the_order_of_records_does_not_matter() -> None:
    given = [record(provenance="emulated"), record("b"), record("a", seed=1), record("a")]
    assert [board.key.provenance for board in leaderboard_of(given).tables] == ["measured", "emulated"]
    assert leaderboard_of(given) == leaderboard_of(given[::-1])


# --- folders and runs ------------------------------------------------------------------------------


def in_folders(**places: list[Record]) -> Leaderboard:
    where = {id(record): Place(name) for name, records in places.items() for record in records}
    everything = [record for records in places.values() for record in records]
    return leaderboard_of(everything, place_of=lambda record: where[id(record)])


def test_records_of_two_folders_are_never_in_one_row() -> None:
    step = {"stage": "build", "entry": "vit", "params": {"dim": 48}, "notes": {"train": {"epochs": 30}}}
    longer = {**step, "notes": {"train": {"epochs": 60}}}
    old = [
        record(seed=s, run_id="a", started=f"2026-11-20T10:0{s}", lineage=[step], accuracy={"top1": 80.0})
        for s in (0, 1)
    ]
    new = [record(seed=s, run_id="b", started="2026-11-29T19:47", lineage=[longer]) for s in (0, 1)]
    (table,) = in_folders(old=old, new=new).tables
    assert [(row["folder"], row["started"], row["seeds"], row["top1"]) for row in table.rows] == [
        ("new", "2026-11-29 19:47", 2, 90.0),
        ("old", "2026-11-20 10:00", 2, 80.0),
    ]
    assert table.differences == ("vit (new | old): differs in 1. build vit train epochs 60 | 30",)
    text = render(Leaderboard((table,)), "table", width=200)
    assert re.search(r"vit \S* +new +2026-11-29 19:47 ", text)
    assert "vit (new | old): differs in 1. build vit train epochs 60 | 30" in text
    assert json.loads(render(Leaderboard((table,)), "json"))["boards"][0]["differences"]


def test_folders_without_a_common_method_need_no_folder_column() -> None:
    (table,) = in_folders(one=[record("a")], two=[record("b")]).tables
    assert table.differences == ()
    assert "Folder" not in render(Leaderboard((table,)), "table", width=200)


def test_a_method_under_two_runtimes_is_told_apart_by_the_runtime_alone() -> None:
    other = {"runtime": {"name": "torch"}, "method_key": "other"}
    text = render(leaderboard_of([record(), record(**other)]), "table", width=200)
    assert "Runtime" in text
    assert "Config" not in text


def test_cells_of_an_earlier_run_or_of_other_code_are_rows_of_their_own() -> None:
    now = record(started="2026-11-29T10:00", origins={"model:vit": {"version": "1", "source": "aaaa"}})
    then = record(started="2026-11-28T10:00", origins={"model:vit": {"version": "1", "source": "bbbb"}})
    (table,) = leaderboard_of([now, then]).tables
    assert [row["started"] for row in table.rows] == ["2026-11-28 10:00", "2026-11-29 10:00"]
    assert table.differences == ("vit (2026-11-28 10:00 | 2026-11-29 10:00): differs in code of model:vit",)
    places = {"2026-11-29T10:00": Place("f"), "2026-11-28T10:00": Place("f", "earlier")}
    (table,) = leaderboard_of([now, then], place_of=lambda record: places[record.started]).tables
    assert {row["run"] for row in table.rows} == {"last", "earlier"}
    assert "Run" in render(Leaderboard((table,)), "table", width=200)


def test_many_differences_are_counted() -> None:
    machines = [
        record(
            machine_id=f"m{i}",
            environment={"kernel": f"Linux {i}", "versions": {f"p{j}": f"{i}.{j}" for j in range(9)}},
        )
        for i in (1, 2)
    ]
    (sentence,) = leaderboard_of(machines).tables[0].differences  # both begin at the same time
    assert sentence.count(" | ") == 1 + SHOWN
    assert sentence.endswith("; and 5 more")


def test_methods_that_differ_alike_share_a_sentence() -> None:
    old = [record(m, run_id="a", started="2026-11-20T10:00") for m in ("a", "b")]
    new = [record(m, run_id="b", started="2026-11-29T10:00") for m in ("a", "b")]
    (table,) = in_folders(**{"x/old/s": old, "x/new/s": new}).tables
    assert table.differences == ("a, b (new | old): records do not say what differs",)
    text = render(Leaderboard((table,)), "table", width=200)
    assert re.search(r" new +2026-11-29 10:00 ", text)  # paths without what all of them share


@pytest.mark.parametrize(
    ("folders", "short"),
    [
        (["/a/b/c", "/a/x/c"], ["b", "x"]),
        (["r/edge", "r/edge/old"], ["edge", "edge/old"]),
        (["a"], ["a"]),
        (["", "x", "/"], ["", "x", "/"]),
        (["/a", "b/a"], ["/a", "b"]),
    ],
)
def test_folders_are_shown_by_what_differs_in_their_names(folders: list[str], short: list[str]) -> None:
    assert list(short_names(folders).values()) == short


def test_within_splits_a_board_by_a_column() -> None:
    given = [record(), record(runtime={"name": "torch"})]
    assert len(leaderboard_of(given, within=["runtime"]).tables) == 2


# --- seeds and repeats --------------------------------------------------------------------------


def test_accuracy_is_the_mean_over_seeds_however_often_a_seed_was_measured() -> None:
    given = [record(seed=0, repeat=i, accuracy={"top1": 90.0}) for i in range(3)]
    given += [record(seed=1, accuracy={"top1": 96.0}), record(seed=2, accuracy={"top1": 93.0})]
    (row,) = rows(given)
    assert row["top1"] == pytest.approx(93.0)
    assert (row["seeds"], row["repeats"]) == (3, 3)
    low, high = row["top1_ci"]
    assert (low + high) / 2 == pytest.approx(93.0)
    deviation = (3.0**2 + (100 / N) ** 2 / 12) ** 0.5  # of the seeds, and of rounding to one image
    assert high - 93.0 == pytest.approx(4.30265 * deviation / 3**0.5, rel=1e-5)  # t of 2 degrees of freedom


def test_equal_accuracies_of_all_seeds_give_an_interval_with_a_width() -> None:
    (row,) = rows([record(seed=seed, accuracy={"top1": 99.0}) for seed in range(3)])
    low, high = row["top1_ci"]
    assert 99.0 - low == pytest.approx(4.30265 * (100 / N) / 12**0.5 / 3**0.5, rel=1e-5)
    assert high > 99.0


def test_latency_is_the_median_of_cells_and_memory_the_worst() -> None:
    given = [
        record(
            repeat=i,
            latency={"p50_ms": p50},
            memory={"process_peak_bytes": peak, "baseline_bytes": peak - 1e6},
        )
        for i, (p50, peak) in enumerate([(4.0, 50e6), (9.0, 90e6), (5.0, 70e6)])
    ]
    (row,) = rows(given)
    assert row["latency_p50_ms"] == 5.0
    assert (row["process_peak_mb"], row["baseline_mb"]) == (90.0, 89.0)
    assert (row["n"], row["params_m"], row["flops_g"]) == (3 * 662, 2.0, 6.0)


@given(st.lists(st.tuples(st.integers(2, 50), st.floats(0.1, 9)), min_size=1, max_size=4), st.integers(0, 99))
def test_mean_and_deviation_are_those_of_all_queries_together(cells: list[Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [rng.gamma(2, scale, n) for n, scale in cells]
    given = [
        record(repeat=i, latency={"n": len(one), "mean_ms": one.mean(), "std_ms": one.std(ddof=1)})
        for i, one in enumerate(samples)
    ]
    (row,) = rows(given)
    together = np.concatenate(samples)
    assert row["latency_mean_ms"] == pytest.approx(together.mean())
    assert row["latency_std_ms"] == pytest.approx(together.std(ddof=1))


# --- nothing is invented ------------------------------------------------------------------------


def test_every_null_has_a_reason_and_every_column_is_there() -> None:
    for row in rows([record(), failed("broken")]):
        assert set(COLUMNS) <= set(row)
        for name in COLUMNS:
            assert (row[name] is None) == (name in row["why"]), name
        assert all(row["why"].values())


def test_a_method_that_failed_stands_last_with_its_reason_and_no_figure() -> None:
    best, worst = rows([failed("broken"), record(accuracy={"top1": 1.0})])
    assert (best["method"], worst["method"]) == ("vit", "broken")
    assert worst["status"] == "failed"
    assert worst["reason"] == "failed at train: out of memory"
    assert worst["top1"] is worst["latency_p50_ms"] is worst["params_m"] is None
    assert worst["why"]["top1"] == worst["reason"]


def test_a_row_with_failed_cells_is_partial_and_says_how_many() -> None:
    (row,) = rows([record(seed=0), record(seed=1), failed(seed=2)])
    assert row["status"] == "partial"
    assert row["reason"] == "1 of 3 cells failed at train: out of memory"
    assert row["seeds"] == 2


def test_the_reason_names_the_plugin_whose_code_failed() -> None:
    (row,) = rows([record(seed=0), failed(seed=1, plugin="devit"), failed(seed=2, plugin="devit")])
    assert row["reason"] == "2 of 3 cells failed at train in plugin devit: out of memory"
    (row,) = rows([failed(plugin="devit", reason="plugin devit (x 1): partitioner 'devit': no")])
    assert row["reason"] == "failed at train: plugin devit (x 1): partitioner 'devit': no"


def test_a_percentile_of_too_few_queries_says_what_it_needs() -> None:
    (row,) = rows([record(latency={"n": 100, "p99_ms": None})])
    assert row["latency_p99_ms"] is None
    assert row["why"]["latency_p99_ms"] == "100 queries in a process; p99 needs 662"


def test_five_classes_have_no_top5_and_one_device_sends_nothing() -> None:
    (row,) = rows([record(data={"classes": 5}, accuracy={"top5": None})])
    assert row["why"]["top5"] == "five classes or fewer"
    assert row["why"]["feature_bytes"] == "one device: nothing is sent"
    assert row["why"]["energy_net_mj"] == "no meter"


# --- rank, baseline, filters --------------------------------------------------------------------


def test_rank_is_by_the_suites_column_its_better_end_first() -> None:
    given = [
        record("slow", accuracy={"top1": 99.0}, latency={"p50_ms": 9.0}),
        record("fast", accuracy={"top1": 80.0}, latency={"p50_ms": 1.0}),
    ]
    assert [row["method"] for row in rows(given)] == ["slow", "fast"]
    assert [row["method"] for row in rows(given, rank_by="latency_p50_ms")] == ["fast", "slow"]
    board = leaderboard_of([*given, failed("broken")])
    assert methods(sorted_by(board, "latency_p50_ms")) == ["fast", "slow", "broken"]
    assert methods(sorted_by(board, "latency_p50_ms", greatest_first=True)) == ["slow", "fast", "broken"]
    assert methods(sorted_by(board, "top1", greatest_first=True)) == ["slow", "fast", "broken"]
    assert methods(sorted_by(board, "method", greatest_first=True)) == ["slow", "fast", "broken"]


def test_the_baseline_is_the_reference_even_where_a_filter_hides_it() -> None:
    given = [record(), record("small", accuracy={"top1": 95.0})]
    (board,) = filtered(leaderboard_of(given), "top1 > 92").tables
    assert [row["method"] for row in board.rows] == ["small"]
    assert board.reference is not None
    assert board.reference["method"] == "vit"
    (board,) = leaderboard_of(given, baseline="absent").tables
    assert board.reference is None
    assert board.why["baseline"] == "absent has no measured row on this board"


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("top1 > 90 and latency_p50_ms < 5", ["b"]),
        ("not top1 > 90", ["a"]),  # of the one that failed nobody knows
        ("top1 == None", ["broken"]),
        ("method in ('a', 'broken')", ["a", "broken"]),
        ("80 < top1 <= 90 or status == 'failed'", ["a", "broken"]),
        ("top1 > -1", ["b", "a"]),
        ("-top1 < -90", ["b"]),
        ("not -top1 < 0", []),
        ("top-1 > 90", ["b"]),
        ("Top-1 > 90 and P50 < 5", ["b"]),
        ("p50 w/o input == None and tier == None and Top-1 CI == None", ["b", "a", "broken"]),
        ("method != 'top-1'", ["b", "a", "broken"]),
        ("top1 in (90, None)", ["a", "broken"]),
        (r"'\d' != method", ["b", "a", "broken"]),
    ],
)
def test_filters(where: str, kept: list[str]) -> None:
    given = [record("a"), record("b", accuracy={"top1": 95.0}), failed("broken")]
    assert methods(filtered(leaderboard_of(given), where)) == kept


def methods(leaderboard: Leaderboard) -> list[Any]:
    return [row["method"] for board in leaderboard.tables for row in board.rows]


def test_a_figure_that_was_not_measured_is_unknown_and_not_a_no() -> None:
    no_meter = {"no_meter": "no meter answers (rapl: absent; nvml: absent)"}
    given = [record(str(i), accuracy={"top1": 80.0 + i}, state=no_meter) for i in range(16)]
    board = filtered(leaderboard_of(given), "top1 > 83 and energy_net_mj < 2")
    assert methods(board) == []
    assert board.notes == (
        "energy_net_mj is unknown in 12 of 16 rows (no meter answers); without it 12 match",
    )
    board = filtered(leaderboard_of(given), "energy_net_mj < 2 and idle_w < 3")
    assert board.notes == (
        "energy_net_mj, idle_w are unknown in 16 of 16 rows (no meter answers); without them 16 match",
    )
    assert filtered(leaderboard_of(given), "top1 > 83 or energy_net_mj < 2").notes == (
        "energy_net_mj is unknown in 4 of 16 rows (no meter answers); without it 12 match",
    )
    assert filtered(leaderboard_of(given), "top1 > 83").notes == ()
    assert filtered(leaderboard_of(given), "energy_net_mj == None and top1 > 94").notes == ()


def test_several_reasons_of_unknown_figures_are_counted() -> None:
    given = [failed("a"), failed("b", reason="no data"), record("c")]
    assert filtered(leaderboard_of(given), "top1 > 1").notes == (
        "top1 is unknown in 2 of 3 rows (failed at train: out of memory, or another of 2 reasons); without it 3 match",
    )


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("topp > 3", "no column 'topp': did you mean 'top1'\\? nearest: top1, top5,.*"),
        ("Speed >= 2", "'Speed' is against the baseline and is no column; use latency_p50_ms"),
        ("gain > 0", "'gain' is against the baseline and is no column; use top1"),
        ("topp-1 > 3", "is not allowed"),
        ("top1 >", "invalid syntax"),
        ("method > 3", "not supported"),
        ("__import__('os')", "is not allowed"),
        ("top1.real > 3", "is not allowed"),
        ("(" * 2000, "1000 characters"),
    ],
)
def test_a_bad_filter_is_one_line(where: str, message: str) -> None:
    with pytest.raises(SuiteError, match=message) as caught:
        filtered(leaderboard_of([record()]), where)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_one_error(text: str) -> None:
    with contextlib.suppress(SuiteError):
        parse_where(text)(rows([record()])[0])


@pytest.mark.parametrize(
    ("rank_by", "message"),
    [("top_9", "no column"), ("method", "is not a number"), ("top1_oracle", "no better end to rank by")],
)
def test_what_cannot_rank_is_refused(rank_by: str, message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        leaderboard_of([record()], rank_by=rank_by)


# --- tiers --------------------------------------------------------------------------------------


def answering(right: dict[str, list[np.ndarray]]) -> tuple[list[Record], Any]:
    """Return records of methods whose answers are right where their arrays [N] (one per seed) are true."""
    given = [
        record(method, seed, accuracy={"top1": 100 * float(hits.mean())}, samples={"predictions": "x"})
        for method, seeds in right.items()
        for seed, hits in enumerate(seeds)
    ]
    labels = np.arange(N) % 10

    def answers_of(one: Summary) -> SeedAnswers | None:
        hits = right[one.method][one.seed]
        return SeedAnswers.of({"labels": labels, "predictions": np.where(hits, labels, (labels + 1) % 10)})

    return given, answers_of


def hits(wrong: int, offset: int = 0) -> np.ndarray:
    found = np.ones(N, bool)
    found[offset : offset + wrong] = False
    return found


def test_tiers_hold_what_no_test_tells_from_the_leader() -> None:
    given, answers_of = answering(
        {"best": [hits(4)] * 3, "like it": [hits(6)] * 3, "worse": [hits(60)] * 3, "worst": [hits(200)] * 3}
    )
    ranked = rows(given, answers_of=answers_of)
    assert {row["method"]: row["tier"] for row in ranked} == {"best": 1, "like it": 1, "worse": 2, "worst": 3}
    assert {row["method"]: row["rank_ci"] for row in ranked} == {
        "best": [1, 2],
        "like it": [1, 2],
        "worse": [3, 3],
        "worst": [4, 4],
    }


def test_the_rank_stands_beside_the_tier() -> None:
    given, answers_of = answering({"a": [hits(4)] * 3, "b": [hits(6)] * 3, "c": [hits(90)] * 3})
    text = render(leaderboard_of(given, answers_of), "table", None, width=200)
    assert re.search(r"^ +1 +1-2 +a ", text, re.MULTILINE)
    assert re.search(r"^ +2 +3 +c ", text, re.MULTILINE)
    assert "Rank: 95% intervals of the ranks of all rows together, by accuracy" in text
    assert "McNemar" not in text


ONE_SEED = (
    "Rows with one common seed are compared by the exact McNemar test: no variation of training is in it"
)


def test_a_table_of_one_seed_says_that_training_varies() -> None:
    given, answers_of = answering({"a": [hits(4)], "b": [hits(60)]})
    assert ONE_SEED in render(leaderboard_of(given, answers_of), "table", None, width=200)


def test_rows_of_several_seeds_with_one_in_common_say_so_too() -> None:
    given, answers_of = answering({"a": [hits(4)] * 3, "b": [hits(60)] * 4})
    some = [record for record in given if record.method == "a" or record.seed > 1]
    board = leaderboard_of(some, answers_of)
    assert [row["seeds"] for row in board.tables[0].rows] == [3, 2]
    assert board.to_json()["boards"][0]["one_seed"] is True
    assert ONE_SEED in render(board, "table", None, width=200)
    board = leaderboard_of(given, answers_of)
    assert board.to_json()["boards"][0]["one_seed"] is False
    assert "McNemar" not in render(board, "table", None, width=200)


def test_a_row_without_a_seed_in_common_with_the_best_row_has_no_tier() -> None:
    given, answers_of = answering({"best": [hits(4)] * 4, "worst": [hits(200)] * 4, "other": [hits(90)] * 4})
    some = [record for record in given if (record.seed < 2) == (record.method != "worst")]
    ranked = rows(some, answers_of=answers_of)
    assert [(row["method"], row["tier"], row["rank_ci"]) for row in ranked] == [
        ("best", 1, [1, 1]),
        ("other", 2, [2, 2]),
        ("worst", None, None),
    ]
    assert (
        ranked[2]["why"]["tier"]
        == ranked[2]["why"]["rank_ci"]
        == "no seed and test images in common with best"
    )
    two = [record for record in some if record.method != "other"]
    text = render(leaderboard_of(two, answers_of), "table", None, width=200)
    assert "– Tier (worst): no seed and test images in common with best" in text


def test_the_same_accuracy_on_other_samples_is_distinguished_by_none_and_by_pairs_only() -> None:
    given, answers_of = answering({"one": [hits(100)], "other": [hits(100, offset=200)]})
    assert [row["tier"] for row in rows(given, answers_of=answers_of)] == [1, 1]
    # 20 points apart, but 80 discordant pairs all one way: unmistakable
    given, answers_of = answering({"one": [hits(20)], "other": [hits(100)]})
    assert [row["tier"] for row in rows(given, answers_of=answers_of)] == [1, 2]


def test_columns_are_named_by_name_or_heading_in_any_case() -> None:
    asked = ["p50", "P50", "top-1", "TOP1", "Net energy", "weights", "Weights MiB", "latency_p50_ms", "macs"]
    assert check_columns(asked, "--columns") == [
        "latency_p50_ms",
        "latency_p50_ms",
        "top1",
        "top1",
        "energy_net_mj",
        "weights_mb",
        "weights_mib",
        "latency_p50_ms",
        "macs_g",
    ]
    assert all(column_named(name) == name for name in COLUMNS)
    same = [c.name for c in COLUMNS.values() if column_named(c.heading) != c.name]
    assert same == ["weights_mib"]  # the same figure in another unit; every other heading names one column
    assert sort_order("-p50", "--sort") == ("latency_p50_ms", True)


def test_an_unknown_column_lists_the_five_nearest() -> None:
    with pytest.raises(SuiteError) as caught:
        check_columns(["p5o"], "--sort")
    text = str(caught.value)
    assert text.startswith(
        "--sort: no column 'p5o': did you mean 'latency_p50_ms'? nearest: latency_p50_ms, "
    )
    assert len(text.split("nearest: ")[1].split(", ")) == 5


def test_json_says_once_why_no_meter_was_read() -> None:
    long = "no meter answers (rapl: no /sys/class/powercap; nvml: no driver)"
    board = leaderboard_of([record(str(i), state={"no_meter": long}) for i in range(5)])
    assert json.dumps(board.to_json()).count("powercap") == 1
    assert board.tables[0].why["energy"] == long
    assert {row.why["energy_net_mj"] for row in board.tables[0].rows} == {"no meter answers"}
    assert long in " ".join(render(board, "table", ["method", "energy_net_mj"], width=200).split())


def test_without_predictions_there_is_no_tier_and_a_reason() -> None:
    (row,) = rows([record()])
    assert row["why"]["tier"] == "no raw predictions at hand"
    given, answers_of = answering({"one": [hits(20)], "other": [hits(100)]})
    ranked = rows(given, answers_of=answers_of, rank_by="top5")
    assert {row["why"]["tier"] for row in ranked} == {"ranked by top5, which has no test"}


@pytest.mark.parametrize(("missing", "mean"), [("mean_ms", None), ("std_ms", 4.0)])
def test_a_mean_that_is_not_recorded_is_not_taken_for_zero(missing, mean):
    other = record(repeat=1, latency={missing: None})
    (row,) = rows([record(), other])
    assert (row["latency_mean_ms"], row["latency_std_ms"]) == (mean, None)
    assert row["why"]["latency_std_ms"] == "not recorded"
