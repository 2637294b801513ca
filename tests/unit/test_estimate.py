"""Tests of estimates of plans: the schedule against cases by hand and bounds, and the output of the command line."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.cli import cli
from harness.plan.estimate import DeviceShare, Estimate
from harness.plan.profiles.profile import Link, Point, Profile
from harness.plan.profiles.schedule import PartCounts, schedule
from harness.plan.profiles.stored import write_profile
from harness.render.estimate import show_estimates

SUITE = """\
suite: mine
data: {name: digits, image_size: 16}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}}
  cnn: {build: {timm: {name: resnet18}}}
  cut: {from: cloud, partition: {pipeline: {after: 1}}}
  four: {from: cloud, partition: {edvit: {parts: 3, memory_budget_mb: 1}}}
  packed: {from: cut, compress: [{edgevit: {blocks: 1}, each_part: true}]}
  auto: {from: cloud, partition: {neurosurgeon: {}}}
devices:
  here: {backend: cpu}
  two: {backend: cpu, threads: 2}
  pair: {fleet: [here, here]}
  mixed: {fleet: [here, two]}
run:
  - {methods: [cloud, cut], devices: [here]}
  - {methods: [cloud, cut, four], devices: [pair]}
"""
CLOUD = 3 * (17 * 12 * 24**2 + 2 * 17**2 * 24) + 16 * 16 * 24 + 24 * 10
"""MACs of the ViT: three blocks on 17 tokens, 16 patches of 16 pixels, the head."""


SIZES = (0.0001, 0.001, 0.01, 0.1)
"""GMACs of the points of a profile."""


def profile(
    fixed: float = 0.001,
    slope: float = 2.0,
    off: float = 0.0,
    sizes: tuple[float, ...] = SIZES,
    weigh: float = 1e8,
    **more: Any,
) -> Profile:
    points = [
        Point(
            what="m",
            kind="model",
            macs=round(g * 1e9),
            macs_linear=1,
            bytes=1,
            weight_bytes=round(g * weigh),
            memory_bytes=round(50 * 2**20 + 2 * g * weigh),
            seconds=(fixed + slope * g) * (1 + sign * off),
        )
        for g, sign in zip(sizes, (1, -1, 1, -1), strict=False)
    ]
    fields: dict[str, Any] = {
        "name": "cpu",
        "device_model": "this machine",
        "provenance": "measured",
        "origin": "a test",
        "runtime": "onnxruntime",
        "precision": "float32",
        "threads": 1,
    }
    return Profile(points=tuple(points), **{**fields, **more})


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def estimated(tmp_path: Path) -> Any:
    """Return a function that runs the command line and returns its estimates by (method, device)."""

    def run(*arguments: str, suite: str = SUITE) -> dict[tuple[str, str], dict[str, Any]]:
        path = tmp_path / "mine.yaml"
        path.write_text(suite)
        done = CliRunner().invoke(
            cli, ["plan", str(path), "--estimate", "--json", *arguments], catch_exceptions=False
        )
        estimates = json.loads(done.stdout)["estimates"]
        return {(estimate["method"], estimate["device"]): estimate for estimate in estimates}

    return run


# --- the schedule ---------------------------------------------------------------------------------


def piece(name: str, *inputs: str, macs: int = 0, sends: int = 0) -> PartCounts:
    return PartCounts(name=name, inputs=inputs or ("image",), macs=macs, weight_bytes=0, output_bytes=sends)


LINK = Link(rate_mbps=8, rtt_ms=20)
"""A byte takes a microsecond, and every message 10 ms more."""


def seconds(piece: PartCounts) -> float:
    return float(piece.macs)


def test_parts_beside_each_other_take_as_long_as_the_slowest_of_them() -> None:
    parts = [
        piece("a", macs=1, sends=1000),
        piece("b", macs=3, sends=1000),
        piece("c", macs=2, sends=1000),
        piece("fuse", "a", "b", "c", macs=1),
    ]
    places = {"a": 0, "b": 1, "c": 2, "fuse": 0}
    links = {1: LINK, 2: LINK}
    # to b: 0.1 + 0.01, three seconds, back: 0.001 + 0.01, and fusion
    assert schedule(parts, places, 0, seconds, links, 100_000) == pytest.approx(0.11 + 3 + 0.011 + 1)
    # the request alone, without the image
    assert schedule(parts, places, 0, seconds, links, None) == pytest.approx(0.01 + 3 + 0.011 + 1)
    assert schedule(parts, places, 0, seconds, links, 100_000, batch=4) == pytest.approx(0.41 + 3 + 0.014 + 1)


def test_a_pipeline_is_one_after_another_by_way_of_the_central_device() -> None:
    parts = [
        piece("a", macs=1, sends=1000),
        piece("b", "a", macs=2, sends=2000),
        piece("c", "b", macs=3, sends=10),
    ]
    links = {1: LINK, 2: LINK}
    on_central = schedule(parts, {"a": 0, "b": 0, "c": 0}, 0, seconds, {}, 10**6)
    assert on_central == 6
    out = schedule(parts, {"a": 1, "b": 2, "c": 0}, 0, seconds, links, 3000)
    assert out == pytest.approx(6 + 0.013 + 0.011 + 0.011 + 0.012)
    last_away = schedule(parts, {"a": 0, "b": 0, "c": 1}, 0, seconds, links, 3000)
    assert last_away == pytest.approx(6 + 0.012 + 0.01001)


def test_a_device_runs_one_part_at_a_time_and_a_link_sends_one_tensor_at_a_time() -> None:
    parts = [piece("a", macs=1, sends=10**6), piece("b", macs=1, sends=10**6), piece("f", "a", "b", macs=0)]
    assert schedule(parts, {"a": 0, "b": 0, "f": 0}, 0, seconds, {}, 8) == 2
    # the image goes to each part; b's is on its way while a computes, and a's output while b computes
    both_away = schedule(parts, {"a": 1, "b": 1, "f": 0}, 0, seconds, {1: LINK}, 10**6)
    assert both_away == pytest.approx(1.01 + 1 + 1 + 1.01)


def test_an_output_goes_back_to_the_device_that_computed_it_by_way_of_the_central_device() -> None:
    parts = [piece("a", macs=1, sends=1000), piece("b", "a", macs=1, sends=2000), piece("f", "b", macs=0)]
    took = schedule(parts, {"a": 1, "b": 1, "f": 0}, 0, seconds, {1: LINK}, 3000)
    assert took == pytest.approx(0.013 + 1 + 0.011 + 0.011 + 1 + 0.012)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 10**6)), min_size=1, max_size=6)
)
def test_no_schedule_beats_its_critical_path_or_the_busiest_device(drawn: list[tuple[int, int, int]]) -> None:
    parts = [piece(f"p{i}", macs=macs, sends=sends) for i, (_, macs, sends) in enumerate(drawn)]
    parts.append(piece("f", *(part.name for part in parts), macs=1))
    places = {f"p{i}": at for i, (at, _, _) in enumerate(drawn)} | {"f": 0}
    links = dict.fromkeys((1, 2, 3), LINK)
    took = schedule(parts, places, 0, seconds, links, 5000)
    alone = [
        p.macs + (LINK.seconds(5000) + LINK.seconds(p.output_bytes) if places[p.name] else 0)
        for p in parts[:-1]
    ]
    busy = [sum(p.macs for p in parts[:-1] if places[p.name] == d) for d in range(4)]
    assert took >= max(*alone, *busy) + 1 - 1e-9
    assert took <= sum(alone) + 1 + 1e-9
    assert schedule(parts, places, 0, seconds, links, None) <= took + 1e-9


# --- plans ----------------------------------------------------------------------------------------


def test_a_whole_model_takes_what_the_line_says_of_its_macs(estimated: Any) -> None:
    write_profile(profile())
    estimate = estimated()["cloud", "here"]
    assert estimate["provenance"] == "modelled"
    assert estimate["latency_s"] == estimate["resident_s"] == pytest.approx(0.001 + 2 * CLOUD / 1e9, rel=1e-6)
    assert estimate["low_s"] == pytest.approx(estimate["high_s"], rel=1e-4)
    assert estimate["notes"] == []
    (share,) = estimate["devices"]
    assert share["compute_s"] == estimate["latency_s"]
    assert share["memory_bytes"] == pytest.approx(50 * 2**20 + 2 * share["weight_bytes"], rel=1e-4)
    assert share["profile"]["name"] == "cpu"
    batched = estimated("--set", "measure.batch=8")["cloud", "here"]
    assert batched["latency_s"] == pytest.approx(0.001 + 16 * CLOUD / 1e9, rel=1e-6)


def test_the_band_is_the_error_of_the_line(estimated: Any) -> None:
    rough = profile(off=0.1)
    write_profile(rough)
    assert rough.line.error > 0.1
    estimate = estimated()["cut", "here"]
    assert estimate["high_s"] == pytest.approx(estimate["latency_s"] * (1 + rough.line.error))
    assert estimate["low_s"] == pytest.approx(estimate["latency_s"] * (1 - rough.line.error))


def test_a_split_model_on_a_fleet_has_its_transfers_and_devices(estimated: Any) -> None:
    write_profile(profile())
    estimates = estimated("--link", "8,20")
    estimate = estimates["cut", "pair"]
    front, back = estimate["devices"][1], estimate["devices"][0]
    assert (front["parts"], back["parts"]) == (["front"], ["back"])
    computes = front["compute_s"] + back["compute_s"]
    assert computes == pytest.approx(0.002 + 2 * CLOUD / 1e9, rel=1e-6)
    image, tokens = 4 * 16 * 16, 4 * 17 * 24
    assert estimate["latency_s"] == pytest.approx(computes + 0.02 + (image + tokens) / 1e6)
    # the request still crosses the link, without the image
    assert estimate["resident_s"] == pytest.approx(computes + 0.02 + tokens / 1e6)
    assert estimates["cloud", "pair"]["latency_s"] is None
    assert "only a split model" in estimates["cloud", "pair"]["reason"]


def test_sub_models_run_beside_each_other_and_fusion_after_them(estimated: Any) -> None:
    write_profile(profile(sizes=(1e-7, 1e-5, 1e-3, 0.1)))
    estimate = estimated("--link", "1e6,0")["four", "pair"]
    central, other = estimate["devices"]
    assert (central["parts"], other["parts"]) == (["sub2", "fusion"], ["sub1", "sub3"])
    assert estimate["latency_s"] == pytest.approx(
        other["compute_s"] + 0.001, rel=5e-3
    )  # fusion: what any part costs


def test_without_a_link_transfers_are_left_out_and_said_to_be(estimated: Any) -> None:
    write_profile(profile())
    estimate = estimated()["cut", "pair"]
    assert (
        estimate["latency_s"]
        == estimate["resident_s"]
        == pytest.approx(sum(d["compute_s"] for d in estimate["devices"]))
    )
    assert not estimate["links"]
    assert estimate["notes"] == ["without transfers: no link of here is known (--link MBPS,MS)"]


def test_a_device_without_a_profile_has_no_figure_but_the_command_that_makes_it(estimated: Any) -> None:
    write_profile(profile())
    suite = SUITE.replace(
        "run:\n", "run:\n  - {methods: [cut], devices: [mixed], runtimes: [torch, onnxruntime]}\n"
    )
    estimate = estimated(suite=suite)["cut", "mixed"]
    assert estimate["latency_s"] is None
    assert (
        estimate["reason"]
        == "no profile of two: harness devices profile cpu --threads 2 --runtime onnxruntime"
    )
    assert [share["compute_s"] is None for share in estimate["devices"]] == [False, True]
    assert all(share["weight_bytes"] > 0 for share in estimate["devices"])


def test_a_profile_that_is_given_stands_for_all_and_its_threads_are_reported(
    estimated: Any, tmp_path: Path
) -> None:
    path = write_profile(profile(slope=4.0, name="board", threads=None), tmp_path / "board.json")
    estimate = estimated("--profile", str(path))["cloud", "here"]
    assert estimate["latency_s"] == pytest.approx(0.001 + 4 * CLOUD / 1e9, rel=1e-6)
    assert estimate["notes"] == ["board (measured) is of unknown threads"]
    path = write_profile(profile(name="board", precision=None), tmp_path / "board.json")
    estimate = estimated("--profile", str(path))["cloud", "here"]
    assert estimate["latency_s"] is not None
    assert estimate["notes"] == ["board (measured) does not say its precision; float32 is assumed"]


# --- what a profile has no figure for ---------------------------------------------------------------


def no_figure(estimate: dict[str, Any]) -> str:
    for name in ("latency_s", "low_s", "high_s", "resident_s"):
        assert estimate[name] is None
    assert all(share["compute_s"] is None for share in estimate["devices"])
    assert all(share["weight_bytes"] > 0 for share in estimate["devices"])
    return str(estimate["reason"])


@pytest.mark.parametrize(
    ("more", "arguments", "why"),
    [
        ({"runtime": "torch"}, (), "was measured with torch: no figure for onnxruntime"),
        ({"runtime": None}, (), "does not say its runtime: no figure for onnxruntime"),
        ({"precision": "float16"}, (), "was measured in float16: no figure for float32"),
        (
            {"runtime": "onnxruntime-int8", "precision": None},
            ("--set", "defaults.runtime=onnxruntime-int8"),
            "does not say its precision: no figure for int8",
        ),
        (
            {"runtime": "torch"},
            ("--set", "defaults.runtime={torch: {precision: bfloat16}}"),
            "was measured in float32: no figure for bfloat16",
        ),
    ],
)
def test_a_runtime_or_precision_that_the_profile_lacks_has_no_figure(
    more: dict[str, Any], arguments: tuple[str, ...], why: str, estimated: Any, tmp_path: Path
) -> None:
    path = write_profile(profile(name="board", **more), tmp_path / "board.json")
    reason = no_figure(estimated("--profile", str(path), *arguments)["cloud", "here"])
    assert reason == f"board (measured) {why}"


@pytest.mark.parametrize(
    ("sizes", "range_"), [((0.001, 0.01, 0.1), "0.001 to 0.1"), ((1e-6, 1e-5, 1e-4), "1e-06 to 0.0001")]
)
def test_a_model_outside_the_points_has_no_figure(
    sizes: tuple[float, ...], range_: str, estimated: Any
) -> None:
    write_profile(profile(sizes=sizes))
    reason = no_figure(estimated()["cloud", "here"])
    assert reason == f"whole has 0.000401 GMACs, outside the points of cpu (measured): {range_} GMACs"


def test_the_shipped_profile_has_no_figure_for_tiny_models(estimated: Any) -> None:
    torch = ("--set", "defaults.runtime=torch")
    reason = no_figure(estimated("--profile", "raspberry-pi-4b", *torch)["cloud", "here"])
    assert "outside the points of raspberry-pi-4b (published): 0.603 to 61.6 GMACs" in reason


def test_a_small_part_beside_large_ones_is_bounded_by_the_smallest_point(estimated: Any) -> None:
    """Fusion is below the points: it takes no time at least, and that of the smallest point at most."""
    rough = profile(off=0.2, fixed=1e-5, slope=1000.0, sizes=(1e-5, 1e-4, 0.01, 0.1))
    write_profile(rough)
    estimate = estimated("--link", "1e6,0")["four", "pair"]
    line = rough.line
    subs = estimate["devices"][1]["compute_s"]
    assert estimate["latency_s"] == pytest.approx(subs + line.fixed, rel=0.02)
    assert estimate["low_s"] == pytest.approx((1 - line.error) * subs, rel=1e-3)
    assert estimate["high_s"] == pytest.approx((1 + line.error) * (subs + line.at(line.low)), rel=1e-3)
    # where that bound says too little, there is no figure
    write_profile(profile(off=0.05))
    estimate = estimated("--link", "1e6,0")["four", "pair"]
    assert (estimate["latency_s"], estimate["high_s"]) == (None, None)
    assert "fusion has" in estimate["reason"]


def test_memory_outside_the_points_is_left_out(estimated: Any) -> None:
    write_profile(profile(weigh=1e12))
    (share,) = estimated()["cloud", "here"]["devices"]
    assert share["compute_s"] is not None
    assert share["memory_bytes"] is None


def test_what_only_preparing_tells_has_no_figure(estimated: Any) -> None:
    write_profile(profile())
    suite = SUITE.replace("methods: [cloud, cut],", "methods: [cloud, cut, packed, cnn],")
    estimates = estimated(suite=suite)
    assert "compressed" in estimates["packed", "here"]["reason"]
    assert (
        estimates["cnn", "here"]["latency_s"] > estimates["cloud", "here"]["latency_s"]
    )  # counted as it will be built


def test_a_cut_that_is_chosen_gets_the_profiles(estimated: Any) -> None:
    write_profile(profile(link=Link(rate_mbps=8, rtt_ms=20)))
    suite = SUITE.replace("methods: [cloud, cut, four]", "methods: [auto]")
    estimate = estimated(suite=suite)["auto", "pair"]
    assert [share["parts"] for share in estimate["devices"]] == [
        ["whole"]
    ]  # two alike and a link that costs: stay
    assert estimate["latency_s"] == pytest.approx(0.001 + 2 * CLOUD / 1e9, rel=1e-6)


def test_a_cut_that_is_chosen_asks_for_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE.replace("methods: [cloud, cut, four]", "methods: [auto]"))
    done = CliRunner().invoke(cli, ["plan", str(path)])
    assert done.exit_code != 0
    assert "methods.auto.partition.neurosurgeon: neurosurgeon needs a profile of here" in str(done.exception)


def test_a_table_for_people_says_modelled_and_whose_profile(tmp_path: Path) -> None:
    write_profile(profile(off=0.1))
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    done = CliRunner().invoke(cli, ["plan", str(path), "--estimate"], catch_exceptions=False)
    text = done.output.partition("estimates: ")[2]
    assert text.startswith("modelled, not measured, and never ranked")
    assert "±" in text
    assert "cpu (measured): this machine" in text
    assert re.search(r"\[\d\] without transfers", text)
    assert "leave-one-out" in " ".join(text.split())
    assert "latency w/o input" in text
    assert "MB of weights" in text
    assert "MiB" not in text


@pytest.mark.parametrize("width", [30, 60, 80, 100, 140, 200])
def test_no_figure_of_an_estimate_is_cut(width: int) -> None:
    def share(device: str) -> DeviceShare:
        return DeviceShare(
            device=device,
            parts=("a",),
            compute_s=1.32,
            weight_bytes=1_210_000_000,
            memory_bytes=None,
            memory_limit=None,
            weight_budget=None,
            profile=None,
        )

    bounds = {"latency_s": 0.0905, "low_s": 0.07, "high_s": 0.12, "resident_s": 0.0801}
    first = Estimate(
        method="m", device="d", runtime="onnxruntime-int8", batch=16, notes=("one", "two"), **bounds
    )
    second = replace(
        first, latency_s=None, devices=(share("x"), share("y")), notes=("two", "one"), reason="why"
    )
    console = Console(width=width, file=io.StringIO())
    show_estimates([first, second], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for figure in ("90.5 ms -23% +33%", "80.1 ms", "16"):
        assert re.search(rf"(?<!\S){re.escape(figure)}(?!\S)", text), figure
    assert re.findall(r"^\[\d\].*", text, re.MULTILINE) == ["[1] one", "[2] two", "[3] why"]
    if width >= 100:
        assert re.search(r"\[1\] \[2\] \[3\]", text)
        assert "x: 1.32 s" in text
        assert "1,210 MB of weights" in text
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--profile", "cpu"], "go with --estimate"),
        (["--estimate", "--link", "16"], "write MBPS,MS"),
        (["--estimate", "--link", "0,1"], "write MBPS,MS"),
        (["--estimate", "--link", "x,1"], "write MBPS,MS"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, arguments: list[str], why: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    done = CliRunner().invoke(cli, ["plan", str(path), *arguments])
    assert done.exit_code == 2
    assert why in done.output
