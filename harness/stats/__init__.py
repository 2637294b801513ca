"""Statistics of samples, each with its source.

The names here make the figures of a cell. They use the standard library only, and their files are in the keys of cells
(:mod:`harness.plan.identity`). Comparisons of rows are imported from their own modules.
"""

from __future__ import annotations

from harness.stats.distributions import beta_regularized, binomial_cdf, t_quantile
from harness.stats.intervals import t_interval, wilson
from harness.stats.percentiles import (
    EARLY_STOPPING_MIN,
    early_stopping_bound,
    early_stopping_discard,
    percentile,
)

__all__ = [
    "EARLY_STOPPING_MIN",
    "beta_regularized",
    "binomial_cdf",
    "early_stopping_bound",
    "early_stopping_discard",
    "percentile",
    "t_interval",
    "t_quantile",
    "wilson",
]
