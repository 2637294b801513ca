"""Tests of the papers' suites with made data: absent, present and partly there, and a method of each from end to end."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import paper_data
from harness.data.opened import open_data
from harness.plan.planner import make_plan
from harness.plugins import Plugins, load_plugins
from harness.suite.loading import load_suite
from harness.suite.shipped import find_suite
from harness.types.plan import Plan, PrepareHost
from harness_timm.vit import ViTShape

SOURCES = {
    "edgevit": {
        "data/cat-and-dog": ["vitbase", "n?", "f?", "f?-[T123]"],
        "data/nature-scene": ["*-scene"],
        "data/animal": ["*-animal"],
    },
    "tformer": {"ILSVRC/imagenet-1k": ["*"]},
    "devit": {
        "data/stanford-cars": ["*-cars"],
        "data/oxford-102-flower": ["*-flowers"],
        "data/imagenet-1k": ["*-imagenet", "twins-svt-s", "twins-pcpvt-s"],
        "uoft-cs/cifar100": ["*"],
    },
    "edvit": {"data/gtzan": ["*-gtzan"], "uoft-cs/cifar10": ["*"]},
}
"""Paper -> its data sets, each with the methods that run on it. A method belongs to the first that names it."""

EVERYTHING = [(paper, source) for paper, sources in SOURCES.items() for source in sources]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all data sets of the papers: the hub's cache in ``hf``, and ``data``."""
    folder = tmp_path_factory.mktemp("papers")
    for repo in paper_data.HUB:
        paper_data.make_repo(folder / "hf", repo)
    for path in paper_data.FOLDERS:
        paper_data.make_folder(folder, path)
    return folder


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts data sets into the current folder and the hub's cache, which are empty before."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # of child processes
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf" / "datasets")

    def put(*sources: str) -> None:
        for source in sources:
            if source in paper_data.HUB:
                folders = (paper_data.repo_folder(base / "hf", source) for base in (made, tmp_path))
                shutil.copytree(*folders)
            else:
                (tmp_path / source).parent.mkdir(exist_ok=True)
                (tmp_path / source).symlink_to(made / source)

    return put


def plan_of(paper: str, plugins: Plugins, *only: str) -> Plan:
    return make_plan(load_suite(find_suite(f"papers/{paper}")), plugins, PrepareHost(), only).plan


def source_of(paper: str, method: str) -> str:
    """Return the data set on which a method runs."""
    return next(
        source
        for source, patterns in SOURCES[paper].items()
        if any(fnmatch.fnmatchcase(method, pattern) for pattern in patterns)
    )


# --- planning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", SOURCES)
def test_all_cells_are_planned_without_data_and_each_says_what_it_needs(
    paper: str, plugins: Plugins, data: Callable[..., None]
) -> None:
    plan = plan_of(paper, plugins)
    assert len(plan.missing_data) == len(SOURCES[paper])
    assert all(cell.impossible is None for cell in plan.cells)
    for cell in plan.cells:
        assert cell.absent is not None
        assert cell.absent.startswith(f"{source_of(paper, cell.method)}: not ")
    assert {source_of(paper, cell.method) for cell in plan.cells} == set(SOURCES[paper])


@pytest.mark.parametrize("paper", SOURCES)
def test_all_cells_are_planned_with_all_data(paper: str, plugins: Plugins, data: Callable[..., None]) -> None:
    """Methods in no run block are planned too: those of Table 1 of ED-ViT and DeViT are counted only."""
    data(*paper_data.HUB, *paper_data.FOLDERS)
    plan = plan_of(paper, plugins)
    assert plan.missing_data == ()
    assert all(cell.skipped is None for cell in plan.cells)
    for cell in plan.cells:
        source = source_of(paper, cell.method)
        layout = paper_data.HUB.get(source) or paper_data.FOLDERS[source]
        classes = (
            next(iter(layout.labels.values())) if isinstance(layout, paper_data.Repo) else layout.classes
        )
        assert cell.task.data.classes == classes
        assert cell.task.data.fingerprint


