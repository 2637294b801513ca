"""Tests of docs/reproduction.md: its tables for several scales, and that the page is the one of its generator."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from harness.results.claims.verdicts import STATUSES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("reproduction_page", DOCS / "reproduction.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(claim: str, status: str, **fields: Any) -> dict[str, Any]:
    """Return a verdict as `harness claims --json` prints it."""
    return {
        "claim": claim,
        "table": "EdgeViT, Table 3",
        "says": f"{claim} in words",
        "status": status,
        "published": None,
        "printed": "",
        "ours": None,
        "interval": None,
        "compute": None,
        "unit": "",
        "tolerance": "",
        "same_as": None,
        "why": "",
        **fields,
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_an_ordering_has_one_verdict_per_scale(page):
    scales = {
        "digits": {
            "claims": [
                verdict("a", "opposite", ours=-12.1, interval=[-14.0, -10.2]),
                verdict("b", "holds", ours=3.0, interval=[1.0, 5.0]),
            ]
        },
        "CIFAR-10": {
            "claims": [
                verdict("a", "holds", ours=4.25, interval=[0.1, 8.4]),
                verdict("b", "not-checkable-here", why="on-cifar10 has no b"),
                verdict("c", "undecided", ours=-0.1, interval=[-1, 0.8]),
            ]
        },
    }
    heading, _, *rows = page.orderings(scales).splitlines()
    assert cells(heading)[2:5] == ["digits: points", "digits: interval", "digits: verdict"]
    assert cells(heading)[5:] == ["CIFAR-10: points", "CIFAR-10: interval", "CIFAR-10: verdict"]
    assert [cells(row)[1:] for row in rows] == [
        ["a in words", "-12.10", "-14.00 to -10.20", "opposite", "+4.25", "+0.10 to +8.40", "holds"],
        ["b in words", "+3.00", "+1.00 to +5.00", "holds", "", "", "not tried: on-cifar10 has no b"],
        ["c in words", "", "", "not tried", "-0.10", "-1.00 to +0.80", "undecided"],
    ]


def test_the_training_compute_of_a_fair_comparison_is_shown(page):
    fair = verdict("fair", "holds", table="DeViT, fair comparison", compute=[0.000128, 0.000127])
    text = page.orderings({"digits": {"claims": [fair, verdict("other", "holds", compute=[1.0, 2.0])]}})
    assert text.count("The training compute of the fair comparisons:") == 1
    assert cells(text.splitlines()[-1]) == ["fair in words", "digits", "0.000128", "0.000127"]
    assert "1.0" not in text


def test_each_status_of_a_number_is_counted_and_listed_apart(page):
    number = {"published": 1.3, "printed": "1.3", "ours": 1.2429, "unit": "G"}
    claims = [
        verdict("miss", "not-reproduced", **number),
        verdict("near", "within-tolerance", tolerance="5%", why="norms are not counted", **number),
        verdict("made", "reproduced-fitted", why="chosen to meet it: width", **number),
        verdict("twice", "not-reproduced", same_as="miss", **number),
        verdict("against", "paper-contradicts-itself", why="against Table 9"),
        verdict("met", "reproduced", **number),
    ]
    summary = dict.fromkeys(STATUSES, 0) | {"reproduced": 7}
    text = page.counts({"tformer": {"claims": claims, "summary": summary}})
    assert cells(text.splitlines()[2])[:2] == ["TFormer", "7"]
    assert ["miss in words" in text, "twice in words" in text, "met in words" in text] == [True, False, False]
    (near,) = [line for line in text.splitlines() if "near in words" in line]
    assert cells(near)[3:] == ["1.3 G", "1.243", "5%", "norms are not counted"]


def test_of_several_machines_the_one_with_most_records_counts(page, tmp_path):
    for machine, count in (("a", 2), ("b", 3), ("c", 3)):
        (tmp_path / machine / "on-digits").mkdir(parents=True)
        (tmp_path / machine / "on-digits" / "records.jsonl").write_text(json.dumps({}) * 1 + "\n" * count)
    assert page.folder_of("on-digits", tmp_path) == tmp_path / "b" / "on-digits"
    assert page.folder_of("on-cifar10", tmp_path) is None


def test_the_page_has_the_text_of_its_generator(page):
    text = (DOCS / "reproduction.md").read_text()
    for part in (page.INTRODUCTION, page.ORDERINGS, page.COUNTS, page.ROWS, page.BOARDS):
        assert part.strip() in text
