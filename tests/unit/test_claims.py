"""Tests of the claims of a paper: their form, and their verdicts."""

from __future__ import annotations

import importlib.util
import io
import json
import re
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
from harness.results.claims.printed import Printed, Tolerance
from harness.results.claims.verdicts import STATUSES
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
tolerances: {top1: {tolerance: 1%, because: another training}}
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

    def judge(*claims: str, folder: str | None = None, head: str = "") -> tuple[int, list[dict[str, Any]]]:
        lines = [f"  c{i}: {{table: Table 1, {claim}}}\n" for i, claim in enumerate(claims)]
        Path("mine.claims.yaml").write_text(f"paper: A paper\n{head}claims:\n" + "".join(lines))
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
        ("tolerance: 1%", "tolerance: 100%", 2, ["100%: every figure down to 0 would agree"]),
        ("tolerance: 1%", f"tolerance: {'9' * 400}%", 2, ["every figure down to 0 would agree"]),
        (
            "tolerances:",
            "fitted: {clod: depth}\ntolerances:",
            2,
            ["no method 'clod'", "did you mean 'cloud'?"],
        ),
        (", because: another training", "", 2, ["tolerances.top1.because", "missing"]),
        ("{top1:", "{params_m:", 2, ["params_m is a count: give each claim its own tolerance"]),
        ("{top1:", "{topp1:", 2, ["no column 'topp1'", "did you mean 'top1'?"]),
        ("method: cloud,", "method: clod,", 4, ["no method 'clod'", "did you mean 'cloud'?"]),
        ("method: cloud,", "", 4, ["claims.size.method", "missing"]),
        ("params_m", "paramz_m", 4, ["no quantity 'paramz_m'", "did you mean 'params_m'?"]),
        ("value: 0.0228", "value: few", 4, ["claims.size.value", "few"]),
        ("value: 0.0228", "value: .nan", 4, ["claims.size.value"]),
        ("value: 0.0228", "value: 1e999", 4, ["claims.size.value"]),
        ("value: 0.0228", "value: 1_0", 4, ["claims.size.value", "'1_0' is no printed number"]),
        ("value: 0.0228", "value: true", 4, ["claims.size.value", "True is no printed number"]),
        ("value: 0.0228", f"value: {'9' * 31}", 4, ["64 bits"]),
        ("value: 0.0228", "value: 1, tolerance: 1%", 4, ["needs because:, the reason"]),
        ("value: 0.0228", "value: 1, because: x", 4, ["there is none"]),
        ("value: 0.0228", "value: 1, unit: kg", 4, ["'kg' is no unit of params_m", "allowed: M"]),
        ("value: 0.0228", "value: 1, fitted: true", 4, ["claims.size.fitted", "text"]),
        ("value: 0.0228", "value: 1, same_as: fastr", 4, ["'fastr' is no other claim", "'faster'"]),
        ("value: 0.0228", "value: 1, same_as: size", 4, ["'size' is no other claim"]),
        ("value: 0.0228", f"value: 1, same_as: {'z' * 81}", 4, ["at most 80 characters"]),
        ("value: 0.0228", "value: 1, same_as: faster", 4, ["'faster' is another kind of claim"]),
        (
            "size: {",
            "other: {table: T, method: cloud, quantity: params_m, value: 0.03, same_as: size}\n  size: {",
            4,
            ["'size' has the figure 0.0228, not 0.03"],
        ),
        ("value: 0.0228", "value: 1, of: cloud, to: edge", 4, ["claims.size.method", "unknown key"]),
        ("value: 0.0228", "fitted: x", 4, ["claims.size.value", "missing"]),
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
        ("column: macs_g", "compute: same", 5, ["claims.faster.compute", "equal"]),
        ("column: macs_g", "column: macs_g, compute: equal", 5, ["macs_g does not depend on the training"]),
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


