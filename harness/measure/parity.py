"""Check whether an exported artifact gives the logits of the module from which it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness import stats
from harness.types.figures import Parity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Parity", "compare"]


def compare(reference: NDArray[Any], got: NDArray[Any], tolerance: float) -> Parity:
    """Compare logits, both [n, classes].

    ``max_rel`` is max |a - b| / max |b| over all samples and classes, where b is the reference. The result is ``ok``
    if ``max_rel`` is at most ``tolerance``. It is never ok if the shapes differ, if there are no samples, or if
    either side has NaN or infinity. ``reason`` then says why, and the figures are ``None``.
    """

    def refused(reason: str) -> Parity:
        return Parity(
            n=len(reference),
            max_abs_diff=None,
            max_rel=None,
            top1_agreement=None,
            agreement_low=None,
            tolerance=tolerance,
            ok=False,
            reason=reason,
        )

    if reference.ndim != 2 or reference.shape != got.shape:
        return refused(f"shapes differ: {list(got.shape)} where {list(reference.shape)} was due")
    if not reference.size:
        return refused("nothing to compare")
    for name, values in (("the reference", reference), ("the output", got)):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            return refused(f"{bad} of {values.size} values of {name} are not finite")

    a, b = got.astype(np.float64), reference.astype(np.float64)
    difference = float(np.abs(a - b).max())
    scale = float(np.abs(b).max())
    if scale == 0:
        return refused("the reference is zero everywhere")
    relative = difference / scale
    same = int(np.count_nonzero(a.argmax(axis=1) == b.argmax(axis=1)))
    ok = relative <= tolerance
    return Parity(
        n=len(b),
        max_abs_diff=difference,
        max_rel=relative,
        top1_agreement=same / len(b),
        agreement_low=stats.wilson(same, len(b))[0],
        tolerance=tolerance,
        ok=ok,
        reason=None if ok else f"relative difference {relative:.3g} exceeds {tolerance:g}",
    )