@pytest.mark.parametrize(("paper", "missing"), EVERYTHING)
def test_only_the_cells_of_a_data_set_wait_for_it(
    paper: str, missing: str, plugins: Plugins, data: Callable[..., None]
) -> None:
    data(*(source for source in SOURCES[paper] if source != missing))
    plan = plan_of(paper, plugins)
    assert all(cell.impossible is None for cell in plan.cells)
    waiting = {cell.method for cell in plan.cells if cell.absent}
    assert waiting == {cell.method for cell in plan.cells if source_of(paper, cell.method) == missing}
    (reason,) = plan.missing_data
    assert f"{missing}: not " in reason


def test_data_that_no_chosen_method_needs_is_not_missing(plugins: Plugins, data: Callable[..., None]) -> None:
    """ImageNet of ED-ViT's Table 1 is in no run block; --only leaves the other data sets of EdgeViT out."""
    data("uoft-cs/cifar10", "data/gtzan", "data/nature-scene")
    assert plan_of("edvit", plugins).missing_data == ()
    assert plan_of("edgevit", plugins, "f4-scene").missing_data == ()
    (reason,) = plan_of("edgevit", plugins, "f4").missing_data
    assert "data/cat-and-dog: not found" in reason


def test_a_spectrogram_of_gtzan_is_resized_whole(plugins: Plugins, data: Callable[..., None]) -> None:
    """Its time axis is a ramp from 0 to 255: the middle 128 of 1291 pixels, a centre crop, have 115 to 140 only."""
    data("data/gtzan")
    facts = plan_of("edvit", plugins, "vit-b-gtzan").cells[0].task.data
    entry = plugins.datasets.get(facts.dataset.entry).entry
    opened = open_data(entry, entry.params(**facts.dataset.params), facts.choice)
    assert opened.info.shape == (1, 224, 224)
    assert opened.info.sizes == {"train": 40, "validation": 0, "test": 10}
    (image,) = opened.train.raw([0])
    assert image.shape == (224, 224, 1)
    row = image[100, :, 0].astype(int)
    assert row[0] < 5
    assert row[-1] > 250
    assert (np.diff(row) >= 0).all()


# --- end to end -------------------------------------------------------------------------------------

TINY = {"vit": {"patch_size": 16, "dim": 48, "depth": 4, "heads": 12}}
"""Stands for the pretrained ViTs, which need a download. It has the 12 heads of a ViT-Base."""

QUICK = ("seeds=[0]", "defaults.train.epochs=1", "defaults.train.warmup_epochs=0", "data.image_size=32")
SHORT = ("measure.min_time=0", "measure.min_queries=8", "measure.repeats=1", "measure.idle_time=0")


def settings(*values: str, **builds: dict[str, object]) -> list[str]:
    """Return the options that make a suite small: ``builds`` by method, with _ for -."""
    made = [f"methods.{name.replace('_', '-')}.build={json.dumps(build)}" for name, build in builds.items()]
    return [word for value in (*QUICK, *SHORT, *made, *values) for word in ("--set", value)]


def rows(out: str) -> dict[str, str]:
    """Return the status of each row of the leaderboard that ``harness run --json`` printed."""
    return {row["method"]: row["status"] for board in json.loads(out)["boards"] for row in board["rows"]}


@pytest.mark.e2e
def test_edgevit_runs_the_rows_whose_data_are_here_and_lists_the_others(
    harness: Callable[..., tuple[int, str, str]], data: Callable[..., None]
) -> None:
    data("data/nature-scene")
    deep = {"vit": {"patch_size": 16, "dim": 24, "depth": 12, "heads": 3}}
    options = settings(cloudvit=deep, cloudvit_scene=deep, cloudvit_animal=deep)
    command = ["run", "papers/edgevit", "--only", "f4-[sa]*", *options, "--json"]
    code, out, err = harness(*command)
    assert code == 1, err
    assert rows(out) == {"f4-scene": "ok", "f4-animal": "skipped"}
    assert "skipped: 1 cell of f4-animal: data/animal: not found; put train/CLASS/*.jpg" in err
    assert "failed" not in err

    data("data/animal")
    code, out, err = harness(*command)
    assert code == 0, err
    assert rows(out) == {"f4-scene": "ok", "f4-animal": "ok"}


