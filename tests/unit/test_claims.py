"""Tests of the claims of a paper: their form, and their verdicts."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from harness.extras import install_command
from harness.results.claims.claims import Tolerance
from harness.results.folder import Results
from harness.train.counting.count import count
from harness.types import TensorSpec
from harness.types.record import Record

SUITE = """\
suite: mine
data: {name: digits, image_size: 16}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}}
  edge: {from: cloud, compress: [{edgevit: {blocks: 2}}]}
  cut: {from: cloud, partition: {pipeline: {after: 1}}}
  split:
    from: cloud
    partition: {edvit: {parts: 2, policy: uniform-divisors}}
    place: {greedy: {energy_gmacs: [1, 0.001, 0.01], memory_mb: [1, 1, 1]}}
  cut-small: {from: cut, compress: [{edgevit: {blocks: 1}, each_part: true}]}
  voted: {from: cloud, partition: {edvit: {parts: 2, fusion: average}}}
devices:
  here: {backend: cpu}
  server: {backend: cpu}
  trio: {fleet: [here, here, server], central: server}
run:
  - {methods: all, devices: [here]}
"""

CLAIMS = """\
paper: A paper
tolerance: 1%
claims:
  size: {table: Table 1, method: cloud, quantity: params_m, value: 0.0228}
  faster: {table: Table 2, better: edge, than: cloud, column: macs_g}
  where: {table: Appendix, method: split, fleet: trio, placed: [2, 0]}
  words: {table: Abstract, says: "it is good", contradicted_by: Table 1}
