"""Tests of tables in every format, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.render import FORMATS, render, terminal
from harness.render.characters import json_text
from harness.render.figures import significant, with_interval
from harness.render.record import describe
from harness.render.view import columns_of
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import Leaderboard, leaderboard_of
from harness.results.leaderboard.selection import filtered
from harness.types.blocks import DeviceBlock, ScenarioBlock
from harness.types.columns import COLUMNS
from harness.types.record import Record


def record(method: str = "vit", **more: Any) -> Record:
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": method,
        "method_key": f"key of {method}",
        "seed": 0,
        "cell_id": method,
        "attempt": 1,
        "status": "ok",
        "baseline": "vit",
        "rank_by": "top1",
        "device": {"name": "here", "model": "CPU 1", "kind": "cpu", "nodes": 1},
        "runtime": {"name": "onnxruntime", "params": {}, "precision": "float32"},
        "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
        "data": {"task": "image-classification", "name": "digits", "split": "test", "classes": 10},
        "counts": {"params": 2_345_678, "macs": 3_000_000_000, "weight_bytes": 8_000_000},
        "accuracy": {"top1": 90.0, "top5": 99.0, "n": 400, "on": "device"},
        "latency": {"n": 662, "p50_ms": 4.0, "p90_ms": 5.0, "p99_ms": 6.0, "mean_ms": 4.0, "std_ms": 1.0},
        "memory": {"process_peak_bytes": 50_000_000, "baseline_bytes": 1_000_000},
    }
    return Record(**{**values, **more})


def board() -> Leaderboard:
    """Return a leaderboard with the baseline, a method that is better and faster, and a method that failed."""
    broken = record(
        "broken",
        status="failed",
        stage="train",
        reason="out of memory",
        counts={},
        accuracy={},
        latency={},
        memory={},
    )
    better = record(
        "better",
        accuracy={"top1": 92.5, "n": 400},
        latency={"n": 662, "p50_ms": 2.0, "p99_ms": 3.0, "mean_ms": 2.0, "std_ms": 0.1},
        flags=["contended"],
    )
    return leaderboard_of([record(), better, broken])


def metered() -> Leaderboard:
    """The same with energy, and figures of many digits."""
    energy = [
        {
            "meter": "rapl",
            "scope": "package",
            "provenance": "measured",
            "energy_gross_mj": 12.3456,
            "energy_net_mj": 0.0905,
            "energy_u_mj": 0.00123,
            "method": "default",
        }
    ]
    given = [record(seed=seed, energy=energy) for seed in (0, 1, 2)]
    tiny = record("a-method-with-a-long-name", counts={"params": 15_586, "macs": 269_136}, energy=energy)
    return leaderboard_of([*given, tiny])


def row_of(text: str, method: str) -> str:
    """Return the table's line of a method. Notes about the method begin with a mark."""
    return next(line for line in text.splitlines() if re.match(rf"[|\s\d]*{method}\b", line))


# --- what people see ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["table", "github", "latex"])
def test_people_see_gain_speed_and_why_a_figure_is_missing(format: str) -> None:
    text = render(board(), format)
    better, broken = row_of(text, "better"), row_of(text, "broken")
    assert re.search(r"92\.50.*\+2\.50.*2\.00.*2\.00×", better)
    assert not re.search(r"[1-9]", broken)  # no seed was measured: that 0 is a count
    assert "broken: failed at train: out of memory" in text
    assert "! contended: better" in text
    assert "baseline: gain and speed are against it" in text


def test_a_baseline_that_a_filter_hides_is_named() -> None:
    text = render(filtered(board(), "top1 > 92"), "table")
    assert row_of(text, "better")
    assert "Gain and speed are against the baseline vit, which is not shown" in text
    assert "* baseline" not in text


def test_rows_of_one_method_are_distinguished_in_notes() -> None:
    rows = [
        record(cell_id=runtime, runtime={"name": runtime, "params": {}}, flags=["contended"])
        for runtime in ("onnxruntime", "torch")
    ]
    text = render(leaderboard_of(rows), "github")
    assert "! contended: vit (onnxruntime), vit (torch)" in text


