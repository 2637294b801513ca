"""Tests of the data that a plan chooses: what a method's block inherits, and what happens where data is absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SuiteError
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.render.outcome import absence_lines
from harness.suite.loading import load_suite
from harness.types.plan import Plan, PrepareHost

SUITE = """\
suite: mine
data:
  name: huggingface
  repo: here/small
  image_column: img
  label_column: fine
  train_split: learn
  shape: [3, 32, 32]
  num_classes: 5
  mean: [0.1, 0.2, 0.3]
  std: [0.4, 0.5, 0.6]
  note: made by hand
  crop: none
  image_size: 16
  validation: 0.25
  shots: 3
defaults: {train: {epochs: 1}}
methods:
  base: {build: {vit: {patch_size: 4, dim: 12, depth: 1, heads: 3}}}
  other: {build: {vit: {patch_size: 4, dim: 12, depth: 1, heads: 3}}, data: OTHER}
  unused: {build: {vit: {patch_size: 4, dim: 12, depth: 1, heads: 3}}, data: {repo: far/away, num_classes: 2}}
devices: {here: {backend: cpu}}
run: [{methods: [base, other], devices: [here]}]
"""


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


@pytest.fixture
def plan(plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def make(other: str, *only: str) -> Plan:
        (tmp_path / "mine.yaml").write_text(SUITE.replace("OTHER", other))
        return make_plan(load_suite(tmp_path / "mine.yaml"), plugins, PrepareHost(), only).plan

    return make


def data_of(plan: Plan, method: str) -> tuple[dict[str, Any], Any]:
    """Return the parameters of the method's data set, and the choice of images."""
    facts = next(cell.task.data for cell in plan.cells if cell.method == method)
    return dict(facts.dataset.params), facts.choice


def test_another_source_inherits_the_choice_of_images_and_no_facts(plan) -> None:
    params, choice = data_of(plan("{repo: far/away, num_classes: 7}"), "other")
    assert (params["repo"], params["num_classes"], params["crop"]) == ("far/away", 7, "none")
    facts = ("shape", "image_column", "label_column", "mean", "std", "note", "config", "revision", "path")
    assert not any(params[fact] for fact in facts)
    assert params["train_split"] == "train"
    assert (choice.image_size, choice.validation, choice.shots) == (16, 0.25, 3)


@pytest.mark.parametrize(
    "block", ["{shots: 2}", "{repo: here/small, shots: 2}", "{path: elsewhere, shots: 2}"]
)
def test_the_same_source_inherits_all_that_is_not_written(plan, block: str) -> None:
    made = plan(block)
    base, first = data_of(made, "base")
    params, choice = data_of(made, "other")
    assert {**params, "path": None} == {**base, "path": None}
    assert (first.shots, choice.shots, choice.validation) == (3, 2, 0.25)


def test_another_data_set_inherits_nothing(plan) -> None:
    params, choice = data_of(plan("{name: imagefolder, path: far, num_classes: 7, image_size: 16}"), "other")
    assert (params["crop"], params["shape"], choice.shots) == ("center", None, None)


def test_an_unknown_data_set_of_a_method_is_one_line(plan) -> None:
    with pytest.raises(
        SuiteError, match=r"mine.yaml:\d+: methods.other.data.name: unknown dataset 'hugingface'"
    ):
        plan("{name: hugingface, repo: far/away}")


def test_a_wrong_parameter_of_a_data_set_names_its_place_once(plan, tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        plan("{name: parquet, num_classes: 2}")
    assert str(caught.value).endswith("methods.other.data.path: missing")
    assert str(caught.value).count("mine.yaml") == 1


def test_cells_say_which_data_they_wait_for(plan, tmp_path: Path) -> None:
    """`unused` is in no run block; the data of `other` has no command of `base` in its reason."""
    made = plan("{name: digits, image_size: 16}")
    (reason,) = made.missing_data
    assert reason.startswith(
        f"{tmp_path}/mine.yaml:2: data: here/small: not in the Hugging Face cache; download"
    )
    base, other = made.cells
    assert base.absent == base.skipped == reason.partition("data: ")[2]
    assert other.absent is other.skipped is None
    assert plan("{name: digits, image_size: 16}", "other").missing_data == ()


def test_absent_data_are_listed_once_with_the_cells_that_wait(plan) -> None:
    cells = plan("{repo: far/away, num_classes: 7}").cells
    lines = list(absence_lines([*cells, *cells]))
    assert lines[0].startswith("skipped: 2 cells of base: here/small: not in the Hugging Face cache")
    assert lines[1].startswith("skipped: 2 cells of other: far/away: not in the Hugging Face cache")
    assert len(lines) == 2
