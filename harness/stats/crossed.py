"""Compare two methods over training seeds and test images, both random.

The data are differences D[s, i] of two methods' scores for training seed s and image i: -1, 0 or 1 where the score is
whether the answer is right, any number for another score. Seeds and images are crossed random effects:

    D[s, i] = mean + seed[s] + image[i] + residual[s, i]

This is the multi-reader multi-case analysis of diagnostic imaging, with seeds as readers and images as cases
(Obuchowski and Rockette 1995, Communications in Statistics 24:285; Gallas 2006, Academic Radiology 13:353). The mean
squares of seeds, images and residual give the variance of the mean difference over S seeds and I images:

    (MS_seed + MS_image - MS_residual) / (S I) = A + B
    A = MS_seed / (S I)                             from S - 1 degrees of freedom: seeds and residual
    B = max(0, MS_image - MS_residual) / (S I)      from I - 1 degrees of freedom: images

**The test.** The difference d is significant at level p if d^2 > t^2[S - 1] A + t^2[I - 1] B, where t[f] is the
two-sided quantile of Student's distribution with f degrees of freedom at level p. Each part of the variance has the
quantile of its own degrees of freedom (Banerjee 1960, Sankhya 22:101). For normal effects the level holds exactly or
conservatively, however large the effects are, if MS_residual is known well. It has (S - 1)(I - 1) degrees of freedom,
so the test images must not be few. Proof: let l and 1 - l be the true shares of the variance of d, u and v the
chi-squares over their degrees of freedom that A and B are made of, and F the distribution function of a chi-square
with one degree of freedom. F is concave, so P(no rejection) = E F(l t^2 u + (1 - l) t^2 v) is at least l E F(t^2 u) +
(1 - l) E F(t^2 v) = 1 - p.

Satterthwaite's degrees of freedom (Hillis 2007, Statistics in Medicine 26:596) are an approximation that fails for few
seeds: equal methods with a seed effect are separated in up to 13% of cases with two seeds and 7% with three, at 5%
(part ``pairs`` of ``benchmarks/ranks.py``). The reason is that a seed variance that is small by chance raises its degrees
of freedom.

**Other rows of a table.** The seed variance of a pair is poorly known from few seeds, and a correction for many
comparisons asks for quantiles that t[2] reaches at 36 standard errors. So a table moderates it (Smyth 2004,
Statistical Applications in Genetics and Molecular Biology 3:3): A becomes the weighted mean of its own value and a
value predicted from the table, and t has the degrees of freedom of both (:class:`Prior`). The prediction is
MS_residual, which is known well, times the table's ratio of A to it. The weight of the prediction is a constant, at
most 4 degrees of freedom, so the seeds of the pair itself prevail from six seeds on. This part has no proof, since
rows may differ in the ratio. The level holds in simulated tables in which one row has 25 times the seed variance of
the others (``benchmarks/ranks.py``). A comparison of two methods alone, as for a claim, has no prior and needs no such
assumption.

**Rounding.** The mean of a seed is a whole number of images. Two seeds often have the same mean by chance, and A is
then 0. So the variance of rounding to a step of 1/I, 1/(12 I^2) for one seed, is added to A (Sheppard's correction).

**Pairing.** A seed of one method is paired with the same seed of the other. Both may share the data's order, a teacher
or the model that both were made from. If they share nothing, pairing costs power and no validity. Seeds that only one
of the methods has are not used.

**One seed** gives no estimate of the seed variance. The exact McNemar test then compares two trained models on these
images, and says nothing about another training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats.distributions import t_quantile, t_tail
from harness.stats.power import Spread, prior_freedom

__all__ = ["LEAST_P", "Crossed", "Prior", "crossed", "crossed_of_sums", "nested"]

LEAST_P = 1e-12
"""The smallest p-value. A smaller one is given as this."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What the other rows of a table say of the seed variance of a pair.

    ``ratio``: expected MS_seed / MS_residual. ``freedom``: its weight, in degrees of freedom.
    """

    ratio: float = 1.0
    freedom: int = 0

    @classmethod
    def of(cls, comparisons: Sequence[Spread], seeds: int, images: int) -> Prior:
        """Return the prior from the comparisons of a table's best row with the others, on ``seeds`` and ``images``."""
        residual = sum(each.residual for each in comparisons)
        freedom = prior_freedom(len(comparisons), seeds)
        if freedom < 1 or residual <= 0:
            return cls()
        return cls(ratio=1 + images * sum(each.seed for each in comparisons) / residual, freedom=freedom)


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """The analysis of n pairs of methods with the same S seeds and I images.

    Every array has the shape [n]. ``difference``: mean of D. ``by_seed``: A, with the variance of rounding,
    ``rounding``. ``freedom``: the degrees of freedom of A. ``by_image``: B. ``residual``: MS_residual. ``images`` is 0
    if each seed has its own images (:func:`nested`).
    """

    difference: Floats
    by_seed: Floats
    by_image: Floats
    residual: Floats
    rounding: float
    freedom: int
    seeds: int
    images: int

    def moderated(self, prior: Prior) -> Crossed:
        """Return the analysis with the seed variance moderated by the other rows of a table."""
        if self.images == 0 or prior.freedom == 0:
            return self
        freedom = self.freedom + prior.freedom
        predicted = prior.ratio * self.residual / (self.seeds * self.images) + self.rounding
        by_seed = (self.freedom * self.by_seed + prior.freedom * predicted) / freedom
        return replace(self, by_seed=by_seed, freedom=freedom)

    @property
    def p(self) -> Floats:
        """The two-sided p-value of each pair, with a relative error below 0.003, and at least :data:`LEAST_P`."""
        levels = _levels()
        bars = np.outer(self.by_seed, _squared_quantiles(self.freedom))
        if self.images > 1:
            bars += np.outer(self.by_image, _squared_quantiles(self.images - 1))
        elif self.images == 1:
            return np.ones(len(self.difference))
        squared = self.difference**2
        place = (bars < squared[:, None]).sum(
            axis=1
        )  # number of levels at which the difference is significant
        right = np.clip(place, 1, len(levels) - 1)
        rows = np.arange(len(squared))
        low, high = bars[rows, right - 1], bars[rows, right]
        share = np.where(place < len(levels), (squared - low) / np.where(high > low, high - low, 1.0), 1.0)
        return np.where(
            squared > 0, np.exp(levels[right - 1] + share * (levels[right] - levels[right - 1])), 1.0
        )

    def interval(self, confidence: float = 0.95) -> tuple[Floats, Floats]:
        """Return the interval of each difference that the test does not exclude, (low, high)."""
        level = (1 + confidence) / 2
        squared = t_quantile(level, self.freedom) ** 2 * self.by_seed
        if self.images > 1:
            squared = squared + t_quantile(level, self.images - 1) ** 2 * self.by_image
        elif self.images == 1:
            squared = np.full(len(self.difference), math.inf)
        half = np.sqrt(squared)
        return self.difference - half, self.difference + half

    @property
    def variances(self) -> tuple[Floats, Floats, Floats]:
        """The estimated variances, without a prior, of D's seed effect, image effect and residual."""
        of_seed = (self.by_seed - self.rounding) * self.seeds - self.residual / max(1, self.images)
        return np.maximum(0.0, of_seed), self.by_image * self.images, self.residual


