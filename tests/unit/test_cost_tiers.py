"""Tests of tiers, ranks and ratios by a cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.render import render
from harness.render.ranking import rank_notes
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import Leaderboard, Table, leaderboard_of
from harness.stats.best import tiers_by_best
from harness.stats.ratios import LogSample, ratio_p
from harness.types.record import Record


def cell(method: str, p50: float, seed: int = 0, repeat: int = 0, **more: Any) -> Record:
    """Return the record of a measured cell. ``more`` replaces blocks; a dict is merged into its block."""
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": method,
        "method_key": f"key of {method}",
        "seed": seed,
        "repeat": repeat,
        "cell_id": f"{method} {seed} {repeat}",
        "attempt": 1,
        "status": "ok",
        "rank_by": "latency_p50_ms",
        "started": "2026-01-01T00:00:00+00:00",
        "device": {"name": "here", "model": "CPU 1", "kind": "cpu", "nodes": 1},
        "runtime": {"name": "onnxruntime", "params": {}, "precision": "float32"},
        "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
        "data": {"task": "image-classification", "name": "digits", "split": "test", "classes": 10},
        "counts": {"params": 2_000_000, "macs": 3_000_000, "weight_bytes": 8_000_000},
        "accuracy": {"top1": 90.0, "n": 400},
        "latency": {"n": 662, "p50_ms": p50, "throughput_ips": 1000 / p50 if p50 else None},
    }
    for name, value in more.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) and name in values else value
    return Record(**values)


def cells(method: str, *p50: float, **more: Any) -> list[Record]:
    """Return one process for each latency: three seeds, and more processes of the first."""
    places = [(seed, 0) for seed in range(min(3, len(p50)))] + [(0, r) for r in range(1, len(p50) - 2)]
    return [
        cell(method, value, seed, repeat, **more) for value, (seed, repeat) in zip(p50, places, strict=False)
    ]


def table(*rows: list[Record], **options: Any) -> Table:
    (made,) = leaderboard_of([record for row in rows for record in row], **options).tables
    return made


def column(made: Table, name: str) -> dict[str, Any]:
    return {str(row["method"]): row[name] for row in made.rows}


FAST = cells("fast", 1.00, 1.01, 0.99, 1.00, 1.005)
SAME = cells("same", 1.005, 1.01, 0.99, 1.012, 1.003)
SLOW = cells("slow", 2.00, 2.01, 1.99, 2.00, 2.02)
FEW = cells("few", 3.0, 3.1)


def test_rows_that_no_test_separates_from_the_fastest_share_its_tier() -> None:
    made = table(SLOW, SAME, FEW, FAST)
    assert column(made, "tier") == {"fast": 1, "same": 1, "slow": 2, "few": None}
    assert column(made, "rank_ci") == {"fast": [1, 2], "same": [1, 2], "slow": [3, 3], "few": None}
    few = made.rows[-1]
    assert {few.why[name] for name in ("tier", "rank_ci", "ratio", "ratio_ci")} == {
        "2 processes; 3 are needed"
    }
    assert made.detectable_ratio is not None
    assert 1.01 < made.detectable_ratio < 1.06
    assert made.why["detectable_top1"] == "ranked by latency_p50_ms"


def test_a_ratio_is_that_of_the_figures_and_lies_in_its_interval() -> None:
    made = table(FAST, SLOW)
    fast, slow = made.rows
    assert slow["ratio"] == pytest.approx(2.0)
    low, high = slow.numbers("ratio_ci")
    assert 1.9 < low < 2.0 < high < 2.1
    assert (fast["ratio"], fast["ratio_ci"]) == (1, [1, 1])


def test_the_better_end_is_that_of_the_column() -> None:
    made = table(FAST, SLOW, SAME, rank_by="throughput_ips")
    assert [row["method"] for row in made.rows][-1] == "slow"
    assert column(made, "tier") == {"fast": 1, "same": 1, "slow": 2}
    assert made.rows[-1]["ratio"] == pytest.approx(0.5)


def test_p50_has_an_interval_from_three_processes() -> None:
    made = table(FAST, FEW)
    fast, few = made.rows
    low, high = fast.numbers("latency_p50_ci")
    assert low < 1.0 < high
    assert few["latency_p50_ci"] is None
    assert few.why["latency_p50_ci"] == "2 processes; 3 are needed"


def test_a_model_whose_size_depends_on_the_seed_has_one_value_per_seed() -> None:
    """Repeats of one seed say nothing about the size that another seed gives."""
    sizes = [
        record.model_copy(update={"counts": record.counts.model_copy(update={"params": 1000 + record.seed})})
        for record in cells("pruned", 1.0, 1.2, 1.1, 1.001, 1.002, 0.999)
    ]
    by_seed = table(sizes).rows[0].numbers("latency_p50_ci")
    alike = table(cells("pruned", 1.0, 1.2, 1.1, 1.001, 1.002, 0.999)).rows[0].numbers("latency_p50_ci")
    assert by_seed[1] / by_seed[0] > 1.2 * alike[1] / alike[0]
    assert table(sizes[:2] + sizes[3:]).rows[0].why["tier"] == "2 seeds; 3 are needed"


# --- memory, energy, sizes ------------------------------------------------------------------------


def memory(method: str, pages: int) -> list[Record]:
    return cells(
        method, 1.0, 1.0, 1.0, memory={"process_peak_bytes": 4096 * pages}, rank_by="process_peak_mb"
    )


def test_a_page_of_memory_is_no_difference_and_two_are_one() -> None:
    assert column(table(memory("a", 20_000), memory("b", 20_001)), "tier") == {"a": 1, "b": 1}
    assert column(table(memory("a", 20_000), memory("b", 20_002)), "tier") == {"a": 1, "b": 2}


def sized(method: str, *params: int) -> list[Record]:
    return [
        cell(method, 1.0, seed, rank_by="params_m", counts={"params": count})
        for seed, count in enumerate(params)
    ]


def test_counted_figures_have_no_error() -> None:
    made = table(sized("a", 10), sized("b", 10), sized("c", 20), sized("d", 30, 30))
    assert column(made, "tier") == {"a": 1, "b": 1, "c": 2, "d": 3}
    assert column(made, "rank_ci") == {"a": [1, 2], "b": [1, 2], "c": [3, 3], "d": [4, 4]}
    assert column(made, "ratio")["d"] == 3
    assert made.why["detectable_ratio"] == "counted figures have no error"


def test_counted_figures_that_depend_on_the_seed_are_compared_over_seeds() -> None:
    made = table(sized("a", 10), sized("b", 18, 20, 22), sized("c", 900, 10), sized("d", 0))
    assert column(made, "tier") == {"d": None, "a": 1, "b": 2, "c": None}
    assert {str(row["method"]): row.why.get("tier") for row in made.rows if row["tier"] is None} == {
        "d": "0 has no ratio",
        "c": "2 seeds; 3 are needed",
    }


def metered(method: str, energy: float, meter: str = "wall") -> list[Record]:
    def reading(factor: float) -> dict[str, Any]:
        return {
            "meter": meter,
            "scope": "wall",
            "watches": "machine",
            "provenance": "measured",
            "quantity": "energy",
            "energy_gross_mj": energy * factor,
        }

    return [
        cell(method, 1.0, seed, rank_by="energy_gross_mj", energy=[reading(factor)])
        for seed, factor in enumerate((1.0, 1.01, 0.99))
    ]


def test_energy_is_compared_between_rows_of_one_meter() -> None:
    made = table(metered("a", 10), metered("b", 20), metered("c", 40), metered("d", 15, "other"))
    assert column(made, "tier") == {"a": 1, "d": None, "b": 2, "c": 3}
    reasons = [row.why["tier"] for row in made.rows if row["tier"] is None]
    assert reasons == ["measured by other on m, and other rows by wall on m"]


def test_a_column_without_a_test_gives_no_tier() -> None:
    made = table(FAST, SLOW, rank_by="latency_std_ms")
    assert {row.why["tier"] for row in made.rows} == {"ranked by latency_std_ms, which has no test"}


@pytest.mark.parametrize("p50", [0.0, 1e-308, 1e308])
@pytest.mark.parametrize("format", ["table", "json"])
def test_values_at_the_ends_of_the_scale_are_shown(p50: float, format: str) -> None:
    odd = cells("odd", p50, p50, 2.0, latency={"throughput_ips": 1.0})
    tiny = cells("tiny", 1e-308, 1e-308, 2e-308, latency={"throughput_ips": 1.0})
    for name in ("latency_p50_ms", "throughput_ips"):
        text = render(Leaderboard((table(FAST, odd, tiny, rank_by=name),)), format)
        assert "odd" in text
        assert "Infinity" not in text


def test_one_row_is_compared_with_none() -> None:
    made = table(FAST)
    assert column(made, "tier") == {"fast": 1}
    assert made.why["detectable_ratio"] == "fewer than two rows can be compared"
    assert "Tier:" not in render(Leaderboard((made,)), "github", ["method", "tier"])


def test_a_failed_row_has_its_reason() -> None:
    broken = [cell("broken", 1.0, status="failed", reason="out of memory", latency={"p50_ms": None})]
    made = table(FAST, SLOW, broken)
    assert "out of memory" in made.rows[-1].why["tier"]
    assert column(made, "tier")["slow"] == 2


# --- the rule, simulated --------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "n"), [(2, 3), (2, 5), (6, 3), (6, 5)])
def test_equal_rows_are_seldom_told_apart(count: int, n: int) -> None:
    """The rows spread differently: by 1% to 4% from process to process. benchmarks/cost_ranks.py has more cases."""
    random = np.random.default_rng(11)
    tables, apart = 600, 0
    for _ in range(tables):
        spread = 0.02 * np.exp(random.normal(0, 0.5, count))
        logs = random.normal(0, spread[:, None], (count, n))
        rows = sorted(np.exp(logs).tolist(), key=lambda values: sorted(values)[n // 2])
        samples = [LogSample.measured(values) for values in rows]
        apart += max(tiers_by_best(count, comparing(samples))) > 1
    assert apart / tables < 0.05 + 2.6 * (0.05 * 0.95 / tables) ** 0.5


def comparing(samples: list[LogSample]) -> Any:
    def compare(row: int, others: Any) -> list[float]:
        leader = samples[row]
        return [
            ratio_p(samples[other], leader) if samples[other].mean > leader.mean else 1.0 for other in others
        ]

    return compare


# --- the command ----------------------------------------------------------------------------------


def shown(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(cli, ["leaderboard", str(folder), *words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = Results(tmp_path / "results", create=True)
    for record in (*SLOW, *SAME, *FAST):
        results.append(record.model_copy(update={"rank_by": "top1"}))
    return tmp_path / "results"


def test_tiers_follow_the_column_by_which_a_person_sorts(folder: Path) -> None:
    (board,) = json.loads(shown(folder, "--format", "json", "--sort", "p50"))["boards"]
    assert (board["rank_by"], board["sorted_by"]) == ("latency_p50_ms", "latency_p50_ms")
    assert [(row["method"], row["tier"]) for row in board["rows"]] == [("fast", 1), ("same", 1), ("slow", 2)]
    (board,) = json.loads(shown(folder, "--format", "json", "--sort", "-p50"))["boards"]
    assert [(row["method"], row["tier"]) for row in board["rows"]] == [("slow", 2), ("same", 1), ("fast", 1)]


def test_a_column_without_a_test_leaves_the_tiers_and_a_note_says_so(folder: Path) -> None:
    (board,) = json.loads(shown(folder, "--format", "json", "--sort", "method"))["boards"]
    assert board["rank_by"] == "top1"
    text = shown(folder, "--sort", "method", "--format", "github")
    assert "Sorted by Method, which has no test\n" in text  # there are no predictions, so no tiers
    assert "has no test" not in shown(folder, "--sort", "p50", "--format", "github")


def test_a_table_in_which_no_difference_of_accuracies_can_be_found_says_so() -> None:
    made = replace(table(FAST, SAME), rank_by="top1", detectable_top1=100.0)
    assert "the seeds and images are too few to find any difference" in " ".join(rank_notes(made, ["tier"]))
    (note,) = rank_notes(replace(made, detectable_top1=4.7), ["tier"])
    assert note.endswith("; a difference below about 4.7 points is too small to be found")


WIDELY = "A row whose figure spreads widely can be in a better tier than a row above it: no test separates it"


def test_tiers_that_are_not_in_the_order_of_the_rows_are_explained() -> None:
    made = table(FAST, SAME, SLOW)
    names = ["tier", "method"]
    assert WIDELY not in list(rank_notes(made, names))
    assert WIDELY not in list(rank_notes(replace(made, rows=made.rows[::-1]), names))  # the slowest first
    mixed = replace(made, rows=(made.rows[0], made.rows[2], made.rows[1]))
    assert WIDELY in list(rank_notes(mixed, names))


@pytest.mark.parametrize("format", ["table", "github", "latex"])
def test_people_see_the_intervals_and_the_test(format: str) -> None:
    text = render(Leaderboard((table(FAST, SAME, SLOW),)), format, width=200)
    assert "1.00 ±0.01" in text
    assert "[1.9" in text
    assert "Welch" in text
    assert "too small to be found" in text
