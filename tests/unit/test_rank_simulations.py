"""Simulated tables: equal rows stay in one tier, more seeds find more, and intervals cover.

The draws have a fixed seed. The full simulations, with the old method beside this one, are ``benchmarks/ranks.py``.
Limits leave three standard errors of the simulation.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from harness.stats.crossed import crossed_of_sums

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks() -> ModuleType:
    """Return the module ``benchmarks/ranks.py``."""
    spec = importlib.util.spec_from_file_location("ranks", ROOT / "benchmarks/ranks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ranks"] = module
    spec.loader.exec_module(module)
    return module


def pairs(ranks: ModuleType, training: float, seeds: int, images: int, accuracy: float, ahead: float = 0.0):
    """Return the analysis of 800 simulated pairs of rows, at once."""
    rng = np.random.default_rng(seeds)
    model = ranks.Model(training=training, accuracy=accuracy)
    count = 800 if seeds * images < 3000 else 400
    d = np.stack(
        [
            right[0].astype(np.int8) - right[1]
            for right, _ in (model.draw(rng, 2, seeds, images, ahead) for _ in range(count))
        ]
    ).astype(np.int32)
    return crossed_of_sums(
        d.sum(axis=2), (d.sum(axis=1) ** 2).sum(axis=1), (d**2).sum(axis=(1, 2)), images=images, step=1.0
    )


@pytest.mark.parametrize("training", [0.0, 0.5, 1.5])
@pytest.mark.parametrize(("images", "accuracy"), [(30, 0.7), (30, 0.97), (360, 0.95), (360, 0.995)])
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_equal_pairs_are_separated_in_five_percent_at_most(ranks, training, images, accuracy, seeds) -> None:
    result = pairs(ranks, training, seeds, images, accuracy)
    limit = 0.05 + 3 * (0.05 * 0.95 / len(result.p)) ** 0.5
    assert (result.p <= 0.05).mean() <= limit


def test_the_old_methods_level_does_not_hold(ranks) -> None:
    """The simulation can fail: Rüger's rule over McNemar tests, which ignores the seed effect, is caught by it."""
    old, new = ranks.shares(np.random.default_rng(0), ranks.Model(training=1.5, accuracy=0.9), 2, 3, 360, 250)
    assert old > 0.1
    assert new <= 0.05 + 3 * (0.05 * 0.95 / 250) ** 0.5


@pytest.mark.parametrize(("rows", "seeds"), [(5, 3), (12, 2), (12, 5)])
def test_equal_rows_of_a_table_are_in_one_tier(ranks, rows, seeds) -> None:
    tables = 120
    _, new = ranks.shares(np.random.default_rng(rows), ranks.Model(training=0.7), rows, seeds, 100, tables)
    assert new <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5


@pytest.mark.parametrize("training", [0.0, 0.5])
def test_more_seeds_find_more(ranks, training) -> None:
    power = [
        float((pairs(ranks, training, seeds, 360, 0.9, ahead=0.04).p <= 0.05).mean())
        for seeds in (2, 3, 5, 10)
    ]
    assert power == sorted(power)
    assert power[-1] > power[0] + 0.2


@pytest.mark.parametrize("training", [0.0, 0.5])
def test_intervals_cover(ranks, training) -> None:
    tables = 150
    rng = np.random.default_rng(1)
    for share in ranks.coverage(rng, ranks.Model(training=training, accuracy=0.9), 4, 200, tables):
        assert share >= 0.95 - 3 * (0.05 * 0.95 / tables) ** 0.5
