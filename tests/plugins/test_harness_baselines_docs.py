"""Tests of docs/baselines.md: each line of a suite in it can be planned, and builds the described model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.plugins import load_plugins
from harness.results.leaderboard.published import find_published, published_tables
from harness.suite.yamlfile import parse_value
from harness.types import DataInfo, DeviceInfo, Fleet
from harness_timm.vit import ViTShape

TEXT = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
ROWS = [[cell.strip() for cell in row.split("|")[1:-1]] for row in TEXT.splitlines() if row.startswith("| ")]
LINES = sorted(set(re.findall(r"`(\{[^`]+\})`", TEXT)))
COUNTED = [
    (re.findall(r"`(\{[^`]+\})`", row[2])[0], row[0], float(row[3]))
    for row in ROWS
    if re.fullmatch(r"\d+\.\d+", row[-1])
]

PROFILED = DeviceInfo(
    name="d",
    backend="cpu",
    model="m",
    kind="cpu",
    cores=1,
    memory_bytes=1,
    details={"profile": {"fixed_s": 0.001, "s_per_gmac": 0.05}, "link": {"rate_mbps": 16, "rtt_ms": 1}},
)


def entry_of(line: str) -> tuple[Any, Any]:
    ((name, params),) = parse_value(line, "docs/baselines.md").items()
    plugins = load_plugins()
    found = [
        kind.get(name).entry
        for kind in (plugins.models, plugins.compressors, plugins.partitioners)
        if name in kind
    ]
    assert len(found) == 1, name
    return found[0], found[0].params(**params)


def data(size: int) -> DataInfo:
    names = tuple(map(str, range(1000)))
    return DataInfo(name="d", shape=(3, size, size), class_names=names, sizes={}, mean=(0,) * 3, std=(1,) * 3)


@pytest.mark.parametrize("line", LINES)
def test_every_line_can_be_planned(line: str) -> None:
    entry, params = entry_of(line)
    vit = ViTShape(
        image_size=(224, 224), patch_size=16, channels=3, classes=1000, dim=768, depth=12, heads=12
    )
    if hasattr(entry, "build"):
        entry.describe(params, data(256 if "mobilevit" in line else 384 if "384" in line else 224))
    elif hasattr(entry, "compress"):
        entry.describe(vit.spec(), params, data(224))
    else:
        vgg, stages = entry_of("{vgg: {stages: [[8]]}}")
        source = vgg.describe(stages, data(224)) if entry.name == "nnfacet" else vit.spec()
        fleet = Fleet(devices=(PROFILED, PROFILED) if entry.name == "neurosurgeon" else ())
        entry.sketch(source, params, fleet)


@pytest.mark.parametrize(("line", "name", "millions"), COUNTED)
def test_each_line_builds_the_parameters_of_its_row(line: str, name: str, millions: float) -> None:
    entry, params = entry_of(line)
    size = re.search(r"(\d+) px", name)
    spec = entry.describe(params, data(int(size[1]) if size else 224))
    with torch.device("meta"):
        built = spec.build()
    assert sum(p.numel() for p in built.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_each_row_that_says_published_is_published() -> None:
    shown = {
        row["method"]
        for name in ("papers/tformer", "papers/devit", "papers/edvit")
        for board in published_tables(find_published(name))
        for row in board.rows
    }
    cells = [row[0] for row in ROWS if len(row) > 2 and row[2].endswith("Published")]
    assert len(cells) >= 5
    for cell in cells:
        for name in re.sub(r", -", ", Swin-Mixer-", cell).split(", "):
            assert name in shown


def test_a_wrong_line_is_refused() -> None:
    with pytest.raises(ValidationError):
        entry_of("{class-split: {parts: 4, dim: 36, depth: 4, heads: 3, fusion: oracle}}")
