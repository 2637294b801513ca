"""Tests of parity: the difference and the agreement of two sets of logits."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.measure.parity import compare
from harness.stats import wilson

LOGITS = arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.floats(-100, 100, width=32)
).filter(lambda logits: np.abs(logits).max() > 1e-3)


@given(LOGITS)
def test_equal_logits_agree_in_everything(logits: np.ndarray) -> None:
    parity = compare(logits, logits.copy(), 0.0)
    assert parity.ok
    assert parity.reason is None
    assert (parity.n, parity.max_abs_diff, parity.max_rel, parity.top1_agreement) == (len(logits), 0, 0, 1)


@given(LOGITS, st.floats(0.01, 1.0), st.data())
def test_one_changed_value_is_the_relative_difference(
    logits: np.ndarray, share: float, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, logits.shape[0] - 1))
    column = data.draw(st.integers(0, logits.shape[1] - 1))
    got = logits.astype(np.float64)
    got[row, column] += share * np.abs(logits).max()
    parity = compare(logits, got, share * 1.01)
    assert parity.max_rel == pytest.approx(share, rel=1e-6)
    assert parity.ok
    tight = compare(logits, got, share * 0.99)
    assert not tight.ok
    assert tight.reason is not None
    assert "exceeds" in tight.reason


@given(LOGITS, st.floats(0.1, 1000))
def test_the_relative_difference_has_no_unit(logits: np.ndarray, factor: float) -> None:
    reference = logits.astype(np.float64)
    got = np.roll(reference, 1, axis=0)
    assert compare(reference * factor, got * factor, 1.0).max_rel == pytest.approx(
        compare(reference, got, 1.0).max_rel
    )


def test_agreement_counts_samples_with_the_same_greatest_logit() -> None:
    reference = np.eye(4, dtype=np.float32)
    got = reference.copy()
    got[0] = got[0, ::-1]
    parity = compare(reference, got, 2.0)
    assert parity.top1_agreement == 0.75
    assert parity.agreement_low == wilson(3, 4)[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_on_either_side(bad: float) -> None:
    good = np.ones((3, 2), np.float32)
    broken = good.copy()
    broken[1, 1] = bad
    for parity in (compare(good, broken, 1e9), compare(broken, good, 1e9), compare(broken, broken, 1e9)):
        assert not parity.ok
        assert parity.max_rel is None
        assert parity.reason is not None
        assert "1 of 6 values" in parity.reason


@pytest.mark.parametrize(
    ("reference", "got", "reason"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), r"\[3, 3\] where \[3, 2\]"),
        (np.ones((3, 2)), np.ones((2, 2)), "shapes differ"),
        (np.ones(3), np.ones(3), "shapes differ"),
        (np.ones((0, 2)), np.ones((0, 2)), "nothing to compare"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "zero everywhere"),
    ],
)
def test_what_cannot_be_compared_is_not_ok_and_says_why(
    reference: np.ndarray, got: np.ndarray, reason: str
) -> None:
    parity = compare(reference, got, 1e9)
    assert not parity.ok
    assert parity.reason is not None
    assert re.search(reason, parity.reason)