"""


def whole(blocks: int = 3) -> torch.nn.Module:
    return VisionTransformer(
        img_size=16, patch_size=4, in_chans=1, num_classes=10, embed_dim=24, depth=blocks, num_heads=3
    )


PARAMS = sum(parameter.numel() for parameter in whole().parameters()) / 1e6
CPU = "a board"


@pytest.fixture
def harness(harness):
    """The command in a folder with a suite."""
    Path("mine.yaml").write_text(SUITE)
    return harness


@pytest.fixture
def judged(harness) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """Exit code and verdicts of claims, one line of YAML each."""

    def judge(*claims: str, folder: str | None = None) -> tuple[int, list[dict[str, Any]]]:
        lines = [f"  c{i}: {{table: Table 1, {claim}}}\n" for i, claim in enumerate(claims)]
        Path("mine.claims.yaml").write_text("paper: A paper\ntolerance: 1%\nclaims:\n" + "".join(lines))
        code, out, err = harness("claims", "mine.yaml", *([folder] if folder else []), "--json")
        assert code != 2, err
        return code, json.loads(out)["claims"]

    return judge


# --- the file -------------------------------------------------------------------------------------


def test_the_claims_that_the_mistakes_are_made_in_are_good(harness):
    Path("mine.claims.yaml").write_text(CLAIMS)
    code, out, _ = harness("claims", "mine.yaml")
    assert code == 0
    assert "4 claims: 1 paper-contradicts-itself, 3 reproduced" in out


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("paper: A paper\n", "", 1, ["paper", "missing"]),
        ("paper:", "papr:", 1, ["papr", "did you mean 'paper'?"]),
        ("tolerance: 1%", "tolerance: much", 2, ["'much' is no tolerance", "write 1%"]),
        ("tolerance: 1%", "tolerance: -1", 2, ["-1 is no tolerance"]),
        ("tolerance: 1%\n", "", 3, ["claims.size", "tolerance: missing"]),
        ("method: cloud,", "method: clod,", 4, ["no method 'clod'", "did you mean 'cloud'?"]),
        ("method: cloud,", "", 4, ["claims.size.method", "missing"]),
        ("params_m", "paramz_m", 4, ["no quantity 'paramz_m'", "did you mean 'params_m'?"]),
        ("value: 0.0228", "value: few", 4, ["claims.size.value", "few"]),
        ("value: 0.0228", "value: .nan", 4, ["claims.size.value"]),
        ("value: 0.0228", "tolerance: 2%", 4, ["claims.size.value", "missing"]),
        ("value: 0.0228", "value: 0.0228, part: sub1", 4, ["no part 'sub1'", "allowed: all"]),
        ("value: 0.0228", "value: 0.0228, on: Jetson", 4, ["params_m is the same on all hardware"]),
        ("table: Table 1, ", "", 4, ["claims.size.table", "missing"]),
        ("size: {", "size: {tabel: 1, ", 4, ["tabel", "did you mean 'table'?"]),
        ("  size:", "  a size:", 4, ["a size"]),
        ("  size: {", "  size: [1]\n  other: {", 4, ["claims.size", "mapping"]),
        ("than: cloud", "than: clout", 5, ["no method 'clout'", "did you mean 'cloud'?"]),
        ("than: cloud", "than: edge", 5, ["'edge' cannot be better than itself"]),
        ("column: macs_g", "column: macz", 5, ["no column 'macz'", "did you mean 'macs_g'?"]),
        ("column: macs_g", "column: method", 5, ["no column 'method'"]),
        ("column: macs_g", "column: macs_g, on: Jetson", 5, ["on: macs_g is the same on all hardware"]),
        ("column: macs_g", "by: -1", 5, ["claims.faster.by"]),
        ("better: edge, ", "", 5, ["claims.faster.better", "missing"]),
        ("fleet: trio", "fleet: here", 6, ["no fleet 'here'", "allowed: trio"]),
        ("method: split", "method: cloud", 6, ["cloud is not a split model"]),
        ("placed: [2, 0]", "placed: [-2]", 6, ["claims.where.placed"]),
        (", contradicted_by: Table 1", "", 7, ["needs one of needs: or contradicted_by:"]),
        ('says: "it is good", ', "", 7, ["claims.words.says", "missing"]),
    ],
)
def test_a_mistake_is_one_line_with_its_place(harness, old, new, line, words):
    assert old in CLAIMS
    Path("mine.claims.yaml").write_text(CLAIMS.replace(old, new, 1))
    code, _, err = harness("claims", "mine.yaml")
    assert code == 2
    assert err.count("\n") == 1, err
    assert "mine.claims.yaml" in err
    assert f":{line}:" in err or "missing" in err, err
    for word in words:
        assert word in err
    for leak in ("Input should", "validation error", "pydantic", "Traceback"):
        assert leak not in err


def test_a_suite_without_claims_and_a_folder_without_records_are_refused(harness):
    code, _, err = harness("claims", "mine.yaml")
    assert (code, "there is no mine.claims.yaml beside it" in err) == (2, True)
    Path("mine.claims.yaml").write_text(CLAIMS)
    code, _, err = harness("claims", "mine.yaml", "nowhere")
    assert (code, "nowhere: does not exist" in err) == (2, True)
    code, _, err = harness("claims", "papers/edvitt")
    assert (code, "did you mean 'papers/edvit'?" in err) == (2, True)


def test_reading_and_judging_need_no_torch_to_be_imported():
    code = "import harness.cli.claims, harness.results.claims.claims, harness.results.claims.verdicts, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.floats(0.001, 1e6), st.floats(0, 0.5), st.booleans())
def test_a_tolerance_covers_its_own_bounds_and_nothing_beyond(value, amount, relative):
    limit = amount * value if relative else amount
    tolerance = Tolerance(amount, relative)
    for sign in (-1, 1):
        assert tolerance.covers(value + 0.999 * sign * limit, value)
        assert not tolerance.covers(value + sign * (1.001 * limit + 1e-6 * value), value)


# --- what follows from modules ----------------------------------------------------------------------


def test_a_count_within_the_tolerance_is_reproduced_and_one_beyond_is_not(judged):
    code, verdicts = judged(
        f"method: cloud, quantity: params_m, value: {1.009 * PARAMS}",
        f"method: cloud, quantity: params_m, value: {1.011 * PARAMS}",
        f"method: cloud, quantity: params_m, value: {0.989 * PARAMS}",
        f"method: cloud, quantity: params_m, value: {1.5 * PARAMS}, tolerance: {0.51 * PARAMS}",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced", "not-reproduced", "reproduced"]
    assert code == 1
    assert {v["ours"] for v in verdicts} == {PARAMS}
    assert verdicts[1]["published"] == pytest.approx(1.011 * PARAMS)
    assert (verdicts[0]["unit"], verdicts[0]["tolerance"]) == ("M", "1%")


def saved(module: torch.nn.Module) -> float:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getvalue()) / 2**20


def test_the_file_is_as_long_as_torch_really_writes_it(judged):
    code, verdicts = judged(
        f"method: cloud, quantity: file_mib, value: {saved(whole())}, tolerance: 0",
        f"method: edge, quantity: file_mib, value: {saved(whole(2))}, tolerance: 0",
    )
    assert code == 0, verdicts


def test_parts_are_counted_alone_and_together(judged):
    tokens = 4 * 17 * 24  # float32, 4 x 4 patches and a class token
    code, verdicts = judged(
        f"method: cut, quantity: params_m, value: {PARAMS}, tolerance: 0.000001",
        f"method: cut, quantity: payload_bytes, part: front, value: {tokens}, tolerance: 0",
        f"method: cut, quantity: payload_bytes, part: all-but-fusion, value: {tokens}, tolerance: 0",
        "method: split, quantity: payload_bytes, part: sub2, value: 32, tolerance: 0",
        "method: split, quantity: params_m, part: fusion, value: 0.000226, tolerance: 0",  # 16 -> 8 -> 10
    )
    assert [v["status"] for v in verdicts] == ["reproduced"] * 5, verdicts
    assert code == 0


def test_what_is_not_known_before_training_is_not_checkable(judged):
    code, verdicts = judged(
        "method: voted, quantity: params_m, value: 1",
        "method: voted, quantity: file_mib, part: sub1, value: 1",
        "method: cut-small, quantity: params_m, value: 1",
    )
    assert [v["status"] for v in verdicts] == ["not-checkable-here", "not-reproduced", "not-checkable-here"]
    assert "does not say what fusion is" in verdicts[0]["why"]
    assert "compressed after the split" in verdicts[2]["why"]
    assert code == 1


def test_without_torch_what_to_install_is_said(judged, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: find(name, *rest) if name != "torch" else None
    )
    code, verdicts = judged(
        "method: cloud, quantity: params_m, value: 1", "better: edge, than: cloud, column: macs_g"
    )
    assert {v["status"] for v in verdicts} == {"not-checkable-here"}
    assert {v["why"] for v in verdicts} == {f"torch is not installed: {install_command('bench')}"}
    assert code == 0


def test_flops_are_twice_the_macs_and_the_linear_count_leaves_products_out(judged):
    tokens, dim, blocks, classes = 4 * 4 + 1, 24, 3, 10
    patches = 4 * 4 * dim * (4 * 4)  # 4 x 4 patches of 4 x 4 pixels, one channel
    block = tokens * dim * (3 * dim + dim + 2 * 4 * dim) + 2 * tokens * tokens * dim  # linear, products
    flops = 2 * (patches + blocks * block + dim * classes) / 1e9
    _, verdicts = judged(
        f"method: cloud, quantity: flops_g, value: {flops}, tolerance: 0.1%",
        f"method: cloud, quantity: macs_g, value: {flops / 2}, tolerance: 0.1%",
        f"method: cloud, quantity: macs_linear_g, value: {flops / 2}, tolerance: 0.1%",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "reproduced", "not-reproduced"]


def test_orderings_of_counts_need_no_records(judged):
    code, verdicts = judged(
        "better: edge, than: cloud, column: params_m",
        "better: cloud, than: edge, column: params_m",
        "better: edge, than: cloud, column: params_m, by: 1",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced", "not-reproduced"]
    assert verdicts[0]["ours"] == -verdicts[1]["ours"] > 0
    assert code == 1


def test_a_placement_is_judged_up_to_the_order_of_devices(judged):
    """Sub-models of 8 channels do some 0.2 M linear MACs: the second device has energy for few, the first for all."""
    code, verdicts = judged(
        "method: split, fleet: trio, placed: [0, 2]", "method: split, fleet: trio, placed: [1, 1]"
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced"]
    assert verdicts[1]["ours"] == [2, 0]
    assert code == 1


def test_a_placement_is_of_the_parts_that_its_own_fleet_has_room_for(judged, monkeypatch):
    """Two sub-models of 3 heads (90 kB each) fit on three devices of 150 kB, but not on the suite's first fleet."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=150_000))
    macs = count(whole(), [TensorSpec(shape=(1, 16, 16))]).macs_linear / 1e9
    text = SUITE.replace("policy: uniform-divisors", "policy: uniform-divisors, memory_budget_mb: 1")
    Path("mine.yaml").write_text(
        text.replace("[1, 0.001, 0.01]", f"[{1.5 * macs}, {1.1 * macs}, {0.2 * macs}]")
    )
    _, (verdict,) = judged("method: split, fleet: trio, placed: [1, 1]")
    assert (verdict["status"], verdict["ours"]) == ("reproduced", [1, 1])