def test_the_printed_digit_decides_and_a_tolerance_is_a_status_of_its_own(judged):
    """The module has 0.02281 M parameters."""
    assert round(PARAMS, 6) == 0.02281
    code, verdicts = judged(
        "method: cloud, quantity: params_m, value: 0.0228",
        "method: cloud, quantity: params_m, value: 0.0229",
        "method: cloud, quantity: params_m, value: 0.0229, tolerance: 1%, because: they say so",
        "method: cloud, quantity: params_m, value: 0.0228, tolerance: 1%, because: they say so",
        "method: cloud, quantity: params_m, value: 0.02",
        "method: cloud, quantity: params_m, value: 0.020",
        'method: cloud, quantity: params_m, value: "0.020"',
        f"method: cloud, quantity: params_m, value: 0.03, tolerance: {0.0071}, because: absolute",
    )
    statuses = [v["status"] for v in verdicts]
    assert statuses[:4] == ["reproduced", "not-reproduced", "within-tolerance", "reproduced"]
    assert statuses[4:] == ["reproduced", "not-reproduced", "not-reproduced", "not-reproduced"]
    assert code == 1
    assert {v["ours"] for v in verdicts} == {PARAMS}
    assert verdicts[2]["published"] == 0.0229
    assert (verdicts[2]["unit"], verdicts[2]["tolerance"], verdicts[2]["why"]) == ("M", "1%", "they say so")
    assert verdicts[5]["printed"] == "0.020"


@given(st.integers(0, 10**6), st.integers(0, 6), st.floats(-3, 3))
def test_a_printed_number_covers_what_rounds_to_it(digits, decimals, units):
    text = f"{digits / 10**decimals:.{decimals}f}"
    printed = Printed(text)
    if abs(abs(units) - 0.5) > 1e-3:
        ours = float(text) + units * 10**-decimals
        assert printed.covers(ours) == (abs(units) < 0.5)


@pytest.mark.parametrize(
    ("text", "ours", "covered"),
    [
        ("1.3", 1.2429, False),
        ("1.3", 1.26, True),
        ("1.20", 1.204, True),
        ("1.20", 1.21, False),
        ("0.83", 0.825, True),
        ("0.82", 0.825, True),
        ("9.63e3", 9628.0, True),
        ("9630", 9628.0, False),
        ("-1.5", -1.54, True),
        ("-1.5", 1.5, False),
    ],
)
def test_the_digits_of_a_printed_number_say_how_exact_it_is(text, ours, covered):
    assert Printed(text).covers(ours) is covered


def test_a_configuration_that_was_chosen_to_meet_a_value_is_counted_apart(judged):
    head = "fitted: {edge: blocks were chosen}\n"
    edge = sum(parameter.numel() for parameter in whole(2).parameters()) / 1e6
    code, verdicts = judged(
        f"method: edge, quantity: params_m, value: {edge:.4f}",
        "method: cloud, quantity: params_m, value: 0.0228, fitted: depth was chosen",
        "method: cloud, quantity: params_m, value: 0.0229, fitted: depth, tolerance: 1%, because: so",
        "method: edge, quantity: params_m, value: 1",
        "method: cloud, quantity: params_m, value: 0.0228",
        "of: edge, to: cloud, quantity: params_m, value: 0.7",
        head=head,
    )
    fitted = "reproduced-fitted"
    assert [v["status"] for v in verdicts] == [fitted, fitted, fitted, "not-reproduced", "reproduced", fitted]
    assert "blocks were chosen" in verdicts[0]["why"]
    assert "depth was chosen" in verdicts[1]["why"]
    assert verdicts[2]["why"] == "so; chosen to meet it: depth"
    assert code == 1


def test_a_figure_that_is_printed_twice_is_counted_once(harness):
    Path("mine.claims.yaml").write_text(
        CLAIMS
        + "  again: {table: T 5, method: cloud, quantity: params_m, value: 0.02, same_as: size}\n"
        + "  other: {table: T 6, method: cloud, quantity: flops_g, value: 0.023, same_as: size}\n"
    )
    code, out, _ = harness("claims", "mine.yaml", "--json")
    judgement = json.loads(out)
    assert [claim["status"] for claim in judgement["claims"][-2:]] == ["reproduced", "not-reproduced"]
    assert judgement["summary"]["reproduced"] == 3
    assert judgement["summary"]["not-reproduced"] == 0
    assert code == 0, "a claim that is not counted decides nothing"
    _, out, _ = harness("claims", "mine.yaml")
    assert "4 claims: 1 paper-contradicts-itself, 3 reproduced" in out
    assert "2 further claims are about a figure that another claim has" in out
    assert out.count("same figure as in Table 1") == 2
    Path("mine.claims.yaml").write_text(
        CLAIMS
        + "  again: {table: T 5, method: cloud, quantity: params_m, value: 0.02, same_as: size}\n"
        + "  third: {table: T 5, method: cloud, quantity: params_m, value: 0.02, same_as: again}\n"
    )
    code, _, err = harness("claims", "mine.yaml")
    assert (code, "'again' is itself the same as another one" in err) == (2, True)


