"""Predictions on the whole test split, and the cache that keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from harness.store.artifacts import Store
from harness.store.hashing import core_hash, digest
from harness.types.artifacts import About, EvaluationMeta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays: TypeAlias = Mapping[str, NDArray[Any]]

__all__ = ["PREDICTING", "PredictionCache", "Predictions"]

PREDICTING = (
    "data",
    "machine",
    "measure",
    "quiet.py",
    "stats/__init__.py",
    "stats/distributions.py",
    "stats/intervals.py",
    "stats/percentiles.py",
    "types",
    "worker",
)
"""Packages and files of the core whose code determines predictions."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions for the n images of the test split.

    ``predictions``: int32 [n], the class with the greatest logit. ``rank``: int32 [n], the number of classes with a
    greater logit than the true class. ``oracle``: int32 [n] for a model that is split by classes, else ``None``: the
    class with the greatest logit among the classes of the sub-model that knows the true class.
    """

    predictions: NDArray[np.int32]
    rank: NDArray[np.int32]
    oracle: NDArray[np.int32] | None = None

    def to_arrays(self) -> Arrays:
        """Return the arrays by name."""
        oracle = {} if self.oracle is None else {"oracle": self.oracle}
        return {"predictions": self.predictions, "rank": self.rank, **oracle}


@dataclass(frozen=True)
class PredictionCache:
    """A cache of evaluation results, which cells share if they must have the same predictions.

    ``code`` is the hash of the code that makes the predictions. It is a part of every key.
    """

    store: Store
    code: str = field(default_factory=lambda: core_hash(*PREDICTING))

    def get_or_make(self, key: object, label: str, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays that are cached under ``key`` (JSON). If there are none, cache and return ``make()``.

        ``label`` describes them to people, in ``harness cache list``.
        """
        name = digest([key, self.code])
        if self.store.usable(name):
            with np.load(self.store.folder(name) / "evaluation.npz") as kept:
                return {array: kept[array] for array in kept.files}
        arrays = make()
        with self.store.making(name) as folder:
            if folder is not None:
                np.savez(folder / "evaluation.npz", **arrays)  # type: ignore[arg-type]
                about = About(stage="evaluate", entry="", label=label)
                (folder / "meta.json").write_text(json.dumps(asdict(EvaluationMeta(about=about))))
        return arrays
