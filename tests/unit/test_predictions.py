"""Tests of kept predictions: computed once for a key, and again when the code that computes them changes."""

from __future__ import annotations

import numpy as np
import pytest

from harness.measure.predictions import PredictionCache, Predictions
from harness.store.artifacts import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_arrays_are_made_once_for_a_key_and_again_for_other_code(store):
    made = []

    def get(code: str, key: object) -> int:
        def make():
            made.append((code, key))
            return {"predictions": np.full(3, len(made), np.int32)}

        return int(PredictionCache(store, code).get_or_make(key, "label", make)["predictions"][0])

    assert [get("a", [1]), get("a", [1]), get("a", [2]), get("b", [1]), get("b", [1])] == [1, 1, 2, 3, 3]
    assert made == [("a", [1]), ("a", [2]), ("b", [1])]


def test_the_code_of_measuring_is_in_the_key_by_default(store):
    assert PredictionCache(store).code
    assert PredictionCache(store).code == PredictionCache(store).code


def test_predictions_are_the_same_after_they_were_kept(store):
    predictions = Predictions(predictions=np.arange(4, dtype=np.int32), rank=np.zeros(4, np.int32))
    of_split = Predictions(
        predictions=predictions.predictions, rank=predictions.rank, oracle=np.ones(4, np.int32)
    )
    for given in (predictions, of_split):
        PredictionCache(store, "code").get_or_make([given is of_split], "", given.to_arrays)
        kept = Predictions(**PredictionCache(store, "code").get_or_make([given is of_split], "", dict))
        assert (kept.predictions == given.predictions).all()
        assert (kept.oracle is None) == (given.oracle is None)