def crossed(differences: NDArray[Any], step: float = 0.0) -> Crossed:
    """Return the analysis of one pair from its differences D, [S, I], S >= 2. Right answers have ``step`` 1.

    Raises:
        ValueError: there are fewer than two seeds, or no images.
    """
    values = np.asarray(differences, dtype=np.float64)
    return crossed_of_sums(
        values.sum(axis=1)[None],
        np.array([(values.sum(axis=0) ** 2).sum()]),
        np.array([(values**2).sum()]),
        images=values.shape[1],
        step=step,
    )


def crossed_of_sums(
    seed_sums: NDArray[Any], image_squares: NDArray[Any], squares: NDArray[Any], *, images: int, step: float
) -> Crossed:
    """Return the analysis of n pairs from sums of their differences D.

    Args:
        seed_sums: sum of D over the images of each seed, [n, S].
        image_squares: sum over images of the square of (sum of D over seeds), [n].
        squares: sum of the squares of all D, [n].
        images: I, the number of images.
        step: the step of one image's score: 1 for right or wrong, 0 for a continuous score.

    Raises:
        ValueError: there are fewer than two seeds, or no images.
    """
    sums = np.asarray(seed_sums, dtype=np.float64)
    seeds = sums.shape[1]
    _check(seeds, images)
    total = sums.sum(axis=1)
    correction = total**2 / (seeds * images)
    of_seeds = np.maximum(0.0, (sums**2).sum(axis=1) / images - correction)
    of_images = np.maximum(0.0, np.asarray(image_squares, dtype=np.float64) / seeds - correction)
    of_rest = np.maximum(0.0, np.asarray(squares, dtype=np.float64) - correction - of_seeds - of_images)
    freedom = max(1, images - 1)
    residual = of_rest / ((seeds - 1) * freedom)
    count = seeds * images
    rounding = (step / images) ** 2 / (12 * seeds)
    return Crossed(
        difference=total / count,
        by_seed=of_seeds / (seeds - 1) / count + rounding,
        by_image=np.maximum(0.0, of_images / freedom - residual) / count,
        residual=residual,
        rounding=rounding,
        freedom=seeds - 1,
        seeds=seeds,
        images=images,
    )


def nested(seed_means: NDArray[Any], steps: float = 0.0) -> Crossed:
    """Return the analysis of n pairs whose seeds have different images, from the mean D of each seed, [n, S].

    The variance of the means contains the images' variance, so this is a t-test of the means. ``steps`` is the step
    of a seed's mean.

    Raises:
        ValueError: there are fewer than two seeds.
    """
    means = np.asarray(seed_means, dtype=np.float64)
    seeds = means.shape[1]
    _check(seeds, 1)
    nothing = np.zeros(len(means))
    rounding = steps**2 / (12 * seeds)
    return Crossed(
        difference=means.mean(axis=1),
        by_seed=means.var(axis=1, ddof=1) / seeds + rounding,
        by_image=nothing,
        residual=nothing,
        rounding=rounding,
        freedom=seeds - 1,
        seeds=seeds,
        images=0,
    )


def _check(seeds: int, images: int) -> None:
    if seeds < 2 or images < 1:
        raise ValueError(f"{seeds} seeds and {images} images; the analysis needs two seeds and an image")


# --- levels and quantiles on a grid, for many p-values at once ----------------------------------------


@cache
def _levels() -> Floats:
    """Return the logarithms of the levels at which p-values are looked up, in descending order, from 1."""
    return np.linspace(0.0, math.log(LEAST_P), 1400)


@cache
def _squared_quantiles(freedom: int) -> Floats:
    """Return the squares of Student's two-sided quantiles at :func:`_levels`, in ascending order."""
    highest = t_quantile(1 - LEAST_P / 2, freedom)
    t = np.geomspace(1e-4, 1.01 * highest, 1200)
    tails = np.array([math.log(2 * t_tail(value, freedom)) for value in t])
    squared = np.exp(2 * np.interp(-_levels()[1:], -tails, np.log(t)))
    return np.concatenate([[0.0], squared])
