"""Tests of the end times of steps that share devices and links, and of the walk over a graph of parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.types import GraphPart, TensorSpec
from harness.types.walk import in_order
from harness.worker.timeline import Step, ends


def test_a_step_waits_for_its_inputs_and_for_its_resource() -> None:
    steps = [
        Step("send a", "link", (), 2.0, latency=1.0),
        Step("send b", "link", (), 2.0, latency=1.0),
        Step("a", "device", ("send a",), 5.0),
        Step("b", "device", ("send b",), 1.0),
        Step("fuse", "central", ("a", "b"), 1.0),
    ]
    # the link is free for b at 2, so b is there at 5; the device is busy with a from 3 to 8
    assert ends(steps) == {"send a": 3.0, "send b": 5.0, "a": 8.0, "b": 9.0, "fuse": 10.0}


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 10), st.floats(0, 10)), max_size=8))
def test_a_resource_is_never_used_twice_at_once(work: list[tuple[int, float, float]]) -> None:
    end = ends(Step(i, resource, (), busy, latency) for i, (resource, busy, latency) in enumerate(work))
    for used in range(3):
        alone = [(i, busy, latency) for i, (resource, busy, latency) in enumerate(work) if resource == used]
        done = 0.0
        for i, busy, latency in alone:
            done += busy
            assert end[i] == done + latency


def test_parts_get_the_outputs_of_their_sources() -> None:
    parts = [
        GraphPart(name=name, inputs=inputs, output=TensorSpec(shape=(1,)))
        for name, inputs in {"a": ("image",), "b": ("image",), "sum": ("b", "a")}.items()
    ]
    values = {"image": 10}
    for part, inputs in in_order(parts, values):
        values[part.name] = sum(inputs) + len(values)
    assert values == {"image": 10, "a": 11, "b": 12, "sum": 26}