def test_ratios_of_counts(judged):
    edge = sum(parameter.numel() for parameter in whole(2).parameters()) / 1e6
    code, verdicts = judged(
        f"of: cloud, to: edge, quantity: params_m, value: {PARAMS / edge:.3f}",
        f"of: edge, to: cloud, quantity: params_m, form: share, value: {100 * edge / PARAMS:.2f}",
        f"of: edge, to: cloud, quantity: params_m, form: saving, value: {100 - 100 * edge / PARAMS:.2f}",
        f"of: edge, to: cloud, quantity: params_m, form: difference, value: {edge - PARAMS:.5f}",
        f"of: [cloud, edge], to: [edge, edge], quantity: params_m, value: {(PARAMS / edge + 1) / 2:.3f}",
        "of: cloud, to: cut, to_part: front, quantity: payload_bytes, value: 0.02451",  # 40 B of 1,632 B
        "of: cloud, to: edge, quantity: params_m, value: 3.00",
    )
    assert [v["status"] for v in verdicts] == ["reproduced"] * 6 + ["not-reproduced"], verdicts
    assert [v["unit"] for v in verdicts[:4]] == ["", "%", "%", "M"]
    assert code == 1


def test_a_ratio_is_checked_against_the_papers_own_figures(judged):
    """88.8 and 30.0 give 2.957 to 2.967: a printed 3.0 rounds from them, a printed 2.9 does not."""
    figures = (
        "method: cloud, quantity: latency_mean_ms, value: 88.8, on: Nano",
        "method: edge, quantity: latency_mean_ms, value: 30.0, on: Nano",
    )
    code, verdicts = judged(
        *figures,
        "of: cloud, to: edge, quantity: latency_mean_ms, on: Nano, value: 3.0",
        "of: cloud, to: edge, quantity: latency_mean_ms, on: Nano, value: 2.9",
        "of: edge, to: cloud, quantity: latency_mean_ms, on: Nano, form: saving, value: 66.2",
        "of: edge, to: cloud, quantity: latency_mean_ms, on: Nano, form: saving, value: 66.6",
        "of: edge, to: cloud, quantity: latency_mean_ms, on: Pi, value: 7",
    )
    open_, against = "not-checkable-here", "paper-contradicts-itself"
    assert [v["status"] for v in verdicts[2:]] == [open_, against, open_, against, open_]
    assert verdicts[2]["why"].startswith("its own figures agree; no records given")
    assert verdicts[3]["why"] == "against its own figures, which give 2.96"
    assert verdicts[6]["why"].startswith("no records given of device Pi")
    assert code == 0


def test_a_ratio_that_only_the_printed_figures_give_says_so(judged):
    """The paper's 1.4 is a quotient of rounded figures: 0.023 / 0.016. The modules have 0.02281 / 0.01561."""
    code, verdicts = judged(
        "method: cloud, quantity: params_m, value: 0.023",
        "method: edge, quantity: params_m, value: 0.016",
        "of: cloud, to: edge, quantity: params_m, value: 1.4",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "reproduced", "not-reproduced"]
    assert verdicts[2]["ours"] > 1.45
    assert verdicts[2]["why"] == "the paper's printed figures give 1.438"
    assert code == 1


def test_a_value_may_be_printed_in_a_larger_unit(judged, records):
    slow = {"latency": {"n": 662, "p50_ms": 9628.0, "mean_ms": 9628.0, "std_ms": 1.0}}
    records(("cloud", [90], slow))
    code, verdicts = judged(
        "method: cloud, quantity: latency_mean_ms, value: 9.63, unit: s",
        "method: cloud, quantity: latency_mean_ms, value: 9.64, unit: s",
        "method: cloud, quantity: latency_mean_ms, value: 9628, unit: ms",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced", "reproduced"]
    assert (verdicts[0]["ours"], verdicts[0]["unit"]) == (9.628, "s")
    assert code == 1


def saved(module: torch.nn.Module) -> float:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getvalue()) / 2**20


def test_the_file_is_as_long_as_torch_really_writes_it(judged):
    code, verdicts = judged(
        f"method: cloud, quantity: file_mib, value: {saved(whole()):.6f}",
        f"method: edge, quantity: file_mib, value: {saved(whole(2)):.6f}",
    )
    assert code == 0, verdicts