def test_reasons_that_differ_in_a_count_are_one_line() -> None:
    def short(method: str, queries: int) -> Record:
        latency = {"n": queries, "p50_ms": 4.0, "p99_ms": None, "mean_ms": 4.0, "std_ms": 0.1}
        return record(method, latency=latency)

    text = render(leaderboard_of([short("a", 34), short("b", 7), short("c", 100)]), "github")
    assert text.count("p99 needs 662") == 1
    assert "– p99: 7 to 100 queries in a process; p99 needs 662" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_a_narrow_terminal_shows_every_figure_whole_in_further_blocks(width: int) -> None:
    (table,) = metered().tables
    text = render(metered(), "table", width=width)
    shown = columns_of(table)
    figures = [cell for column in shown if column.numeric for cell in column.cells]
    for figure in figures:
        assert re.search(rf"(?<!\S){re.escape(figure)}(?!\S)", text), figure
    assert "…" not in text
    for column in shown:
        assert column.heading.split()[0] in text
    if width >= 60:
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 70, 80, 90])
def test_energy_p99_and_memory_come_before_macs_and_gain(width: int) -> None:
    text = render(metered(), "table", width=width)
    headings = ("Net energy", "p99", "Peak", "Gain", "MACs")
    order = [next(re.finditer(rf"\s{heading}\s", text)).start() for heading in headings]
    blocks = [text[:place].count("\n\n") for place in order]
    assert max(blocks[:3]) <= min(blocks[3:])
    assert max(blocks[:3]) < blocks[4]


def test_every_block_names_its_rows() -> None:
    twice = [record(), record(runtime={"name": "torch", "params": {}, "precision": "float32"})]
    for block in render(leaderboard_of(twice), "table", width=50).split("\n\n")[1:-1]:
        assert "onnxruntime" in block
        assert "torch" in block


NEW_HEAD = {
    "stage": "build",
    "image_passes": 100,
    "notes": {"weights": "timm's", "head": "new: no names", "new_head": True, "adapted": ["channels 3 to 1"]},
}


def test_what_differs_from_pretrained_weights_is_a_note_of_each_format() -> None:
    table = leaderboard_of([record(), record("fresh", lineage=[NEW_HEAD])])
    for format in ("table", "github", "latex"):
        text = render(table, format, width=100)
        assert "† fresh: the head is new: no names" in text
        assert "† fresh: channels 3 to 1" in text
    assert "fresh †" in render(table, "github")
    assert "vit †" not in render(table, "github")
    notes = json.loads(render(table, "json"))["boards"][0]["rows"]
    assert {row["method"]: row["notes"] for row in notes} == {
        "vit": [],
        "fresh": ["the head is new: no names", "channels 3 to 1"],
    }


def test_weights_that_no_step_trained_are_noted_unless_they_are_pretrained() -> None:
    random = {"stage": "build", "image_passes": 0, "notes": {}}
    kept = {
        "stage": "build",
        "image_passes": 0,
        "notes": {"weights": "timm's", "head": "all", "new_head": False},
    }
    table = render(
        leaderboard_of([record("raw", lineage=[random]), record("kept", lineage=[kept])]), "github"
    )
    assert "† raw: no step trained the weights" in table
    assert "† kept" not in table


def test_preprocessing_is_a_note_where_it_is_the_same_and_columns_where_it_differs() -> None:
    def of(method: str, resize: str | None, normalize: str = "half") -> Record:
        data = {**record().data, "resize": resize, "normalize": normalize}
        return record(method, data=data)

    same = render(leaderboard_of([of("a", "bicubic, crop 0.9"), of("b", "bicubic, crop 0.9")]), "github")
    assert "Images: resized by bicubic, crop 0.9, normalised by half" in same
    differ = render(leaderboard_of([of("a", "bicubic, crop 0.9"), of("b", "bilinear")]), "github")
    assert "Images: normalised by half" in differ
    assert "Resize" in differ
    scaled = render(leaderboard_of([of("a", "bicubic"), of("b", "bicubic", "imagenet")]), "github")
    assert "Images: resized by bicubic\n" in scaled + "\n"
    older = render(leaderboard_of([of("a", "bicubic"), of("old", None)]), "github")
    assert "Images: resized by bicubic (not recorded for old), normalised by half" in older
    assert "Images" not in render(leaderboard_of([of("old", None)]), "github")


def test_seeds_are_a_column_only_where_they_differ() -> None:
    same = [record(seed=seed) for seed in (0, 1)]
    assert "on here, 2 seeds\n" in render(leaderboard_of(same), "table")
    assert "Seeds" not in render(leaderboard_of(same), "table")
    assert "Seeds" in render(leaderboard_of([*same, record("other")]), "table")
    again = [*same, record(repeat=1)]
    assert "2 seeds, 2 processes on the first seed\n" in render(leaderboard_of(again), "table")


@pytest.mark.parametrize("format", ["table", "github", "latex"])
def test_a_board_without_the_baseline_says_why_it_has_no_gain(format: str) -> None:
    alone = leaderboard_of([record("other")])
    text = " ".join(render(alone, format).replace("\n%", "").split())
    assert "No gain and no speed: the baseline vit has no measured row here" in text
    assert "No gain" not in render(board(), format)
    assert "No gain" not in render(alone, format, ["method", "top1"])
    assert "No gain" not in render(leaderboard_of([record("other", baseline=None)]), format)