def test_a_contradiction_is_computed_still_and_costs_no_exit_code(judged):
    code, verdicts = judged(
        "method: cloud, quantity: params_m, value: 7, contradicted_by: Table 2",
        'says: "as printed", needs: another paper',
    )
    assert (verdicts[0]["status"], verdicts[0]["ours"]) == ("paper-contradicts-itself", PARAMS)
    assert "Table 2" in verdicts[0]["why"]
    assert (verdicts[1]["status"], verdicts[1]["why"]) == ("not-checkable-here", "needs another paper")
    assert code == 0


# --- what needs records -----------------------------------------------------------------------------

N = 200


@pytest.fixture
def records(harness) -> Callable[..., None]:
    """Return a function that writes records of the suite: (method, accuracies of the seeds in percent, changes)."""
    Path("mine.claims.yaml").write_text(CLAIMS)
    code, out, err = harness("plan", "mine.yaml", "--json")
    assert code == 0, err
    cells = {cell["method"]: cell for cell in json.loads(out)["cells"]}

    def write(*rows: tuple[str, Iterable[float], dict[str, Any]]) -> None:
        results = Results("out", create=True)
        for method, accuracies, changes in rows:
            for seed, top1 in enumerate(accuracies):
                labels = np.zeros(N, dtype=np.int64)
                wrong = np.arange(N) >= top1 * N / 100
                values: dict[str, Any] = {
                    "run_id": "r",
                    "machine_id": "m",
                    "suite": "mine",
                    "method": method,
                    "seed": seed,
                    "method_key": cells[method]["method_key"],
                    "cell_id": f"{method}{seed}{changes}",
                    "attempt": 1,
                    "status": "ok",
                    "device": {"name": "here", "model": CPU, "kind": "cpu", "nodes": 1},
                    "runtime": {"name": "onnxruntime", "params": {}},
                    "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
                    "data": {"name": "digits", "classes": 10},
                    "accuracy": {"top1": top1, "n": N},
                    "latency": {"n": 662, "p50_ms": 4.0, "mean_ms": 4.0, "std_ms": 1.0},
                    "samples": results.store_samples(
                        {"predictions": wrong.astype(np.int64), "labels": labels}
                    ),
                }
                results.append(Record(**{**values, **changes}))

    return write


