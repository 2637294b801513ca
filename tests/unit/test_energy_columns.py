"""Tests of energy columns from readings of records: one scope per table, one meter per row, a reason for every null."""

from __future__ import annotations

from typing import Any

import pytest

from harness import stats
from harness.render import render
from harness.results.leaderboard.leaderboard import leaderboard_of
from harness.types.record import Record

ENERGY = ("energy_gross_mj", "energy_net_mj", "energy_u_mj", "power_gross_w", "idle_w", "energy_scope")


def reading(meter: str = "rapl", **more: Any) -> dict[str, Any]:
    return {
        "meter": meter,
        "scope": "package",
        "watches": "cpu",
        "provenance": "measured",
        "quantity": "energy",
        "method": "default",
        "energy_gross_mj": 30.0,
        "energy_net_mj": 20.0,
        "energy_u_mj": 2.0,
        "power_gross_w": 15.0,
        "idle_w": 5.0,
        "withheld": {},
        **more,
    }


def record(
    method: str = "vit", repeat: int = 0, energy: tuple[dict[str, Any], ...] = (), **more: Any
) -> Record:
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": method,
        "method_key": method,
        "seed": 0,
        "repeat": repeat,
        "cell_id": f"{method}{repeat}",
        "attempt": 1,
        "status": "ok",
        "energy": list(energy),
        "device": {"name": "here", "model": "CPU", "kind": "cpu", "nodes": 1},
        "runtime": {"name": "onnxruntime"},
        "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
        "accuracy": {"top1": 90.0},
        "data": {"task": "image-classification", "name": "digits", "split": "test", "classes": 10},
        **more,
    }
    return Record(**values)


def rows(*records: Record) -> dict[str, dict[str, Any]]:
    (board,) = leaderboard_of(records).tables
    return {row["method"]: row.to_json() for row in board.rows}


def test_the_figures_of_one_meter():
    row = rows(record(energy=(reading(),)))["vit"]
    assert [row[name] for name in ENERGY] == [30.0, 20.0, 2.0, 15.0, 5.0, "package"]
    assert (row["energy_meter"], row["energy_provenance"], row["energy_method"]) == (
        "rapl",
        "measured",
        "default",
    )


def test_medians_over_cells_and_from_five_on_their_spread_is_in_the_uncertainty():
    values = [18.0, 19.0, 20.0, 21.0, 30.0]
    few = [record(repeat=i, energy=(reading(energy_net_mj=v),)) for i, v in enumerate(values[:4])]
    assert rows(*few)["vit"]["energy_u_mj"] == 2.0
    many = [record(repeat=i, energy=(reading(energy_net_mj=v),)) for i, v in enumerate(values)]
    row = rows(*many)["vit"]
    low, high = stats.t_interval(values)
    assert row["energy_net_mj"] == 20.0
    assert row["energy_u_mj"] == pytest.approx((2.0**2 + ((high - low) / 2) ** 2) ** 0.5)


def test_a_board_shows_the_scope_that_most_rows_have_and_says_what_the_others_have():
    wall = reading("plug", scope="wall", watches="socket", quantity="power")
    found = rows(
        record("a", energy=(reading(), wall)), record("b", energy=(reading(),)), record("c", energy=(wall,))
    )
    assert [found[name]["energy_scope"] for name in "abc"] == ["wall", None, "wall"]  # two each: the wider
    assert found["b"]["why"]["energy_net_mj"] == "measured as package; this board shows wall"
    found = rows(record("a", energy=(reading(), wall)), record("b", energy=(reading(),)))
    assert [found[name]["energy_scope"] for name in "ab"] == ["package", "package"]


@pytest.mark.parametrize(
    "other",
    [
        reading("fit", scope="board", watches="board", provenance="fitted"),
        reading("model", provenance="modelled"),
        reading("part", watches="cpu/dram", quantity="energy", energy_u_mj=0.1),
        reading("power", quantity="power", energy_u_mj=0.1),
        reading("worse", energy_u_mj=9.0),
        reading(
            "silent", energy_gross_mj=None, energy_net_mj=None, energy_u_mj=None, withheld={"gross": "gone"}
        ),
    ],
    ids=lambda one: one["meter"],
)
def test_which_meter_is_shown(other):
    assert rows(record(energy=(other, reading())))["vit"]["energy_meter"] == "rapl"


