"""Tests of ED-ViT's Algorithm 1 (sizes under a budget) and of the placers, without torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.types import DeviceInfo, Fleet, ModuleSpec, PartSketch, Placement, Sketch
from harness_edvit import plugin
from harness_timm.vit import ViTShape

PLACERS = {entry.name: entry for entry in plugin.harness_placers()}
(EDVIT,) = plugin.harness_partitioners()
NOWHERE = Fleet(devices=())


def vit(dim: int = 768, depth: int = 12, heads: int = 12, classes: int = 10) -> ModuleSpec:
    shape = ViTShape(
        image_size=(224, 224), patch_size=16, channels=3, classes=classes, dim=dim, depth=depth, heads=heads
    )
    return shape.spec()


def heads_of(parts: int, budget: float = 180, **more: Any) -> list[int]:
    params = plugin.EDViTParams(parts=parts, memory_budget_mb=budget, **more)
    found: list[int] = EDVIT.sketch(vit(), params, NOWHERE).decisions["heads"]
    return found


# --- Algorithm 1 -----------------------------------------------------------------------------------


def algorithm_1(
    heads: int, hp: list[int], size: Callable[[int], float], budget: float
) -> tuple[list[int], int]:
    """Return h - hp and the passes of the printed while loop, where devices can take every sub-model."""
    hp, passes = list(hp), 0
    while True:
        passes += 1
        sizes = [size(heads - removed) for removed in hp]  # lines 7 to 9
        if sum(sizes) <= budget:  # lines 11 to 15
            return [heads - removed for removed in hp], passes
        hp[sizes.index(max(sizes))] += 1  # line 17


def mib(heads: int) -> float:
    """Return the size of a ViT-Base without a head that keeps ``heads`` of its 12 heads, counted by hand."""
    d = 64 * heads
    block = 4 * d * d + 4 * d + 2 * 4 * d * d + 5 * d + 4 * d
    return 4 * (12 * block + 768 * d + d + d + 197 * d + 2 * d) / 2**20


PUBLISHED = {1: (6, [6]), 2: (6, [6, 6]), 3: (8, [4] * 3), 5: (9, [3] * 5), 10: (10, [2] * 10)}
"""N -> the initial hp, and the heads of each sub-model whose size the paper prints."""


@pytest.mark.parametrize("parts", PUBLISHED)
def test_algorithm_1_from_the_initial_hp_gives_the_published_sizes(parts: int) -> None:
    hp, heads = PUBLISHED[parts]
    assert heads_of(parts, hp=hp) == heads_of(parts, hp=[hp] * parts) == heads
    assert algorithm_1(12, [hp] * parts, mib, 180) == (heads, 1)


@pytest.mark.parametrize("hp", [0, 6, 8])
def test_the_case_study_of_100_mb_comes_out_of_algorithm_1(hp: int) -> None:
    assert sorted(heads_of(3, 100, hp=hp)) == [3, 4, 4]


@given(hp=st.lists(st.integers(0, 11), min_size=1, max_size=10), budget=st.floats(26, 700))
@settings(max_examples=60, deadline=None)
def test_any_initial_hp_gives_what_the_printed_loop_does(hp: list[int], budget: float) -> None:
    assert heads_of(len(hp), budget, hp=hp) == algorithm_1(12, hp, mib, budget)[0]


@pytest.mark.parametrize(
    ("hp", "message"),
    [
        ([1, 2], "hp: 2 values for 3 sub-models; write one number, or 3"),
        ([], "hp: 0 values for 3 sub-models; write one number, or 3"),
        (12, "hp: 12 of 12 heads leaves none; allowed are 0 to 11"),
        ([0, 0, 99], "hp: 99 of 12 heads leaves none; allowed are 0 to 11"),
        (-1, "-1 is no number of heads"),
        (True, "True is no number of heads"),
        ("6", "'6' is no number of heads"),
        ([6, 6.5, 6], r"\[6, 6.5, 6\] is no number of heads"),
    ],
)
def test_a_wrong_hp_is_refused(hp: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heads_of(3, hp=hp)


@pytest.mark.parametrize(("parts", "heads"), [(1, 6), (2, 6), (3, 4), (5, 3), (10, 2)])
def test_uniform_divisors_prune_all_sub_models_alike(parts: int, heads: int) -> None:
    assert heads_of(parts, policy="uniform-divisors") == [heads] * parts


def test_uniform_divisors_take_no_hp() -> None:
    with pytest.raises(ValueError, match="hp needs policy: largest-first"):
        heads_of(2, policy="uniform-divisors", hp=6)


@pytest.mark.parametrize(
    ("parts", "heads"), [(1, [8]), (3, [5, 5, 5]), (5, [3, 4, 4, 4, 4]), (10, [2] * 3 + [3] * 7)]
)
def test_without_an_hp_the_loop_starts_from_all_heads(parts: int, heads: list[int]) -> None:
    assert heads_of(parts) == algorithm_1(12, [0] * parts, mib, 180)[0] == heads


def test_more_parts_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="parts: 11 is more than the 10 classes; allowed are 1 to 10"):
        heads_of(11)


@pytest.mark.parametrize("policy", ["largest-first", "uniform-divisors"])
def test_an_impossible_budget_is_refused_and_the_smallest_named_fits(policy: str) -> None:
    with pytest.raises(ValueError, match=r"memory_budget_mb: 5 .* smallest that fits is ([\d.]+)") as refused:
        heads_of(4, 5, policy=policy)
    smallest = float(str(refused.value).split()[-1])
    assert heads_of(4, smallest, policy=policy) == [1] * 4
    with pytest.raises(ValueError, match="too small"):
        heads_of(4, smallest - 0.002, policy=policy)


def test_devices_without_memory_make_sub_models_smaller_or_are_refused() -> None:
    params = plugin.EDViTParams(parts=2, memory_budget_mb=180, policy="uniform-divisors")
    assert EDVIT.sketch(vit(), params, fleet([100, 100])).decisions["heads"] == [6, 6]
    assert EDVIT.sketch(vit(), params, fleet([100, 10])).decisions["heads"] == [4, 4]
    with pytest.raises(ValueError, match="devices have no memory"):
        EDVIT.sketch(vit(), params, fleet([1, 1]))


def test_a_source_of_unknown_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="edvit needs the dimensions"):
        EDVIT.sketch(None, plugin.EDViTParams(parts=2), NOWHERE)


# --- placers ---------------------------------------------------------------------------------------


def fleet(memory_mb: list[int]) -> Fleet:
    return Fleet(
        devices=tuple(
            DeviceInfo(name=f"d{i}", backend="b", model="m", kind="cpu", cores=1, memory_bytes=mb * 2**20)
            for i, mb in enumerate(memory_mb)
        )
    )


def sketch(parts: list[tuple[int, int]]) -> Sketch:
    """Return a sketch with ``parts`` of (10^9 MACs, MiB) each, and a last part that needs nothing."""
    made = [
        PartSketch(
            name=f"p{i}",
            inputs=("image",),
            params=0,
            macs=macs * 10**9,
            weight_bytes=mb * 2**20,
            output_bytes=4,
        )
        for i, (macs, mb) in enumerate(parts)
    ]
    names = tuple(part.name for part in made)
    last = PartSketch(name="answer", inputs=names, params=0, macs=0, weight_bytes=0, output_bytes=4)
    return Sketch(parts=(*made, last))


def place(
    name: str, parts: list[tuple[int, int]], energy: list[int], memory: list[int], samples: int = 1
) -> Placement:
    params = plugin.PlaceParams(energy_gmacs=tuple(energy), memory_mb=tuple(memory), samples=samples)
    placed: Placement = PLACERS[name].place(sketch(parts), fleet([0] * len(energy)), params)
    return placed


def left(parts: list[tuple[int, int]], energy: list[int], memory: list[int], chosen: list[int]) -> int | None:
    """Return min_i E_i - sum e_j of a placement, computed by hand, or None if it violates Eq. 1."""
    e, m = list(energy), list(memory)
    for (macs, mb), device in zip(parts, chosen, strict=True):
        e[device] -= macs
        m[device] -= mb
    return min(e) if min(e) >= 0 and min(m) >= 0 else None


INSTANCES = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
        st.lists(st.integers(0, 20), min_size=n, max_size=n),
        st.lists(st.integers(0, 20), min_size=n, max_size=n),
    )
)


def tried(function: Callable[[], Placement], parts: int) -> list[int] | None:
    try:
        placed = function().device_of
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        return None
    assert len(placed) == parts + 1
    return [placed[f"p{i}"] for i in range(parts)]


@settings(max_examples=150, deadline=None)
@given(INSTANCES)
@example(([(8, 0)], [17, 17, 17], [0, 0, 0]))  # an error of HiGHS in scipy 1.17
def test_exact_equals_brute_force(instance: tuple[list[tuple[int, int]], list[int], list[int]]) -> None:
    parts, energy, memory = instance
    values = [
        left(parts, energy, memory, list(chosen))
        for chosen in itertools.product(range(len(energy)), repeat=len(parts))
    ]
    best = max((value for value in values if value is not None), default=None)
    chosen = tried(lambda: place("exact", parts, energy, memory), len(parts))
    assert (chosen is None) == (best is None)
    if chosen is not None:
        assert left(parts, energy, memory, chosen) == best


@settings(max_examples=200, deadline=None)
@given(INSTANCES)
@pytest.mark.parametrize("name", ["greedy", "greedy-as-printed"])
def test_a_greedy_places_every_part_within_what_devices_have_or_refuses(
    name: str, instance: tuple[list[tuple[int, int]], list[int], list[int]]
) -> None:
    parts, energy, memory = instance
    chosen = tried(lambda: place(name, parts, energy, memory), len(parts))
    assert chosen is None or left(parts, energy, memory, chosen) is not None


@settings(max_examples=200, deadline=None)
@given(INSTANCES)
def test_where_the_printed_algorithm_succeeds_so_does_the_repaired_one(
    instance: tuple[list[tuple[int, int]], list[int], list[int]],
) -> None:
    printed, repaired = (
        tried(lambda name=name: place(name, *instance), len(instance[0]))
        for name in ("greedy-as-printed", "greedy")
    )
    assert printed is None or printed == repaired


def test_the_printed_algorithm_loses_a_part_and_says_so() -> None:
    parts, energy, memory = [(5, 9), (4, 1)], [20, 10], [5, 20]
    with pytest.raises(ValueError, match=r"lost p0: .* greedy tries the next device"):
        place("greedy-as-printed", parts, energy, memory)
    assert place("greedy", parts, energy, memory).device_of == {"answer": 0, "p0": 1, "p1": 0}


def test_the_heterogeneous_case_of_ten_sub_models() -> None:
    """Appendix E.3: one big device takes three, seven normal ones one each, two stay idle."""
    device_of = (
        PLACERS["greedy"]
        .place(
            sketch([(48, 10)] * 10),
            fleet([100] * 10),
            plugin.PlaceParams(energy_gmacs=(160, *[50] * 7, 10, 10)),
        )
        .device_of
    )
    chosen = [device_of[f"p{i}"] for i in range(10)]
    assert sorted(chosen) == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_samples_multiply_the_energy_that_is_needed() -> None:
    with pytest.raises(ValueError, match=r"greedy found no placement: no device has 1.00 MiB and 6 GMACs"):
        place("greedy", [(2, 1)], [5], [9], samples=3)
    assert place("greedy", [(2, 1)], [6], [9], samples=3).device_of["p0"] == 0


@pytest.mark.parametrize("name", PLACERS)
def test_by_default_the_load_is_spread(name: str) -> None:
    placed = PLACERS[name].place(sketch([(3, 1)] * 4), fleet([100] * 4), plugin.PlaceParams())
    assert {placed.device_of[f"p{i}"] for i in range(4)} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", PLACERS)
def test_values_for_another_number_of_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="energy_gmacs: 2 values are given, but the fleet has 3 devices"):
        PLACERS[name].place(sketch([(1, 1)]), fleet([9] * 3), plugin.PlaceParams(energy_gmacs=(1, 2)))