def test_parts_are_counted_alone_and_together(judged):
    tokens = 4 * 17 * 24  # float32, 4 x 4 patches and a class token
    code, verdicts = judged(
        f"method: cut, quantity: params_m, value: {PARAMS:.6f}",
        f"method: cut, quantity: payload_bytes, part: front, value: {tokens}",
        f"method: cut, quantity: payload_bytes, part: all-but-fusion, value: {tokens}",
        "method: split, quantity: payload_bytes, part: sub2, value: 32",
        "method: split, quantity: params_m, part: fusion, value: 0.000226",  # 16 -> 8 -> 10
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
        f"method: cloud, quantity: flops_g, value: {flops:.6f}, tolerance: 0.1%, because: round",
        f"method: cloud, quantity: macs_g, value: {flops / 2:.6f}, tolerance: 0.1%, because: round",
        f"method: cloud, quantity: macs_linear_g, value: {flops / 2:.6f}, tolerance: 0.1%, because: round",
    )
    met = [v["status"] in ("reproduced", "within-tolerance") for v in verdicts]
    assert met == [True, True, False]


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
        "method: cloud, quantity: top1, value: 91.5",
        "method: cloud, quantity: top1, value: 93",
        "method: cloud, quantity: latency_p50_ms, value: 4, on: BOARD",
        "method: cloud, quantity: latency_p50_ms, value: 4, on: Jetson",
        "method: edge, quantity: top1, value: 80",
        "method: cut, quantity: top1, value: 90",
        "method: split, quantity: top1, value: 90",
        "method: cloud, quantity: latency_p99_ms, value: 4",
        folder="out",
        head="tolerances: {top1: {tolerance: 1, because: another training}}\n",
    )
    statuses = [v["status"] for v in verdicts]
    assert statuses[:3] == ["within-tolerance", "not-reproduced", "reproduced"]
    assert verdicts[0]["why"].endswith("; another training")
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
        "undecided",
        "undecided",
    ]
    assert [v["ours"] for v in verdicts] == [19.5, -19.5, 19.5, 0.25, -0.25]
    for verdict in verdicts:
        low, high = verdict["interval"]
        assert low < verdict["ours"] < high
        assert (low > 0 or high < 0) == (verdict["status"] != "undecided")
    assert verdicts[2]["published"] == 25
    assert "no significant difference" in verdicts[3]["why"]
    assert code == 1


def test_an_ordering_on_other_data_holds_or_is_opposite_there_and_refutes_nothing(judged, records, harness):
    records(("edge", [90, 91], {}), ("cloud", [70, 72], {}), ("cut", [90.5, 90], {}))
    claims = ("better: edge, than: cloud", "better: cloud, than: edge", "better: edge, than: cut")
    counts = ("better: edge, than: cloud, column: macs_g", "better: cloud, than: edge, column: macs_g")
    code, verdicts = judged(*claims, *counts, folder="out", head="scale: digits\n")
    assert [v["status"] for v in verdicts] == [
        "holds",
        "opposite",
        "undecided",
        "reproduced",  # a count is the same on all data
        "not-reproduced",
    ]
    assert {v["scale"] for v in verdicts} == {"digits"}
    assert code == 1
    assert judged(claims[1], folder="out", head="scale: digits\n")[0] == 1
    assert judged(claims[0], claims[2], folder="out", head="scale: digits\n")[0] == 0
    judged(*claims, folder="out", head="scale: digits\n")
    _, out, _ = harness("claims", "mine.yaml", "out")
    for heading in ("holds on digits", "opposite on digits", "undecided on digits"):
        assert f"\n{heading}\n" in out


def test_an_ordering_says_which_records_are_not_of_the_suites_configuration(judged, records):
    records(("edge", [90, 91], {}), ("cloud", [70, 72], {"method_key": "another"}), ("cut", [90.5, 90], {}))
    _, (shortened, own) = judged("better: edge, than: cloud", "better: edge, than: cut", folder="out")
    assert shortened["why"].endswith("; other configuration or version: cloud")
    assert "configuration" not in own["why"]