def test_every_null_has_its_reason():
    row = rows(record(state={"no_meter": "no meter answers (nvml: no driver)"}))["vit"]
    assert all(row[name] is None for name in ENERGY)
    assert all(row["why"][name] == "no meter answers" for name in ENERGY)
    dead = reading(
        energy_gross_mj=None,
        energy_net_mj=None,
        energy_u_mj=None,
        power_gross_w=None,
        idle_w=None,
        withheld={"gross": "cable pulled", "net": "no gross energy"},
    )
    row = rows(record(energy=(dead,)))["vit"]
    assert row["energy_gross_mj"] is None
    assert row["why"]["energy_gross_mj"] == "rapl: cable pulled; rapl: no gross energy"
    gross_only = reading(energy_net_mj=None, idle_w=None, withheld={"net": "subtracts no idle"})
    row = rows(record(energy=(gross_only,)))["vit"]
    assert (row["energy_gross_mj"], row["why"]["energy_net_mj"]) == (30.0, "subtracts no idle")


def test_a_table_says_which_meter_and_how_certain():
    text = " ".join(render(leaderboard_of([record(energy=(reading(),))]), "table", width=200).split())
    assert "20.0 ±2.00" in text
    assert "package by rapl, measured" in text
    assert "Energy" not in render(leaderboard_of([record()]), "table", width=200)


# --- fleets ---------------------------------------------------------------------------------------


def fleet(*energy: dict[str, Any], machines: tuple[str, ...] = ("m1", "m2"), **more: Any) -> Record:
    devices = [{"name": f"b{i}", "machine": machine} for i, machine in enumerate(machines, 1)]
    return record(
        energy=energy, device={"name": "pis", "model": "Pi", "nodes": 2, "devices": devices}, **more
    )


def test_a_fleets_energy_is_the_sum_over_its_machines():
    first = reading("pmic", scope="rails", device="b1", energy_u_mj=3.0)
    second = reading(
        "pmic", scope="rails", device="b2", energy_gross_mj=50.0, energy_u_mj=4.0, provenance="fitted"
    )
    row = rows(fleet(first, second))["vit"]
    assert [row[name] for name in ENERGY] == [80.0, 40.0, 5.0, 30.0, 10.0, "rails"]
    assert (row["energy_meter"], row["energy_provenance"]) == ("pmic", "fitted")


def test_one_meter_a_machine_counts_and_two_workers_of_one_machine_once():
    poll = reading("poll", device="b1", quantity="power", energy_gross_mj=99.0)
    row = rows(fleet(poll, reading(device="b1"), reading(device="b2")))["vit"]
    assert row["energy_gross_mj"] == 60.0
    row = rows(fleet(reading(device="b1"), machines=("m1", "m1")))["vit"]
    assert row["energy_gross_mj"] == 30.0


def test_without_a_reading_of_one_machine_there_is_no_sum():
    bad = reading(
        device="b2", energy_net_mj=None, energy_u_mj=None, withheld={"net": "idle was not measured"}
    )
    row = rows(fleet(reading(device="b1"), bad))["vit"]
    assert (row["energy_gross_mj"], row["energy_net_mj"], row["energy_u_mj"]) == (60.0, None, None)
    assert "b2: idle was not measured" in row["why"]["energy_net_mj"]
    row = rows(fleet(reading(device="b1")))["vit"]
    assert row["energy_gross_mj"] is None
    assert row["why"]["energy_gross_mj"] == "rapl: no sum over the fleet's package: b2: not read"


def test_a_scope_that_all_machines_have_is_shown():
    readings = [reading("wall", scope="wall", device="b1"), reading(device="b1"), reading(device="b2")]
    row = rows(fleet(*readings))["vit"]
    assert (row["energy_scope"], row["energy_gross_mj"]) == ("package", 60.0)


def test_a_meter_of_the_whole_fleet_counts_alone():
    whole = reading("plug", scope="wall", device="b1", details={"of_fleet": "pis"}, energy_gross_mj=500.0)
    row = rows(fleet(whole, reading(device="b1")))["vit"]
    assert (row["energy_scope"], row["energy_gross_mj"]) == ("wall", 500.0)


def test_readings_that_follow_different_rules_are_not_added():
    row = rows(fleet(reading(device="b1"), reading(device="b2", method="devit")))["vit"]
    assert "follow different rules: default, devit" in row["why"]["energy_gross_mj"]
