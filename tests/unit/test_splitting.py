"""Tests of the shared code of methods that split by classes: groups, images, sub-models, and the fusion's graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.methods import (
    ArraySplit,
    Piece,
    class_groups,
    even_shares,
    fused_partition,
    fused_sketch,
    image_sketch,
    own_images,
    resampled,
    resumable,
    seeded,
)
from harness.testing import make_context, make_model
from harness.types import FitResult, Lineage, Model, ModuleSpec, TensorSpec

LABELS = np.repeat([0, 1, 2, 3], [30, 40, 50, 60])
DATA = ArraySplit(LABELS[:, None].astype(np.float32), LABELS)


# --- classes and their images ---------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 99))
def test_groups_are_a_partition_of_the_classes_with_the_sizes_given(total: int, n: int, seed: int) -> None:
    sizes = even_shares(total, n)
    assert sum(sizes) == total
    assert sorted(sizes, reverse=True) == sizes
    assert sizes[0] - sizes[-1] <= 1
    for draw in (np.random.RandomState, np.random.default_rng):
        groups = class_groups(sizes, draw(seed))
        assert [len(group) for group in groups] == sizes
        assert sorted(label for group in groups for label in group) == list(range(total))
        assert all(sorted(group) == list(group) for group in groups)
        assert groups == class_groups(sizes, draw(seed))


def test_the_streams_of_the_two_generators_stay_what_they_are() -> None:
    """Published results with a seed must be reproducible, so the drawn groups are pinned."""
    assert class_groups([3, 3, 2, 2], np.random.RandomState(0)) == ((2, 4, 8), (1, 6, 9), (3, 7), (0, 5))
    assert class_groups([3, 3, 2, 2], np.random.default_rng([0, 1])) == ((1, 3, 9), (6, 7, 8), (0, 4), (2, 5))


def test_own_images_are_labelled_in_the_order_of_the_group() -> None:
    images = own_images(DATA, (3, 1))
    assert [{0: 3, 1: 1}[label] for label in images.labels] == images.batch(range(100))[:, 0].tolist()
    assert len(images) == 100


def test_a_class_without_images_is_named_only_if_somebody_needs_it() -> None:
    assert len(own_images(DATA, (1, 5))) == 40
    with pytest.raises(ValueError, match="a method: class 5 has no training image"):
        own_images(DATA, (1, 6, 5), needed_by="a method")


def test_resampled_images_are_the_own_ones_and_a_few_of_each_other_class() -> None:
    images, counts = resampled(DATA, (1, 3), 4, None, np.random.RandomState(0))
    assert counts.tolist() == [2, 40, 2, 60]  # 180 / 40 - 2 -> 2 of each other class
    truth = images.batch(range(len(images)))[:, 0].astype(int)
    assert [{1: 1, 3: 2}.get(label, 0) for label in truth] == images.labels.tolist()
    _, counts = resampled(DATA, (2,), 4, 7, np.random.default_rng(0))
    assert counts.tolist() == [7, 7, 50, 7]


# --- sub-models -----------------------------------------------------------------------------------


def test_seeded_weights_leave_the_global_stream_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (seeded(lambda: nn.Linear(4, 4), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_a_sub_model_is_made_once_for_its_name_its_source_and_its_facts(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, recipe={"epochs": 0})
    source, made = make_model(ctx), []

    def make() -> Model:
        made.append(1)
        return source

    first = resumable(ctx, "sub1", make, source=source, classes=(0, 2), epochs=3)
    again = resumable(ctx, "sub1", make, source=source, epochs=3, classes=(0, 2))
    assert len(made) == 1
    assert all(map(torch.equal, first.module.state_dict().values(), again.module.state_dict().values()))
    resumable(ctx, "sub2", make, source=source, classes=(0, 2), epochs=3)
    resumable(ctx, "sub1", make, source=source, classes=(0, 1), epochs=3)
    with torch.no_grad():
        next(source.module.parameters()).add_(1)
    resumable(ctx, "sub1", make, source=source, classes=(0, 2), epochs=3)
    assert len(made) == 4


# --- their fusion ---------------------------------------------------------------------------------


class Size:
    """Dimensions that count to fixed figures."""

    def params(self) -> int:
        return 7

    def macs(self) -> int:
        return 11

    def weight_bytes(self) -> int:
        return 29


def test_every_sub_model_reads_the_image_and_the_fusion_reads_all_of_them() -> None:
    spec = ModuleSpec(factory="torch.nn:Identity")
    source = Model(module=nn.Identity(), spec=spec, input=TensorSpec(shape=(1, 8, 8)), classes=3)
    subs = [Piece(module=nn.Identity(), spec=spec, output=(width,)) for width in (4, 5)]
    answer = Piece(module=nn.Identity(), spec=spec, output=(3,))
    step = Lineage(stage="partition", entry="split", params={})
    made = fused_partition(source, subs, answer, missing="mean", lineage=[step], groups=[[2, 0], [1]])
    assert [(part.name, [edge.source for edge in part.inputs]) for part in made.parts] == [
        ("sub1", ["image"]),
        ("sub2", ["image"]),
        ("fusion", ["sub1", "sub2"]),
    ]
    assert [edge.missing for part in made.parts for edge in part.inputs] == [None, None, "mean", "mean"]
    assert [part.output.shape for part in made.parts] == [(4,), (5,), (3,)]
    assert (made.classes, made.lineage, made.groups) == (3, (step,), ((2, 0), (1,)))

    sketched = fused_sketch(
        [image_sketch(f"sub{i}", Size(), width, spec) for i, width in enumerate((4, 5), 1)],
        params=10,
        macs=9,
        classes=3,
        spec=None,
        decisions={"why": "so"},
    )
    assert [(part.name, part.inputs) for part in sketched.parts] == [
        (part.name, tuple(edge.source for edge in part.inputs)) for part in made.parts
    ]
    assert [part.output_bytes for part in sketched.parts] == [16, 20, 12]
    assert [(p.params, p.macs, p.weight_bytes) for p in sketched.parts] == [
        (7, 11, 29),
        (7, 11, 29),
        (10, 9, 40),
    ]


def test_a_step_costs_what_its_trainings_cost_together() -> None:
    fits = [FitResult(image_passes=n, train_macs=10 * n, train_s=n / 2, epochs=1) for n in (1, 2)]
    part = Lineage.of("partition", "part", {}, fits)
    whole = Lineage.of("partition", "whole", {"n": 2}, [part, *fits], {"parts": 1})
    assert (part.image_passes, part.train_macs, part.train_s, part.notes) == (3, 30, 1.5, {})
    assert (whole.image_passes, whole.train_macs, whole.train_s) == (6, 60, 3.0)
    assert (whole.params, whole.notes) == ({"n": 2}, {"parts": 1})
