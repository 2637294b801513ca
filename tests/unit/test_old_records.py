"""Tests of records written by version 0.1.0: they are valid, readable, and give the same leaderboard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from harness.cli import cli
from harness.results.folder import Results

FOLDER = Path(__file__).parents[1] / "data" / "records_0_1_0"


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(FOLDER)


def test_every_record_and_sample_file_is_valid(results: Results) -> None:
    assert results.validate() == []
    lines = (FOLDER / "records.jsonl").read_text().splitlines()
    assert [record.dump() for record in results.records()] == [json.loads(line) for line in lines]


def test_every_key_is_a_named_field(results: Results, unknown_keys: Callable[[BaseModel], list[str]]) -> None:
    for record in results.records():
        assert unknown_keys(record) == []


def test_the_folder_holds_every_kind_of_record(results: Results) -> None:
    records = results.latest()
    assert Counter(record.status for record in records) == {"ok": 13, "partial": 1, "skipped": 2, "failed": 1}
    assert {record.scenario.name for record in records} == {
        "single-stream",
        "multi-stream",
        "server",
        "offline",
    }
    assert {record.provenance for record in records} == {"measured", "emulated"}
    assert sum(bool(record.energy) for record in records) == 3
    assert sum(not record.network.empty for record in records) == 4


def test_oracle_predictions_are_read_by_their_name_of_today(results: Results) -> None:
    for record in results.latest():
        arrays = results.load_samples(record)
        assert "told" not in arrays
        if record.accuracy.top1_oracle is not None:
            assert record.accuracy.top1_oracle == pytest.approx(
                100 * (arrays["oracle"] == arrays["labels"]).mean()
            )


def test_raw_samples_agree_with_the_record(results: Results) -> None:
    for record in results.latest():
        arrays = results.load_samples(record)
        assert bool(arrays) == record.good
        if record.good:
            correct = arrays["predictions"] == arrays["labels"]
            assert record.accuracy.top1 == pytest.approx(100 * correct.mean())
            assert len(arrays["latency_ns"]) >= (record.latency.n or 0) > 0


def test_the_leaderboard_is_the_one_that_version_0_1_0_printed() -> None:
    answer = CliRunner().invoke(cli, ["leaderboard", str(FOLDER), "--format", "json"], catch_exceptions=False)
    assert answer.exit_code == 0
    old = _figures(json.loads((FOLDER / "boards.json").read_text()))
    new = json.loads(answer.stdout)
    for board in new["boards"]:
        board["why"].pop("energy", None)  # added since
        assert not board.pop("differences", None)
        board.pop("one_seed")
        for row in board["rows"]:
            assert [row.pop(name) for name in ("folder", "run")] == [
                str(FOLDER),
                "last",
            ]  # columns added since
            assert row.pop("started").startswith("2026-")
            assert [row.pop(name) for name in ("resize", "notes")] == [None, []]
    assert _figures(new) == old


INTERVALS = {"rank_ci", "latency_p50_ci", "ratio", "ratio_ci", "detectable_ratio"}
"""Columns of comparisons that were added since, and the ratio that a table can detect."""

ADDED = {"energy", "resize"} | INTERVALS
"""Names for which a table gives a reason today and gave none in version 0.1.0: why no meter was read, an added column."""

OTHER = {"note", "detectable_top1"}
"""A table's note is that of the data today; a measured table had none. What can be detected is that of another test."""


def _figures(value: Any) -> Any:
    """Return ``value`` without the text of its reasons, whose wording may change. The names with a reason stay."""
    if isinstance(value, dict):
        return {
            key: sorted(item.keys() - ADDED) if key == "why" else _figures(item)
            for key, item in value.items()
            if key not in OTHER | INTERVALS
        }
    return [_figures(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", ["table", "github", "latex", "csv"])
def test_every_format_has_every_method(form: str) -> None:
    answer = CliRunner().invoke(cli, ["leaderboard", str(FOLDER), "--format", form], catch_exceptions=False)
    assert answer.exit_code == 0
    for method in ("cloud", "edge", "cut", "average", "by-class", "devit-2"):
        assert method in answer.stdout