def test_chosen_columns_are_shown_in_their_order_at_any_width() -> None:
    text = render(board(), "table", ["threads", "method", "energy_net_mj"], width=50)
    heading = next(line for line in text.splitlines() if "Threads" in line)
    assert heading.split() == ["Threads", "Method", "Net", "energy"]
    assert "Net energy (better, vit): no meter" in " ".join(text.split())


@given(st.floats(1e-6, 1e9, allow_nan=False))
def test_figures_have_three_digits_and_no_exponent(value: float) -> None:
    one = record(latency={"n": 662, "p50_ms": value, "mean_ms": value, "std_ms": 0.0})
    text = render(leaderboard_of([one]), "github", ["method", "latency_p50_ms"])
    shown = row_of(text, "vit").split("|")[2].strip()
    assert re.fullmatch(r"[\d,]+(\.\d+)?", shown)
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.006)


# --- what machines read -------------------------------------------------------------------------


@given(st.floats(1e-3, 1e3), st.floats(0, 2), st.floats(0, 2))
def test_the_interval_of_a_figure_is_never_shown_as_none(value: float, below: float, above: float) -> None:
    text = with_interval(value, [value * (1 - below / 4), value * (1 + above)])
    figure, _, half = text.partition(" ±")
    assert figure == significant(value)
    if max(below / 4, above) > 1e-9:
        assert float(half.replace(",", "")) > 0


def test_a_figure_has_the_distance_to_the_farther_end_of_its_interval() -> None:
    assert with_interval(0.237, [0.236, 0.2412]) == "0.237 ±0.004"
    assert with_interval(4.0, [4.0, 4.0]) == "4.00"


def test_json_has_every_column_and_a_reason_for_every_null() -> None:
    loaded = json.loads(render(board(), "json"))
    (one,) = loaded["boards"]
    assert [row["method"] for row in one["rows"]] == ["better", "vit", "broken"]
    for row in one["rows"]:
        assert set(COLUMNS) <= set(row)
        assert all((row[name] is None) == (name in row["why"]) for name in COLUMNS)


def test_csv_reads_back_with_one_header_and_empty_nulls() -> None:
    two = leaderboard_of(
        [record(), record("vit", provenance="emulated"), record('a,b"c\n', flags=["short", "unsteady"])]
    )
    rows = list(csv.DictReader(io.StringIO(render(two, "csv"))))
    assert len(rows) == 3
    assert {row["board"] for row in rows} == {"1", "2"}
    assert {row["provenance"] for row in rows} == {"measured", "emulated"}
    strange = next(row for row in rows if row["method"].startswith("a,b"))
    assert strange["method"] == 'a,b"c\n'
    assert json.loads(strange["flags"]) == ["short", "unsteady"]
    assert strange["energy_net_mj"] == ""
    assert float(strange["params_m"]) == 2.345678


@pytest.mark.parametrize("format", FORMATS)
def test_no_boards_give_no_table(format: str) -> None:
    assert "vit" not in render(Leaderboard(()), format)


# --- text of others -----------------------------------------------------------------------------

