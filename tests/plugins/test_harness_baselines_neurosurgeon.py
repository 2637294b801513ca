"""Tests of Neurosurgeon: its cut against brute force over an independent model of time, its limits, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.plan.profiles.profile import Link
from harness.plan.profiles.schedule import PartCounts, schedule
from harness.testing import check_partitioner
from harness.types import DeviceInfo, Fleet, Sketch
from harness_baselines import plugin
from harness_timm.vit import ViTShape

ENTRY = {entry.name: entry for entry in plugin.harness_partitioners()}["neurosurgeon"]
SHAPE = ViTShape(image_size=(32, 32), patch_size=4, channels=3, classes=10, dim=48, depth=5, heads=3)

Line = tuple[float, float]


def fleet(lines: Any, rate: float | None = None, rtt: float = 0.0, central: int = 0) -> Fleet:
    """Return two devices with the lines (seconds, seconds per GMAC). None stands for no profile."""
    devices = []
    for name, line in zip("ab", lines, strict=True):
        details: dict[str, Any] = {}
        if line is not None:
            details["profile"] = {"fixed_s": line[0], "s_per_gmac": line[1], "error": 0.1}
        if rate is not None:
            details["link"] = {"rate_mbps": rate, "rtt_ms": rtt}
        devices.append(
            DeviceInfo(
                name=name, backend="agent", model="m", kind="cpu", cores=1, memory_bytes=1, details=details
            )
        )
    return Fleet(devices=tuple(devices), central=central)


def sketch(fleet: Fleet, shape: ViTShape = SHAPE, **params: Any) -> Sketch:
    made: Sketch = ENTRY.sketch(shape.spec(), ENTRY.params(**params), fleet)
    return made


def times(shape: ViTShape, lines: list[Line], rate: float, rtt: float, central: int) -> dict[Any, float]:
    """Return (device of front, its blocks, device of back) -> seconds, computed from the definition."""
    bytes_of = {"image": 4 * 3 * 32 * 32, "tokens": 4 * 65 * 48, "answer": 4 * 10}
    block = 65 * 12 * 48**2 + 2 * 65**2 * 48
    embedding, head = 64 * 3 * 16 * 48, 48 * 10
    found = {}
    for front in (0, 1):
        for back in (0, 1):
            for k in range(1, shape.depth) if front != back else (shape.depth,):
                work = [(front, embedding + k * block), (back, (shape.depth - k) * block + head)]
                if front == back:
                    work = [(front, embedding + shape.depth * block + head)]
                    work += [(central, 0)] if front != central else []  # hands on the answer
                sent = ["image"] * (front != central) + ["tokens"] * (front != back)
                sent += ["answer"] * (back != central)
                compute = sum(lines[d][0] + lines[d][1] * macs / 1e9 for d, macs in work)
                network = sum(rtt / 2000 + 8 * bytes_of[what] / (rate * 1e6) for what in sent)
                found[front, k, back] = compute + network
    return found


FIXED, SLOPE = st.floats(0, 0.05), st.floats(1e-3, 10)
LINES = st.lists(st.tuples(FIXED, SLOPE), min_size=2, max_size=2)


@settings(max_examples=100)
@given(LINES, st.floats(0.1, 1e4), st.floats(0, 50), st.integers(0, 1))
def test_no_way_to_run_the_model_is_predicted_faster(
    lines: list[Line], rate: float, rtt: float, central: int
) -> None:
    made = sketch(fleet(lines, rate, rtt, central))
    all_times = times(SHAPE, lines, rate, rtt, central)
    chosen = made.decisions
    at = ("ab".index(chosen["front"]), chosen["after"], "ab".index(chosen["back"]))
    assert all_times[at] == pytest.approx(min(all_times.values()), rel=1e-9)
    assert chosen["predicted_ms"] == pytest.approx(1e3 * all_times[at], abs=1e-3)
    alone = {key[0]: value for key, value in all_times.items() if key[0] == key[2]}
    assert chosen["alone_ms"]["central"] == pytest.approx(1e3 * alone[central], abs=1e-3)
    assert chosen["alone_ms"]["other"] == pytest.approx(1e3 * alone[1 - central], abs=1e-3)


@settings(max_examples=50)
@given(LINES, st.floats(0.1, 1e4), st.floats(0, 50), st.integers(0, 1))
def test_an_estimate_of_its_parts_says_what_it_predicts(
    lines: list[Line], rate: float, rtt: float, central: int
) -> None:
    made = sketch(fleet(lines, rate, rtt, central))
    assert made.placement is not None
    places = made.placement.device_of
    pieces = [
        PartCounts(
            name=p.name,
            inputs=p.inputs,
            macs=p.macs,
            weight_bytes=p.weight_bytes,
            output_bytes=p.output_bytes,
        )
        for p in made.parts
    ]

    def compute(piece: PartCounts) -> float:
        fixed, slope = lines[places[piece.name]]
        return fixed + slope * piece.macs / 1e9

    links = {1 - central: Link(rate_mbps=rate, rtt_ms=rtt)}
    scheduled_s = schedule(pieces, places, central, compute, links, 4 * 3 * 32 * 32)
    assert 1e3 * scheduled_s == pytest.approx(made.decisions["predicted_ms"], rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("lines", "rate", "expected"),
    [
        ([(0, 1), (0, 1)], 1.0, {"whole": 0}),  # nothing to gain
        ([(0, 1), (0, 1e-3)], 0.01, {"whole": 0}),  # a link too slow for all
        ([(0, 10), (0, 1e-3)], 1e4, {"whole": 1, "answer": 0}),  # a fast one to a fast device
    ],
)
def test_the_ends_leave_all_on_one_device(lines: list[Line], rate: float, expected: dict[str, int]) -> None:
    made = sketch(fleet(lines, rate))
    assert made.placement is not None
    assert made.placement.device_of == expected
    assert [part.name for part in made.parts] == list(expected)


def test_tokens_smaller_than_the_image_are_sent_instead() -> None:
    narrow = ViTShape(image_size=(64, 64), patch_size=16, channels=3, classes=10, dim=24, depth=6, heads=3)
    made = sketch(fleet([(0, 20), (0, 1)], rate=5), narrow)
    assert made.placement is not None
    assert made.placement.device_of == {"front": 0, "back": 1}
    assert made.decisions["after"] == 1
    assert sum(part.params for part in made.parts) == narrow.params()
    assert sum(part.macs for part in made.parts) == narrow.macs()
    json.dumps(made.decisions)


def test_a_given_link_stands_for_the_devices_own() -> None:
    lines = [(0, 10), (0, 1e-3)]
    assert sketch(fleet(lines, rate=1e4), rate_mbps=0.001).decisions["back"] == "a"
    assert sketch(fleet(lines), rate_mbps=1e4).decisions["back"] == "b"
    slow = sketch(fleet(lines, rate=1e4, rtt=5.0), rtt_ms=1e4)
    assert (slow.decisions["back"], slow.decisions["link"]) == ("a", {"rate_mbps": 1e4, "rtt_ms": 1e4})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (fleet([(0, 1), None], 16), "profile of b .*`harness devices profile b`"),
        (fleet([(0, 1), (0, 1)]), "link between the devices.*`harness devices profile NAME`"),
        (Fleet(devices=fleet([(0, 1), (0, 1)], 16).devices[:1]), "two devices, not 1"),
    ],
)
def test_what_it_does_not_know_it_asks_for(given: Fleet, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sketch(given)


def test_a_model_of_unknown_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="dimensions of a ViT"):
        ENTRY.sketch(None, ENTRY.params(), fleet([(0, 1), (0, 1)], 16))


@pytest.mark.parametrize("given", [{"rate_mbps": 0}, {"rtt_ms": -1}, {"after": 2}])
def test_wrong_parameters_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ENTRY.params(**given)


@pytest.mark.parametrize(
    ("lines", "rate"), [([(0, 1), (0, 1)], 1.0), ([(0, 10), (0, 1e-3)], 1e4), ([(0, 10), (0, 1e-3)], 300.0)]
)
def test_it_keeps_the_contract_whole_and_cut(lines: list[Line], rate: float) -> None:
    check_partitioner(ENTRY, fleet=fleet(lines, rate))