def test_equal_compute_is_checked_and_both_computes_are_shown(judged, records):
    def spent(macs: float) -> dict[str, Any]:
        return {"train": {"train_macs": macs}}

    records(("edge", [90], spent(100e9)), ("cloud", [70], spent(109e9)), ("cut", [70], spent(290e9)))
    _, verdicts = judged(
        "better: edge, than: cloud, compute: equal",
        "better: edge, than: cut, compute: equal",
        "better: edge, than: cut",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-checkable-here", "reproduced"]
    assert verdicts[1]["compute"] == pytest.approx([100e-6, 290e-6])
    records(("voted", [90], {}))
    _, (unknown,) = judged("better: voted, than: cloud, compute: equal", folder="out")
    assert (unknown["status"], unknown["compute"]) == ("not-checkable-here", None)
    assert "the records have no training compute" in unknown["why"]
    assert verdicts[1]["why"].startswith(
        "not comparable at equal training compute: 0.0001 against 0.00029 PMACs"
    )


def test_a_suite_may_take_the_claims_of_another_one(harness):
    Path("mine.claims.yaml").write_text(CLAIMS)
    text = SUITE.replace("suite: mine", "suite: other")
    Path("other.yaml").write_text("".join(line for line in text.splitlines(True) if "  edge:" not in line))
    Path("other.claims.yaml").write_text("claims_of: mine\nscale: small pictures\n")
    code, out, err = harness("claims", "other.yaml", "--json")
    assert code == 0, err
    judgement = json.loads(out)
    assert (judgement["paper"], judgement["scale"]) == ("A paper", "small pictures")
    verdicts = {claim["claim"]: claim for claim in judgement["claims"]}
    assert verdicts["size"]["status"] == "reproduced"
    assert (verdicts["faster"]["status"], verdicts["faster"]["why"]) == (
        "not-checkable-here",
        "other has no edge",
    )
    own = "claims: {faster: {table: Table 2, better: cut, than: cloud, column: payload}}\n"
    Path("other.claims.yaml").write_text("claims_of: mine\n" + own)
    code, _, err = harness("claims", "other.yaml")
    assert (code, "other.claims.yaml:2: claims.faster: no column 'payload'" in err) == (2, True), err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("claims_of: min\n", ["other.claims.yaml:1: claims_of: no other suite 'min'", "'mine'"]),
        ("claims_of: other\n", ["no other suite 'other'"]),
        ("claims_of: ../mine\n", ["claims_of", "a name has letters"]),
        ("claims_of: third\n", ["third.claims.yaml has its claims from mine; name that"]),
        ("paper: x\n", ["claims: missing"]),
        ("claims: {a: {table: x, says: y, needs: z}}\n", ["paper: missing"]),
    ],
)
def test_a_wrong_source_of_claims_is_one_line(harness, text, words):
    Path("mine.claims.yaml").write_text(CLAIMS)
    Path("third.claims.yaml").write_text("claims_of: mine\n")
    Path("other.yaml").write_text(SUITE.replace("suite: mine", "suite: other"))
    Path("other.claims.yaml").write_text(text)
    code, _, err = harness("claims", "other.yaml")
    assert (code, err.count("\n")) == (2, 1), err
    for word in words:
        assert word in err


def timed(p50: float, **more: Any) -> dict[str, Any]:
    """Return the changes of a record with these figures of latency."""
    return {"latency": {"n": 662, "p50_ms": p50, "mean_ms": p50, "std_ms": 1.0, **more}}


def processes(method: str, *p50: float, **more: Any) -> list[tuple[str, list[float], dict[str, Any]]]:
    """Return one process of the first seed for each latency."""
    return [
        (method, [90], {**timed(value), "repeat": repeat, "cell_id": f"{method} {repeat}", **more})
        for repeat, value in enumerate(p50)
    ]