def test_without_records_the_reason_says_what_is_lacking(judged):
    _, verdicts = judged(
        "method: cloud, quantity: top1, value: 90",
        "better: edge, than: cloud",
        "method: cloud, quantity: latency_p50_ms, value: 3, on: Jetson Nano",
    )
    assert {v["status"] for v in verdicts} == {"not-checkable-here"}
    assert ["no records given" in v["why"] for v in verdicts] == [True] * 3
    assert "Jetson Nano" in verdicts[2]["why"]


def test_a_measured_number_is_compared_where_method_data_and_hardware_are_the_claims(judged, records):
    records(
        ("cloud", [90, 92], {}),
        ("edge", [80], {"method_key": "another"}),
        ("cut", [90], {"data": {"name": "mnist"}}),
    )
    code, verdicts = judged(
        "method: cloud, quantity: top1, value: 91.5, tolerance: 1",
        "method: cloud, quantity: top1, value: 93, tolerance: 1",
        "method: cloud, quantity: latency_p50_ms, value: 4, on: BOARD",
        "method: cloud, quantity: latency_p50_ms, value: 4, on: Jetson",
        "method: edge, quantity: top1, value: 80",
        "method: cut, quantity: top1, value: 90",
        "method: split, quantity: top1, value: 90",
        "method: cloud, quantity: latency_p99_ms, value: 4",
        folder="out",
    )
    statuses = [v["status"] for v in verdicts]
    assert statuses[:3] == ["reproduced", "not-reproduced", "reproduced"]
    assert set(statuses[3:]) == {"not-checkable-here"}
    assert verdicts[1]["ours"] == 91
    reasons = [
        "needs Jetson; its records are of a board",
        "the authors' training was not run",
        "its records are of mnist, the claim of digits",
        "no good record of split",
        "have no latency_p99_ms",
    ]
    for verdict, reason in zip(verdicts[3:], reasons, strict=True):
        assert reason in verdict["why"]
    assert code == 1