STRANGE = ["[red]x[/]", "a|b", "**bold**", "<img src=x>", "{}%&_#$\\", "né 模型 🤖", "two\nlines", "[/]"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", STRANGE)
def test_names_and_reasons_of_others_are_text_and_nothing_else(format: str, name: str) -> None:
    nothing = {"accuracy": {}, "latency": {}, "counts": {}, "memory": {}}
    device = {"name": name, "model": name, "kind": "cpu", "nodes": 1}
    bad = record("bad", status="failed", reason=name, device=device, **nothing)
    given = leaderboard_of([record(name, device=device), record(device=device), bad])
    text = render(given, format)
    if format == "table" and "\n" not in name:
        assert name in text
    if format == "github":
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert len(table) == 2 + 3
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        assert "<img" not in text.replace("\\<img", "")
        assert all(
            line.startswith(("|", "- ", "### ")) or "batch" in line for line in text.splitlines() if line
        )
    if format == "latex":
        before, _, table = text.partition("\\begin{tabular}")
        assert all(line.startswith("%") for line in before.splitlines())
        assert not re.search(r"(?<!\\)[%#]", table)


# --- one record -----------------------------------------------------------------------------------


def test_a_record_s_story_has_the_last_epoch_of_each_training_and_every_part() -> None:
    history = [{"loss": 2.0, "top1": 30.0}, {"loss": 0.5, "top1": 93.25}]
    lineage = [
        {
            "stage": "build",
            "entry": "vit",
            "params": {"dim": 48},
            "train_s": 12.34,
            "notes": {"history": history},
        },
        {
            "stage": "partition",
            "entry": "devit",
            "params": {},
            "notes": {"parts": [{"classes": [0, 1]}, {"classes": [2]}]},
        },
    ]
    story = describe(record(lineage=lineage), {"latency_ns": np.array([4_000_000, 5_000_000])})
    assert "1. build vit (dim 48), 12.3 s of training: last_epoch.loss 0.5, last_epoch.top1 93.25" in story
    assert "2. partition devit (): parts (classes 0 1) (classes 2)" in story
    assert "raw samples: 4 to 5 ms" in story
    assert max(map(len, story.splitlines())) <= 110


def of_fleet(method: str = "split", seed: int = 0, **more: Any) -> Record:
    levels = [
        {
            "missing": 1,
            "sets": 2,
            "of": 2,
            "mean": 70.0 + seed,
            "min": 60.0,
            "max": 80.0,
            "worst": ["sub2"],
            "top1": {"sub1": 80.0, "sub2": 60.0},
        },
        {
            "missing": 2,
            "sets": 20,
            "of": 45,
            "mean": 30.0,
            "min": 10.0,
            "max": 50.0,
            "worst": ["sub1", "sub2"],
            "top1": {},
        },
    ]
    network = {
        "input_bytes": 100,
        "feature_bytes": 8,
        "critical_path_ms": 3.2,
        "over_bound": 1.25,
        "fuse_ms": 0.5,
        "no_input": {"n": 100, "p50_ms": 2.5},
        "parts": {"sub1": {"compute_ms": 1.5, "device": "b2"}},
        "devices": [{"name": "b2", "parts": ["sub1"], "compute_share": 0.4}],
    }
    return record(
        method,
        seed=seed,
        network=network,
        **{"cell_id": f"{method}{seed}", **more},
        device={"name": "pair", "model": "CPU 1", "kind": "cpu", "nodes": 2},
        accuracy={"top1": 90.0, "n": 400, "on": "host", "missing": {"levels": levels}},
    )


def test_a_fleets_columns_are_there_where_there_is_something_to_say() -> None:
    leaderboard = leaderboard_of([of_fleet(), of_fleet(seed=1), record()])
    rows = {row["method"]: row for row in leaderboard.tables[0].rows}
    names = ("top1_drop1", "latency_no_input_p50_ms", "critical_path_ms", "over_bound", "accuracy_on")
    assert [rows["split"][name] for name in names] == [70.5, 2.5, 3.2, 1.25, "host"]
    assert all(rows["vit"][name] is None for name in names[:-1])
    assert rows["vit"].why["top1_drop1"] == "the suite does not ask for it (robustness: drop-1)"
    assert rows["vit"].why["over_bound"] == "one device: nothing is sent"
    text = render(leaderboard, "table")
    assert "Without one" in text
    assert "p50 w/o input" in text
    assert "Without one" not in render(leaderboard_of([record()]), "table")


def test_frames_in_flight_and_raw_input_are_rows_of_their_own() -> None:
    scenario = {"name": "single-stream", "batch": 1, "threads": 1, "in_flight": 4, "deadline_s": 0.5}
    pair = {"name": "pair", "model": "CPU 1", "kind": "cpu", "nodes": 2}
    several = ScenarioBlock.model_validate(scenario)
    raw = DeviceBlock.model_validate({**pair, "input": "raw"})
    given = [of_fleet(), of_fleet(cell_id="b").model_copy(update={"scenario": several})]
    given.append(of_fleet(cell_id="c").model_copy(update={"device": raw}))
    (one,) = leaderboard_of(given).tables
    assert sorted(row["load"] for row in one.rows) == [
        "4 in flight, within 0.5 s",
        "as its scenario",
        "as its scenario",
    ]


def test_the_story_of_a_fleet_tells_each_part_and_what_is_left_without_some() -> None:
    story = describe(of_fleet(), {})
    assert "without 1 part (all 2 sets): top1 mean 70, 60 (sub2) to 80" in story
    assert "without sub1 80, without sub2 60" in story
    assert "without 2 parts (20 of 45 sets): top1 mean 30" in story
    assert "sub1: compute_ms 1.5, device b2" in story
    assert "name b2, parts sub1, compute_share 0.4" in story
    assert "without parts: why" in describe(record(accuracy={"missing": {"why": "why"}}), {})


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    )
)
def test_indented_json_is_that_of_the_standard_library(value: Any) -> None:
    assert json_text(value, 2) == json.dumps(value, indent=2)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_table_of_many_rows_has_the_same_lines_as_one_of_few(width: int) -> None:
    old = Results(Path(__file__).parents[1] / "data" / "records_0_1_0")
    wide = record("模型", device={"name": "板", "model": "Board"}, baseline="模型")
    for leaderboard in (
        leaderboard_of(old.records()),
        leaderboard_of([wide, record(), record("b", status="failed")]),
    ):
        lines = terminal.render(leaderboard, None, width, many=1)
        assert lines == terminal.render(leaderboard, None, width, many=10**9)