def test_an_ordering_of_latencies_has_less_as_better_and_one_board(judged, records):
    records(
        *processes("edge", 4.0, 4.01, 3.99),
        *processes("cloud", 9.0, 9.02, 8.98),
        ("cut", [90], {"device": {"name": "b", "model": "other"}}),
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


def test_an_ordering_by_a_cost_is_undecided_where_the_interval_of_the_ratio_contains_1(judged, records):
    records(
        *processes("edge", 4.0, 4.4, 3.7), *processes("cloud", 4.3, 4.6, 4.0), *processes("cut", 8, 9, 8.5)
    )
    code, verdicts = judged(
        "better: edge, than: cloud, column: latency_p50_ms",
        "better: cloud, than: edge, column: latency_p50_ms",
        "better: edge, than: cut, column: latency_mean_ms",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["undecided", "undecided", "reproduced"]
    assert code == 0
    for verdict in verdicts:
        low, high = map(float, re.search(r"\[(\S+), (\S+)\]", verdict["why"]).groups())
        assert (low <= 1 <= high) == (verdict["status"] == "undecided")
        assert verdict["why"].endswith("3 processes against 3 processes")
        assert verdict["interval"] is None


def test_an_ordering_by_a_cost_needs_three_processes(judged, records):
    records(*processes("edge", 4.0, 4.0), *processes("cloud", 9.0, 9.0, 9.0))
    (verdict,) = judged("better: edge, than: cloud, column: latency_p50_ms", folder="out")[1]
    assert verdict["status"] == "undecided"
    assert verdict["why"] == "no test: edge: 2 processes; 3 are needed"


def test_an_ordering_by_throughput_has_more_as_better(judged, records):
    rows = [
        change
        for method, rate in (("edge", 250.0), ("cloud", 100.0))
        for change in (
            (
                method,
                [90],
                {
                    **timed(4.0, throughput_ips=rate + repeat),
                    "repeat": repeat,
                    "cell_id": f"{method}{repeat}",
                },
            )
            for repeat in range(3)
        )
    ]
    records(*rows)
    _, verdicts = judged(
        "better: edge, than: cloud, column: throughput_ips",
        "better: cloud, than: edge, column: throughput_ips",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced"]


def test_counted_columns_are_exact_and_need_one_process(judged, records):
    sent = [{"network": {"feature_bytes": count}} for count in (1000, 1001)]
    records(("edge", [90], sent[0]), ("cloud", [90], sent[1]), ("voted", [90], sent[1]))
    _, verdicts = judged(
        "better: edge, than: cloud, column: feature_bytes",
        "better: cloud, than: edge, column: feature_bytes",
        "better: cloud, than: voted, column: feature_bytes",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "not-reproduced", "not-reproduced"]
    assert {v["why"] for v in verdicts} == {"counted figures have no error"}


def test_energy_of_two_meters_is_not_compared(judged, records):
    def row(method: str, meter: str, millijoules: float) -> list[tuple[str, list[float], dict[str, Any]]]:
        reading = {"meter": meter, "scope": "package", "provenance": "measured", "method": "counter"}
        return processes(method, 4.0, 4.0, 4.0, energy=[{**reading, "energy_gross_mj": millijoules}])

    records(*row("edge", "rapl", 5.0), *row("cloud", "rapl", 7.0), *row("voted", "plug", 9.0))
    _, verdicts = judged(
        "better: edge, than: cloud, column: energy_gross_mj",
        "better: edge, than: voted, column: energy_gross_mj",
        folder="out",
    )
    assert [v["status"] for v in verdicts] == ["reproduced", "undecided"]
    assert "by rapl on m" in verdicts[0]["why"]
    assert "measured by rapl on m, and by plug on m" in verdicts[1]["why"]


def test_an_ordering_by_a_column_without_a_test_is_undecided(judged, records):
    top5 = [{"accuracy": {"top1": 90.0, "top5": value, "n": N}} for value in (99.0, 98.0)]
    records(("edge", [90], top5[0]), ("cloud", [90], top5[1]))
    (verdict,) = judged("better: edge, than: cloud, column: top5", folder="out")[1]
    assert verdict["status"] == "undecided"
    assert verdict["ours"] == 1.0
    assert "top5 has no test" in verdict["why"]


def test_a_least_difference_is_not_missed_by_a_rounding_of_floats(judged, records):
    records(*processes("edge", 1.1, 1.1, 1.1), *processes("cloud", 1.2, 1.2, 1.2))
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
    assert line.split()[-4:] == ["params_m", "7", f"{PARAMS:.5g}", "M"]


def test_the_json_has_the_same_and_sums_up(harness):
    Path("mine.claims.yaml").write_text(CLAIMS)
    code, out, _ = harness("claims", "mine.yaml", "--json")
    judgement = json.loads(out)
    assert code == 0
    assert (judgement["suite"], judgement["paper"]) == ("mine", "A paper")
    assert [claim["claim"] for claim in judgement["claims"]] == ["size", "faster", "where", "words"]
    assert judgement["scale"] == ""
    assert judgement["summary"] == {
        **dict.fromkeys(STATUSES, 0),
        "reproduced": 3,
        "paper-contradicts-itself": 1,
    }
