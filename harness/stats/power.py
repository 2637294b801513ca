"""Which difference of two accuracies a comparison detects, and how many seeds and images a difference takes.

The power is that of the test in :mod:`harness.stats.crossed`, for normal effects. With one seed it is that of
McNemar's test. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from harness.stats.distributions import t_quantile

__all__ = [
    "POWER",
    "Spread",
    "chi_square_nodes",
    "detectable_difference",
    "images_needed",
    "least",
    "power_of",
    "prior_freedom",
    "seeds_needed",
]

POWER = 0.8
"""The probability with which a difference is to be detected, by convention."""

MOST_PRIOR = 4
"""The most degrees of freedom that the other rows of a table add to a pair."""

_NORMAL = NormalDist()
_STEPS = 200
"""Points of the integral over the estimated seed variance."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The variances of the difference D[s, i] of two methods' answers, as fractions squared.

    ``seed``: of its seed effect. ``image``: of its image effect. ``residual``: of the rest, which changes with seed and
    image.
    """

    seed: float
    image: float
    residual: float

    @classmethod
    def assumed(cls, discordance: float, *, seed_sd: float = 0.0, repeated: float = 0.5) -> Spread:
        """Return the spread from the share of answers that exactly one of the two methods gets right.

        Args:
            discordance: that share. It is the variance of D if the methods are equal.
            seed_sd: the standard deviation of the difference of the two accuracies over seeds, without the part that
                the number of test images explains.
            repeated: the share of the discordance that is the same in every seed.
        """
        return cls(seed=seed_sd**2, image=repeated * discordance, residual=(1 - repeated) * discordance)


def prior_freedom(comparisons: int, seeds: int) -> int:
    """Return the degrees of freedom that the rows of a table add to a pair (:class:`harness.stats.crossed.Prior`).

    ``comparisons`` of the best row share this row, so they have fewer degrees of freedom than they seem to. A third of
    them is counted, without one comparison, which stands for the pair itself.
    """
    return max(0, min(MOST_PRIOR, (comparisons - 1) * (seeds - 1) // 3))


def power_of(
    difference: float, spread: Spread, seeds: int, images: int, alpha: float = 0.05, prior: int = 0
) -> float:
    """Return the probability that the test finds ``difference`` > 0 (a fraction) at the two-sided level ``alpha``.

    With one seed the difference is that of the two trained models, so the seed effect is not in the power. ``prior``:
    the degrees of freedom that the other rows of a table add (:class:`harness.stats.crossed.Prior`).

    Raises:
        ValueError: there are no seeds, or fewer than two images.
    """
    return _power(seeds, images, alpha, prior)(difference, spread)


def detectable_difference(
    spread: Spread, seeds: int, images: int, alpha: float = 0.05, power: float = POWER, prior: int = 0
) -> float:
    """Return the smallest difference of two accuracies (a fraction) that is found with probability ``power``.

    It is at most 1. If it is 1, even that may not be found.

    Raises:
        ValueError: there are no seeds, or fewer than two images.
    """
    find = _power(seeds, images, alpha, prior)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if find(middle, spread) >= power else (middle, high)
    return high


def seeds_needed(
    difference: float,
    spread: Spread,
    images: int,
    alpha: float = 0.05,
    power: float = POWER,
    comparisons: int = 0,
    most: int = 1000,
) -> int | None:
    """Return the least number of seeds, two or more, that finds ``difference``; ``None`` if ``most`` are too few.

    ``comparisons``: of the best row with others, which moderate the seed variance (:func:`prior_freedom`).
    """

    def finds(seeds: int) -> bool:
        prior = prior_freedom(comparisons, seeds)
        return power_of(difference, spread, seeds, images, alpha, prior) >= power

    return least(finds, 2, most)


def images_needed(
    difference: float,
    spread: Spread,
    seeds: int,
    alpha: float = 0.05,
    power: float = POWER,
    comparisons: int = 0,
    most: int = 10_000_000,
) -> int | None:
    """Return the least number of test images that finds ``difference``; ``None`` if ``most`` are too few.

    ``comparisons``: of the best row with others, which moderate the seed variance (:func:`prior_freedom`).
    """
    prior = prior_freedom(comparisons, seeds)
    return least(lambda images: power_of(difference, spread, seeds, images, alpha, prior) >= power, 2, most)


def _power(seeds: int, images: int, alpha: float, prior: int) -> Callable[[float, Spread], float]:
    """Return the power as a function of difference and spread. It keeps the quantiles, which cost most."""
    if seeds < 1 or images < 2:
        raise ValueError(f"a comparison of {seeds} seeds and {images} images")
    of_images = t_quantile(1 - alpha / 2, images - 1) ** 2
    if seeds == 1:
        return lambda difference, spread: _of_one_seed(difference, spread, images, alpha)
    freedom = seeds - 1 + prior
    of_seeds = t_quantile(1 - alpha / 2, freedom) ** 2
    nodes = [
        ((prior + (seeds - 1) * ratio) / freedom, weight) for ratio, weight in chi_square_nodes(seeds - 1)
    ]
    rounding = 1 / (12 * seeds * images**2)

    def find(difference: float, spread: Spread) -> float:
        # a spread of difference that is not 0 cannot be smaller than the difference itself
        image = max(spread.image, difference * (1 - difference) - spread.residual)
        by_seed = spread.seed / seeds + spread.residual / (seeds * images)
        by_image = image / images
        deviation = math.sqrt(by_seed + by_image)
        total = 0.0
        for ratio, weight in nodes:
            bar = math.sqrt(of_seeds * (by_seed * ratio + rounding) + of_images * by_image)
            excess = difference - bar
            if deviation > 0:
                total += weight * _NORMAL.cdf(excess / deviation)
            else:
                total += weight * (excess > 0)
        return total

    return find


def _of_one_seed(difference: float, spread: Spread, images: int, alpha: float) -> float:
    """Return the power of McNemar's test (Connor 1987, Biometrics 43:207)."""
    discordance = max(spread.image + spread.residual, difference)
    needed = _NORMAL.inv_cdf(1 - alpha / 2) * math.sqrt(discordance)
    deviation = math.sqrt(max(0.0, discordance - difference**2))
    excess = math.sqrt(images) * difference - needed
    if deviation == 0:
        return float(excess > 0)
    return _NORMAL.cdf(excess / deviation)


def chi_square_nodes(freedom: int, steps: int = _STEPS) -> list[tuple[float, float]]:
    """Return nodes and weights for the expectation over a chi-square divided by its degrees of freedom.

    The variable is y^2, where y has the density c y^(f - 1) exp(-f y^2 / 2).
    """
    width = 6 / math.sqrt(freedom)
    low, high = max(0.0, 1 - width), 1 + width
    step = (high - low) / steps
    places = [low + (index + 0.5) * step for index in range(steps)]
    logs = [(freedom - 1) * math.log(y) - freedom * y * y / 2 for y in places]
    weights = [math.exp(value - max(logs)) for value in logs]
    total = sum(weights)
    return [(y * y, weight / total) for y, weight in zip(places, weights, strict=True)]


def least(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the least number in low..high for which ``holds`` is true, which then stays true."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