def test_an_ordering_holds_only_where_a_paired_test_tells_the_two_apart(judged, records):
    records(("edge", [90, 91], {}), ("cloud", [70, 72], {}), ("cut", [90.5, 90], {}))
    code, verdicts = judged(
        "better: edge, than: cloud",
        "better: cloud, than: edge",
        "better: edge, than: cloud, by: 25",
        "better: edge, than: cut",
        "better: cut, than: edge",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == [
        "reproduced",
        "not-reproduced",
        "not-reproduced",
        "not-checkable-here",
        "not-checkable-here",
    ]
    assert [v["ours"] for v in verdicts] == [19.5, -19.5, 19.5, 0.25, -0.25]
    assert verdicts[2]["published"] == 25
    assert "cannot be told apart" in verdicts[3]["why"]
    assert code == 1


def test_an_ordering_of_latencies_has_less_as_better_and_one_board(judged, records):
    slow = {"latency": {"n": 662, "p50_ms": 9.0, "mean_ms": 9.0, "std_ms": 1.0}}
    records(
        ("edge", [90], {}), ("cloud", [90], slow), ("cut", [90], {"device": {"name": "b", "model": "other"}})
    )
    _, verdicts = judged(
        "better: edge, than: cloud, column: latency_p50_ms",
        "better: cloud, than: edge, column: latency_p50_ms",
        "better: edge, than: cut, column: latency_p50_ms",
        "better: edge, than: voted, column: latency_p50_ms",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced"] + ["not-checkable-here"] * 2
    assert verdicts[0]["ours"] == 5.0
    assert "no board has latency_p50_ms of edge and of cut" in verdicts[2]["why"]
    assert "no good record of voted" in verdicts[3]["why"]


def test_a_least_difference_is_not_missed_by_a_rounding_of_floats(judged, records):
    slow, fast = ({"latency": {"n": 662, "p50_ms": t, "mean_ms": t, "std_ms": 1.0}} for t in (1.2, 1.1))
    records(("edge", [90], fast), ("cloud", [90], slow))
    assert 1.2 - 1.1 < 0.1
    _, verdicts = judged(
        "better: edge, than: cloud, column: latency_p50_ms, by: 0.1",
        "better: edge, than: cloud, column: latency_p50_ms, by: 0.1001",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced"]


def test_published_figures_and_other_suites_are_no_evidence(judged, records):
    records(("cloud", [90], {"provenance": "published"}), ("edge", [90], {"suite": "another"}))
    _, verdicts = judged(
        "method: cloud, quantity: top1, value: 90", "method: edge, quantity: top1, value: 90", folder="out"
    )
    assert ["no good record" in v["why"] for v in verdicts] == [True, True]


# --- what is printed ----------------------------------------------------------------------------------


def test_the_text_has_a_table_per_status_with_what_failed_first(harness):
    wrong = "\n  wrong: {table: Table 9, method: cloud, quantity: params_m, value: 7}"
    Path("mine.claims.yaml").write_text(
        CLAIMS.rstrip() + wrong + '\n  no: {table: Z, says: "x", needs: "y"}\n'
    )
    code, out, _ = harness("claims", "mine.yaml")
    assert code == 1
    order = ["not-reproduced\n", "paper-contradicts-itself\n", "reproduced\n", "not-checkable-here\n"]
    places = [out.index("\n" + heading) for heading in order]
    assert places == sorted(places)
    (line,) = [line for line in out.splitlines() if line.startswith("Table 9")]
    assert line.split()[-5:] == ["params_m", "7", f"{PARAMS:.5g}", "1%", "M"]


def test_the_json_has_the_same_and_sums_up(harness):
    Path("mine.claims.yaml").write_text(CLAIMS)
    code, out, _ = harness("claims", "mine.yaml", "--json")
    judgement = json.loads(out)
    assert code == 0
    assert (judgement["suite"], judgement["paper"]) == ("mine", "A paper")
    assert [claim["claim"] for claim in judgement["claims"]] == ["size", "faster", "where", "words"]
    assert judgement["summary"] == {
        "reproduced": 3,
        "not-reproduced": 0,
        "not-checkable-here": 0,
        "paper-contradicts-itself": 1,
    }
