"""Tests of the offset of another machine's clock, found by round trips over a simulated network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.machine.clock import clock_of

DELAYS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=10)


class Network:
    """Two clocks and the delays of each round trip: there and back, in nanoseconds."""

    def __init__(self, offset: int, delays: list[tuple[int, int]]) -> None:
        self.now, self._offset, self._delays = 10**12, offset, iter(delays)

    def here(self) -> int:
        return self.now

    def there(self) -> int:
        out, back = next(self._delays)
        self.now += out
        read = self.now + self._offset
        self.now += back
        return read


@given(st.integers(-(10**15), 10**15), DELAYS)
def test_the_true_offset_is_within_the_error_which_is_half_of_the_fastest_trip(
    offset: int, delays: list[tuple[int, int]]
) -> None:
    network = Network(offset, delays)
    clock = clock_of(network.there, len(delays), network.here)
    assert abs(clock.offset_ns - offset) <= clock.error_ns
    assert clock.error_ns == min(map(sum, delays)) // 2 + 1


def test_an_even_trip_gives_the_offset_itself() -> None:
    network = Network(-5, [(900, 100), (40, 40), (100, 900)])
    assert clock_of(network.there, 3, network.here).offset_ns == -5


def test_no_answer_is_the_callers_error() -> None:
    def silent() -> int:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        clock_of(silent, 3)
