"""Whether a profile can time a part: its runtime, its precision, and the range of its points."""

from __future__ import annotations

from harness.plan.profiles.line import Line
from harness.plan.profiles.profile import Profile

__all__ = ["bounded_s", "mismatch", "outside"]

ASSUMED = "float32"
"""The precision of a profile that does not state its own."""


def mismatch(profile: Profile, runtime: str, precision: str) -> str | None:
    """Return why a profile has no figure for a runtime and a precision; ``None`` if it has."""
    if profile.runtime != runtime:
        own = f"was measured with {profile.runtime}" if profile.runtime else "does not say its runtime"
        return f"{profile.label} {own}: no figure for {runtime}"
    if (profile.precision or ASSUMED) != precision:
        own = f"was measured in {profile.precision}" if profile.precision else "does not say its precision"
        return f"{profile.label} {own}: no figure for {precision}"
    return None


def outside(profile: Profile, name: str, gmacs: float) -> str:
    """Return that the GMACs of a part are outside the points of a profile."""
    line = profile.line
    return (
        f"{name} has {gmacs:.3g} GMACs, outside the points of {profile.label}: "
        f"{line.low:.3g} to {line.high:.3g} GMACs"
    )


def bounded_s(line: Line, gmacs: float, side: int, *, error: bool = True) -> float:
    """Return the seconds of a part: the line's value (``side`` 0), its least (-1) or its greatest (1).

    A part within the points is off by at most the line's error, where ``error`` is set. A part below them takes at
    least no time and at most that of the smallest point, since more MACs take no less time.

    Raises:
        ValueError: the part is above the points, where nothing bounds its time.
    """
    share = 1 + side * line.error if error else 1
    if line.covers(gmacs):
        return line.at(gmacs) * max(0.0, share)
    if gmacs > line.high:
        raise ValueError(f"{gmacs} GMACs are above the points")
    if side < 0:
        return 0.0
    return line.at(gmacs if side == 0 else line.low) * (share if side else 1)
