"""Tests of artifacts in the store: the list of artifacts, and the handling of damaged ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from harness.cli import cli
from harness.errors import BrokenContract, CellError, StorageError, SuiteError
from harness.hookspecs import hookimpl
from harness.measure.cell_data import open_cell
from harness.plan.planner import make_plan
from harness.plugins import Plugins, load_plugins
from harness.prepare.context import open_task_data
from harness.prepare.nodes import failure
from harness.store.artifacts import Store
from harness.store.saved import load_any
from harness.suite.loading import load_suite
from harness.types import DataInfo, DatasetEntry
from harness.types.data import DataChoice
from harness.types.plan import DataRef, Node, PrepareHost

INFO = DataInfo(
    name="toy",
    shape=(1, 8, 8),
    class_names=("a", "b"),
    sizes={"train": 2, "test": 2},
    mean=(0.5,),
    std=(0.5,),
    fingerprint="toy",
)

DAMAGED = [
    b"",
    b"[1]",
    b"\xff\xfe",
    b'{"about": 3',
    b'{"about": null}',
    b'{"about": {"stage": 4, "label": null}}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_artifact_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    path = tmp_path / "artifacts" / "0123456789abcdef"
    path.mkdir(parents=True)
    (path / "meta.json").write_bytes(content)
    (path.parent / "a file").touch()
    answer = CliRunner().invoke(cli, ["cache", "list"], catch_exceptions=False)
    assert answer.exit_code == 0
    assert "0123456789ab" in answer.stdout
    assert CliRunner().invoke(cli, ["cache", "clear", "--yes"], catch_exceptions=False).exit_code == 0
    assert not path.exists()


def test_an_artifact_without_its_description_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    (tmp_path / "artifacts" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / "artifacts" / "0123456789abcdef" / "model.onnx").write_bytes(bytes(2_000_000))
    (line, _) = CliRunner().invoke(cli, ["cache", "list"]).stdout.splitlines()
    assert line.startswith("0123456789ab")
    assert "2.00 MB" in line
    assert "damaged" in line
    said = CliRunner().invoke(cli, ["cache", "clear", "0123", "--yes"], catch_exceptions=False).stdout
    assert said == "freed 2.0 MB\n"


@pytest.mark.parametrize("content", [*DAMAGED, b'{"kind": "model", "about": {}}'])
def test_an_export_of_another_form_is_one_line_that_says_how_to_make_it_again(
    tmp_path: Path, content: bytes
) -> None:
    store = Store(tmp_path)
    with store.making("0123456789abcdef") as folder:
        assert folder is not None
        (folder / "meta.json").write_bytes(content)
    cell: Any = SimpleNamespace(export="0123456789abcdef", data="0123456789abcdef")
    with pytest.raises(
        StorageError, match=r"artifact 0123456789ab .* cannot be used: .*harness cache clear 01234"
    ):
        open_cell(cell, store)


@pytest.mark.parametrize(
    "content", [*DAMAGED, b'{"kind": "model", "about": {}}', b'{"kind": "partition", "parts": 5}']
)
def test_a_damaged_model_is_one_line_that_says_how_to_make_it_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0123456789abcdef"
    path.mkdir()
    (path / "meta.json").write_bytes(content)
    with pytest.raises(CellError, match=r"artifact 0123456789ab is damaged: .*harness cache clear 01234"):
        load_any(path)


def test_a_cache_that_is_only_read_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "none"))
    for words in (["list"], ["list", "--json"], ["clear", "--yes"]):
        assert CliRunner().invoke(cli, ["cache", *words], catch_exceptions=False).exit_code == 0
    store = Store(tmp_path / "none")
    assert not store.has("k")
    assert not store.usable("k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", [[""], [" "], ["", "k"]])
def test_an_unset_shell_variable_clears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str]
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    with Store(tmp_path).making("k") as folder:
        assert folder is not None
        (folder / "meta.json").write_text('{"about": {}}')
    with pytest.raises(SuiteError, match="an empty KEY"):
        CliRunner().invoke(
            cli, ["cache", "clear", *keys, "--yes"], catch_exceptions=False, standalone_mode=False
        )
    assert Store(tmp_path).usable("k")


def test_what_is_set_aside_is_listed_and_cleared_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    for key in ("a", "b"):
        with Store(tmp_path).making(key) as folder:
            assert folder is not None
            (folder / "meta.json").write_text('{"about": {}}')
    (tmp_path / "artifacts/b/meta.json").write_text("{}")
    assert not Store(tmp_path, lambda text: None).usable("b")
    said = CliRunner().invoke(cli, ["cache", "list"], catch_exceptions=False).stdout
    assert "1 artifacts" in said
    assert f"1 damaged, 0.0 MB, set aside in {tmp_path / 'damaged'}" in said
    for words, left in ((["clear", "a", "--yes"], 1), (["clear", "--yes"], 0)):
        CliRunner().invoke(cli, ["cache", *words], catch_exceptions=False)
        assert len(list((tmp_path / "damaged").iterdir())) == left


def test_two_makers_of_one_artifact_wait_for_each_other(tmp_path: Path) -> None:
    made = []

    def make(number: int) -> None:
        with Store(tmp_path).making("k") as folder:
            if folder is not None:
                made.append(number)
                (folder / "meta.json").write_text("{}")

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert list((tmp_path / "work").iterdir()) == []


def test_artifacts_that_another_process_clears_meanwhile_are_left_out(tmp_path: Path) -> None:
    ended = threading.Event()

    def make_and_clear() -> None:
        store = Store(tmp_path)
        try:
            for _ in range(150):
                for number in range(4):
                    (store.artifacts / f"k{number}" / "parts").mkdir(parents=True, exist_ok=True)
                    (store.artifacts / f"k{number}" / "parts" / "weights").touch()
                store.clear()
        finally:
            ended.set()

    thread = threading.Thread(target=make_and_clear)
    thread.start()
    while not ended.is_set():
        assert all(item.key.startswith("k") for item in Store(tmp_path).stored())
    thread.join()


def test_an_artifact_that_is_used_is_listed_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, key in enumerate(("old", "new")):
        with store.making(key) as folder:
            assert folder is not None
            (folder / "meta.json").write_text('{"about": {}}')
        os.utime(store.artifacts / key, (number, number))
    assert [item.key for item in store.stored()] == ["new", "old"]
    store.folder("old")
    assert [item.key for item in store.stored()] == ["old", "new"]


def test_a_plugin_that_gives_no_data_set_is_named() -> None:
    class Toy:
        @hookimpl
        def harness_datasets(self) -> Iterator[DatasetEntry]:
            load: Any = lambda params, split: {"images": ()}  # noqa: E731
            yield DatasetEntry(name="toy", summary="for tests", describe=lambda params: INFO, load=load)

    plugins = load_plugins(extra={"broken": Toy()})
    with pytest.raises(BrokenContract, match="dataset 'toy': load gave dict, not a Dataset") as caught:
        open_task_data(DataRef(entry="toy", params={}, choice=DataChoice(name="toy")), plugins)
    node: Any = SimpleNamespace(stage="build", plugin="timm")
    assert failure(node, caught.value, plugins).plugin == "broken"


class _Toy:
    """A data set whose fingerprint and class names can change."""

    fingerprint = "planned"
    class_names = ("a", "b")
    labels = np.array([0, 1], np.int64)

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 1), np.uint8)

    def __len__(self) -> int:
        return 2

    @hookimpl
    def harness_datasets(self) -> Iterator[DatasetEntry]:
        yield DatasetEntry(
            name="toy",
            summary="for tests",
            describe=lambda params: replace(INFO, fingerprint=self.fingerprint, class_names=self.class_names),
            load=lambda params, split: self,
        )


def planned_data(toy: _Toy, path: Path) -> tuple[Plugins, Node]:
    """Plan a suite on ``toy``, and return its data node."""
    plugins = load_plugins(extra={"toy": toy})
    path.write_text(
        "suite: mine\ndata: {name: toy}\nmethods: {vit: {build: {vit: {patch_size: 2, dim: 8, depth: 1, heads: 1}}}}\n"
        "devices: {here: {backend: cpu}}\nrun: [{methods: all, devices: [here]}]\n"
    )
    nodes = make_plan(load_suite(path), plugins, PrepareHost(torch="1")).plan.nodes.values()
    return plugins, next(node for node in nodes if isinstance(node.task, DataRef))


def test_data_that_changed_after_planning_is_not_stored_under_the_old_key(tmp_path: Path) -> None:
    toy = _Toy()
    plugins, node = planned_data(toy, tmp_path / "mine.yaml")
    ref = node.task
    assert isinstance(ref, DataRef)
    assert open_task_data(ref, plugins).info.fingerprint == ref.fingerprint
    toy.fingerprint = "changed"
    with pytest.raises(CellError, match="the data has changed since it was planned; run again"):
        open_task_data(ref, plugins)


def test_names_of_classes_are_in_the_key_of_the_data(tmp_path: Path) -> None:
    toy, path = _Toy(), tmp_path / "mine.yaml"
    before = planned_data(toy, path)[1].key
    assert planned_data(toy, path)[1].key == before
    toy.class_names = ("b", "a")
    assert planned_data(toy, path)[1].key != before
