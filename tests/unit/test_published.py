"""Tests of published figures: they are checked, shown beside measured tables, and never ranked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import SuiteError
from harness.render import FORMATS, render
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import Leaderboard
from harness.results.leaderboard.published import PRINTED, find_published, published_tables, shipped_published
from harness.suite.shipped import shipped_suites
from harness.types.columns import COLUMNS
from harness.types.record import Record

GIVEN = """\
paper: Small ViTs (Doe, 2020)
tables:
  - table: Table 1
    data: digits
    device_model: CPU 1
    note: Trained on a sunny day
    rows:
      - {method: slow, params_m: 21.5, flops_g: 12.0, top1: 81.70, latency_mean_ms: 9}
      - {method: best, params_m: 5, top1: 99.9, why: {flops_g: "printed twice, differently"}}
  - {table: Table 2, data: cifar10, rows: [{method: slow, energy_net_mj: 3, energy_scope: board}]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.published.yaml"
    path.write_text(GIVEN)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one measured row on the very data set and device of Table 1."""
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": "vit",
        "method_key": "k",
        "seed": 0,
        "cell_id": "c",
        "attempt": 1,
        "status": "ok",
        "device": {"name": "here", "model": "CPU 1", "nodes": 1},
        "runtime": {"name": "onnxruntime"},
        "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
        "data": {"task": "image-classification", "name": "digits", "split": "test", "classes": 10},
        "counts": {"params": 1_000_000},
        "accuracy": {"top1": 90.0, "n": 10},
        "latency": {},
    }
    folder = tmp_path / "results"
    Results(folder, create=True).append(Record(**values))
    return folder


def shown(results: Path, *arguments: str) -> str:
    answer = CliRunner().invoke(cli, ["leaderboard", str(results), *arguments], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


# --- never ranked, never mixed ------------------------------------------------------------------------


def test_published_rows_stand_below_on_boards_of_their_own(results: Path, file: Path) -> None:
    text = shown(results, "--published", str(file), "--format", "json")
    measured, *published = json.loads(text)["boards"]
    alone = json.loads(shown(results, "--format", "json"))["boards"]
    assert [measured] == alone
    assert [row["method"] for row in measured["rows"]] == ["vit"]
    assert [board["key"]["provenance"] for board in published] == ["published"] * 2
    assert published[0]["key"]["device_model"] == measured["key"]["device_model"]
    assert published[0]["key"]["source"] == "Small ViTs (Doe, 2020), Table 1"


def test_published_rows_keep_the_papers_order_and_have_no_tier(file: Path) -> None:
    first, second = published_tables(file)
    assert [row["method"] for row in first.rows] == ["slow", "best"]
    assert first.rank_by is first.baseline is first.reference is first.detectable_top1 is None
    for row in (*first.rows, *second.rows):
        assert row["tier"] is None
        assert row.why["tier"] == "published figures are not ranked"


def test_a_published_row_is_what_is_printed_and_nothing_more(file: Path) -> None:
    (slow, best), (energy,) = (board.rows for board in published_tables(file))
    given = {"method": "slow", "params_m": 21.5, "flops_g": 12.0, "top1": 81.7, "latency_mean_ms": 9}
    given |= {"data": "digits", "device_model": "CPU 1"}
    assert {name: slow[name] for name in COLUMNS if slow[name] is not None} == given
    assert slow.why["macs_g"] == "not printed in Small ViTs (Doe, 2020), Table 1"
    assert best.why["flops_g"] == "printed twice, differently"
    assert energy["energy_provenance"] == "published"
    for row in (slow, best, energy):
        assert all((row[name] is None) == (name in row.why) for name in COLUMNS)


def test_a_published_column_may_stand_by_its_heading(file: Path) -> None:
    expected = published_tables(file)
    file.write_text(GIVEN.replace("top1: 81.70", "Top-1: 81.70"))
    assert published_tables(file) == expected
    file.write_text(GIVEN.replace("top1: 81.70", "top1: 81.70, Top-1: 3"))
    with pytest.raises(SuiteError, match="Top-1: top1 is given twice"):
        published_tables(file)


def test_filters_and_orders_are_for_published_rows_too(results: Path, file: Path) -> None:
    text = shown(results, "--published", str(file), "--where", "params_m < 20", "--format", "csv")
    assert [line.split(",")[0] for line in text.splitlines()] == ["board", "1", "2"]
    assert ",slow," not in text
    text = shown(results, "--published", str(file), "--sort", "params_m", "--format", "github")
    assert text.index("| best") < text.index("| slow")


# --- how they are shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_where_the_figures_are_from(format: str, file: Path) -> None:
    text = render(Leaderboard(published_tables(file)), format, width=200)
    assert "published" in text
    assert "Table 1" in text
    assert "Table 2" in text
    if format not in ("csv", "json"):
        assert "not measured here, not ranked" in text
        assert "Trained on a sunny day" in text
        assert "printed twice, differently" in text
        assert "not printed in" not in text  # what a paper left out needs no line
        assert "12.0" in text  # as printed, not to three digits
        assert "21.50" not in text


@pytest.mark.parametrize("format", FORMATS)
def test_columns_can_be_chosen(format: str, file: Path) -> None:
    text = render(Leaderboard(published_tables(file)), format, ["method", "tier", "seeds", "flags", "top1"])
    assert "99.9" in text


# --- what comes in the box ----------------------------------------------------------------------------


def test_what_is_shipped_can_be_read_and_is_no_suite() -> None:
    names = shipped_published()
    assert {"papers/devit", "papers/edgevit", "papers/edvit", "papers/tformer"} <= set(names)
    for name in names:
        assert published_tables(find_published(name))
    assert not [name for name in shipped_suites() if "published" in name or "claims" in name]


def test_the_models_that_are_not_built_here_are_there() -> None:
    found = {
        (board.key.source.split(" ")[0], board.key.data, row["method"]): row
        for name in ("papers/tformer", "papers/devit")
        for board in published_tables(find_published(name))
        for row in board.rows
        if board.key.device_model != "NVIDIA Jetson Nano"
    }
    pvt = found["TFormer", "ImageNet-1K", "PVT-Tiny"]
    assert (pvt["params_m"], pvt["macs_g"], pvt["top1"], pvt["top5"]) == (13, 1.9, 75.1, 92.4)
    mixer = found["TFormer", "ImageNet-1K", "Swin-Mixer-T/D6"]
    assert (mixer["params_m"], mixer["macs_g"], mixer["top1"]) == (23, 4.0, 79.7)
    t2t = found["DeViT", "CIFAR-100", "T2T-ViT_t-14"]
    assert (t2t["params_m"], t2t["flops_g"], t2t["top1"], t2t["latency_mean_ms"]) == (21.5, 12.2, 86.62, 9.89)


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "top1: 81.70",
            "topp1: 81.70",
            ":8: tables.0.rows.0.topp1: no published column; did you mean 'top1'?",
        ),
        ("top1: 81.70", "tier: 1", ":8: tables.0.rows.0.tier: no published column"),
        (
            "top1: 81.70",
            "top1: high",
            ":8: tables.0.rows.0.top1: expected a number of at least 0, in %, not 'high'",
        ),
        ("top1: 81.70", "top1: 817", ":8: tables.0.rows.0.top1: expected at most 100 %"),
        ("top1: 81.70", "top1: -1", "expected a number of at least 0"),
        ("top1: 81.70", "top1: .nan", "expected a number of at least 0"),
        ("top1: 81.70", "top1: null", "expected a number of at least 0, in %, not None"),
        ("method: slow, params_m", "name: slow, params_m", ":8: tables.0.rows.0: a row needs a method"),
        ('why: {flops_g: "', 'why: {flop_g: "', ":9: tables.0.rows.1.why.flop_g: no published column"),
        ('why: {flops_g: "', 'why: {top1: "', ":9: tables.0.rows.1.why.top1: the row gives that figure"),
        ("    data: digits\n", "", "tables.0.data: missing"),
        ("    data: digits\n", "    data: digits\n    rank: 1\n", ":5: tables.0.rank: unknown key"),
        ("paper:", "papers:", ":1: papers: unknown key; did you mean 'paper'?"),
        ("energy_scope: board", "energy_scope: 3", ":10: tables.1.rows.0.energy_scope: expected a text"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(old: str, new: str, message: str, file: Path) -> None:
    assert old in GIVEN
    file.write_text(GIVEN.replace(old, new, 1))
    with pytest.raises(SuiteError) as error:
        published_tables(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_an_unknown_name_says_what_there_is(results: Path) -> None:
    with pytest.raises(
        SuiteError, match=r"--published papers/devi: no such file.*did you mean 'papers/devit'"
    ):
        find_published("papers/devi")


def test_the_columns_a_paper_may_give_are_columns() -> None:
    assert set(PRINTED) <= set(COLUMNS)
    assert not {"tier", "top1_oracle", "status", "flags"} & set(PRINTED)
