"""Tests of planning: which difference is detected, and what a difference takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.crossed import crossed_of_sums
from harness.stats.power import Spread, detectable_difference, images_needed, power_of, seeds_needed

spreads = st.builds(
    Spread.assumed, st.floats(0.01, 0.3), seed_sd=st.floats(0, 0.03), repeated=st.floats(0, 1)
)


@settings(max_examples=30, deadline=None)
@given(st.integers(50, 20_000), st.floats(0.005, 0.5))
def test_one_seed_solves_connors_equation(n: int, discordance: float) -> None:
    d = detectable_difference(Spread.assumed(discordance), 1, n)
    share = max(discordance, d)
    needed = (1.959964 * math.sqrt(share) + 0.841621 * math.sqrt(max(0, share - d * d))) ** 2 / d**2
    assert needed == pytest.approx(n, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(spreads, st.integers(2, 12), st.integers(30, 5000))
def test_more_seeds_images_or_difference_never_lower_the_power(
    spread: Spread, seeds: int, images: int
) -> None:
    power = power_of(0.03, spread, seeds, images)
    assert power_of(0.03, spread, seeds + 1, images) >= power - 1e-3
    assert power_of(0.03, spread, seeds, 2 * images) >= power - 1e-3
    assert power_of(0.04, spread, seeds, images) >= power
    assert power_of(0.03, spread, seeds, images, alpha=0.01) <= power


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_power_is_that_of_the_test(seeds: int) -> None:
    images, reps = 200, 3000
    spread = Spread(seed=2e-4, image=0.05, residual=0.05)
    difference = detectable_difference(spread, seeds, images)
    rng = np.random.default_rng(seeds)
    d = difference + rng.normal(0, spread.seed**0.5, (reps, seeds, 1))
    d = d + rng.normal(0, spread.image**0.5, (reps, 1, images))
    d = d + rng.normal(0, spread.residual**0.5, (reps, seeds, images))
    result = crossed_of_sums(
        d.sum(axis=2), (d.sum(axis=1) ** 2).sum(axis=1), (d**2).sum(axis=(1, 2)), images=images, step=0.0
    )
    assert (result.p <= 0.05).mean() == pytest.approx(0.8, abs=0.04)


def test_the_numbers_needed_are_the_least() -> None:
    spread = Spread.assumed(0.06, seed_sd=0.005)
    seeds = seeds_needed(0.02, spread, 2000)
    assert seeds is not None
    assert power_of(0.02, spread, seeds, 2000) >= 0.8 > power_of(0.02, spread, seeds - 1, 2000)
    images = images_needed(0.02, spread, 5)
    assert images is not None
    assert power_of(0.02, spread, 5, images) >= 0.8 > power_of(0.02, spread, 5, images - 1)
    # no number of images makes up for the seeds, and no number of seeds for the images
    assert images_needed(0.001, Spread.assumed(0.06, seed_sd=0.01), 3) is None
    assert seeds_needed(0.001, Spread.assumed(0.06, repeated=1), 100) is None


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 seeds"):
        power_of(0.1, Spread.assumed(0.1), 0, 100)
    with pytest.raises(ValueError, match="1 images"):
        detectable_difference(Spread.assumed(0.1), 3, 1)