def test_without_any_data_a_run_is_refused_in_one_line(
    harness: Callable[..., tuple[int, str, str]], data: Callable[..., None]
) -> None:
    code, out, err = harness("run", "papers/edgevit", "--only", "f4")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert "data/cat-and-dog: not found; put train/CLASS/*.jpg" in line
    assert not Path("results").exists()


@pytest.mark.e2e
def test_tformer_runs_on_made_images_of_imagenet(
    harness: Callable[..., tuple[int, str, str]], data: Callable[..., None]
) -> None:
    data("ILSVRC/imagenet-1k")
    options = settings("data.image_size=64", "data.classes=[3, 500, 999]", "defaults.train.batch_size=4")
    code, out, err = harness("run", "papers/tformer", "--only", "tformer-S", *options, "--json")
    assert code == 0, err
    assert rows(out) == {"tformer-S": "ok"}


@pytest.mark.e2e
def test_devit_runs_on_made_images_of_cifar_100(
    harness: Callable[..., tuple[int, str, str]], data: Callable[..., None], tmp_path: Path
) -> None:
    """A file of a small ViT stands for the pretrained sub-models, which need a download."""
    data("uoft-cs/cifar100")
    small = ViTShape(image_size=(32, 32), patch_size=16, channels=3, classes=9, dim=16, depth=2, heads=4)
    save_file(small.spec().build().state_dict(), tmp_path / "small.safetensors")
    split = "methods.devits.partition.devit"
    options = settings(
        "data.classes=[0, 7, 42, 99]",
        "defaults.train.batch_size=4",
        *(f"{split}.{value}" for value in ("dim=16", "heads=4", "depth=2", "width=32", "parts=2")),
        f"{split}.pretrained=null",
        f"{split}.weights={tmp_path / 'small.safetensors'}",
        f"{split}.sub_stage.epochs=1",
        f"{split}.ensemble_stage.epochs=1",
        vit_l=TINY,
    )
    code, out, err = harness(
        "run", "papers/devit", "--only", "devits", "--device", "here", *options, "--json"
    )
    assert code == 0, err
    assert rows(out) == {"devits": "ok"}


@pytest.mark.e2e
def test_edvit_runs_on_made_images_of_cifar_10_and_gtzan(
    harness: Callable[..., tuple[int, str, str]], data: Callable[..., None]
) -> None:
    """One channel and whole spectrograms for GTZAN; the published heads for two parts, 6 and 6 of 12."""
    data("uoft-cs/cifar10", "data/gtzan")
    more = [
        f"methods.{name}.partition.edvit.{value}"
        for name in ("edvit-2", "edvit-2-gtzan")
        for value in ("epochs=1", "fusion_epochs=1", "proxy=1", "importance=kl-fisher")
    ]
    options = settings(
        "methods.vit-b-gtzan.data.image_size=32",
        "methods.vit-b-gtzan.train.epochs=1",
        "methods.edvit-2-gtzan.train.epochs=1",
        *more,
        vit_b=TINY,
        vit_b_gtzan=TINY,
    )
    code, out, err = harness(
        "run", "papers/edvit", "--only", "edvit-2", "--device", "here", *options, "--json"
    )
    assert code == 0, err
    assert rows(out) == {"edvit-2": "ok"}
    code, out, err = harness(
        "run", "papers/edvit", "--only", "edvit-2-gtzan", "--device", "here", *options, "--json"
    )
    assert code == 0, err
    assert rows(out)["edvit-2-gtzan"] == "ok"
