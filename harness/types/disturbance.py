"""What disturbances did to a row of a leaderboard: cells that were left out of a figure, and figures that are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.types.json import JsonObject
from harness.types.signals import Figure, Signal

__all__ = ["RowDisturbance"]


@dataclass(frozen=True, kw_only=True)
class RowDisturbance:
    """The disturbances of one figure of a row.

    ``signals``: of each kind of signal above its limit, the strongest of the disturbed cells. ``cells``: cells that
    have the figure. ``used``: those of them that the row's figure is made from. ``marked``: the figure may be wrong:
    it differs beyond its interval from that of undisturbed cells and blocks, or nothing undisturbed is there.
    ``whole`` is the figure over all cells, ``undisturbed`` over undisturbed cells and blocks, and ``half`` half the
    width of the interval with which they were compared. They are None if there is nothing to compare.
    """

    figure: Figure
    signals: Sequence[Signal]
    cells: int
    used: int
    marked: bool
    whole: float | None = None
    undisturbed: float | None = None
    half: float | None = None

    @property
    def flags(self) -> list[str]:
        """Return the words of the disturbances, each once."""
        return list(dict.fromkeys(str(signal.flag) for signal in self.signals))

    def to_json(self) -> JsonObject:
        """Return the disturbance as JSON."""
        return {
            "figure": self.figure,
            "flags": self.flags,
            "signals": [
                {"flag": signal.flag, "name": signal.name, "value": signal.value, "limit": signal.limit}
                for signal in self.signals
            ],
            "cells": self.cells,
            "used": self.used,
            "marked": self.marked,
            "whole": self.whole,
            "undisturbed": self.undisturbed,
            "half": self.half,
        }
