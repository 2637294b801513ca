"""Damages planted in the cache, by the dozen: each is noticed, named in one line, and mended in the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.errors import StorageError
from harness.measure.predictions import PredictionCache
from harness.prepare.nodes import run_node
from harness.store.artifacts import Store

SUITE = """\
suite: toys
data: {name: synthetic, num_classes: 3, size: 8, channels: 1, train: 30, test: 6}
defaults: {train: {epochs: 0}, runtime: plain}
measure: {min_time: 20ms, min_queries: 44, max_time: 60s, warmup: one, energy: off}
methods:
  whole: {build: toy}
  split: {from: whole, partition: toys}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""

# --- what can become of a file --------------------------------------------------------------------


def flipped(position: float) -> Callable[[Path], None]:
    """Flips one bit, at a share of the file's length."""

    def plant(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(position * len(content)), len(content) - 1)] ^= 4
        path.write_bytes(content)

    return plant


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.unlink()
        make(path)

    return plant


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first bit": flipped(0),
    "a bit in the middle": flipped(0.5),
    "last bit": flipped(1),
    "truncated": cut,
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "missing": Path.unlink,
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a link to nothing": replaced(lambda path: path.symlink_to("nowhere")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
}
JSON_DAMAGES = {
    text[:12]: (lambda path, text=text: path.write_bytes(text))  # type: ignore[misc]
    for text in (b"[1]", b"null", b"7", b"\xff\xfe", b'{"about"', b"[" * 100_000, b'{"meta.json": 3}', b"{}")
}
FILES = {
    "images.npy": "data",
    "labels.npy": "data",
    "meta.json": "data",
    "files.json": "export",
    "model.safetensors": "build",
    "1.safetensors": "partition",
    "reference.npy": "export",
    "parts/model/weights.npz": "export",
}
CASES = [(file, damage, DAMAGES[damage]) for file in FILES for damage in DAMAGES] + [
    (file, f"wrong JSON {number}", damage)
    for file in ("meta.json", "files.json")
    for number, damage in enumerate(JSON_DAMAGES.values())
]


@pytest.fixture(scope="module")
def prepared(prepare_toys):
    return prepare_toys(SUITE)


@pytest.fixture
def cache(prepared, tmp_path):
    """A copy of the prepared cache: its nodes, and a function that prepares what is not usable."""
    plan, plugins, store = prepared
    shutil.copytree(store.root, tmp_path / "cache", symlinks=True)
    return Cache(plan, plugins, tmp_path / "cache")


class Cache:
    def __init__(self, plan, plugins, root: Path) -> None:
        self.plan, self.plugins, self.root = plan, plugins, root
        self.said: list[str] = []

    def artifact(self, stage: str, file: str) -> Path:
        """The first artifact of a stage that has a file."""
        folders = [
            self.root / "artifacts" / key for key, node in self.plan.nodes.items() if node.stage == stage
        ]
        return next(folder for folder in folders if (folder / file).exists())

    def prepare(self) -> list[str]:
        """Make what is not usable, as a run does. Returns the stages that were made, and fails where one is not."""
        store = Store(self.root, self.said.append)
        missing = [node for node in self.plan.nodes.values() if not store.usable(node.key)]
        for node in missing:
            run_node(node, self.plugins, store)
        assert all(Store(self.root).usable(key) for key in self.plan.nodes)
        return [node.stage for node in missing]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("file", "name", "plant"), CASES, ids=[f"{file}, {name}" for file, name, _ in CASES])
def test_a_damaged_artifact_is_named_set_aside_and_made_again(cache, file, name, plant):
    folder = cache.artifact(FILES[file], file)
    before = contents(folder)
    plant(folder / file)
    assert cache.prepare() == [FILES[file]]
    (line,) = cache.said
    assert "\n" not in line
    assert file in line or file == "files.json"  # a changed hash speaks of its file
    assert folder.name[:12] in line
    assert line.endswith(f"set aside in {cache.root / 'damaged' / folder.name}")
    assert os.path.lexists(cache.root / "damaged" / folder.name / "files.json") or name == "missing"
    assert contents(folder) == before
    assert cache.prepare() == []


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        Path.touch,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["empty folder", "pipe", "file", "link to nothing", "link to itself", "device"],
)
def test_what_stands_where_an_artifact_should_is_set_aside(cache, make):
    folder = cache.artifact("export", "reference.npy")
    shutil.rmtree(folder)
    make(folder)
    assert cache.prepare() == ["export"]
    assert len(cache.said) == 1
    assert len(list((cache.root / "damaged").iterdir())) == 1


def test_an_artifact_of_version_0_1_0_has_no_hashes_and_is_made_again(cache):
    (cache.artifact("export", "reference.npy") / "files.json").unlink()
    assert cache.prepare() == ["export"]
    assert "no files.json, as version 0.1.0 left it" in cache.said[0]


def test_the_same_artifact_is_set_aside_twice(cache):
    for _ in range(2):
        flipped(0.5)(cache.artifact("export", "reference.npy") / "reference.npy")
        cache.prepare()
    names = sorted(path.name for path in (cache.root / "damaged").iterdir())
    assert [name[32:] for name in names] == ["", "-2"]


def test_files_are_hashed_once_in_a_process_and_again_where_they_changed(cache, monkeypatch):
    store, opened = Store(cache.root, cache.said.append), []
    real = os.open

    def counted(path, *arguments, **named):
        opened.append(Path(os.fspath(path)).name)
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", counted)
    folder = cache.artifact("data", "labels.npy")
    for _ in range(3):
        assert store.folder(folder.name) == folder
    assert sorted(opened) == ["files.json", "images.npy", "labels.npy", "meta.json"]
    status = (folder / "labels.npy").stat()
    flipped(0.9)(folder / "labels.npy")
    os.utime(folder / "labels.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StorageError, match=r"is not in .* the same command makes it again"):
        store.folder(folder.name)
    assert len(cache.said) == 1


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_predictions_are_made_again(tmp_path, name):
    said: list[str] = []

    def get(value: int) -> int:
        cache = PredictionCache(Store(tmp_path, said.append), "code")
        return int(
            cache.get_or_make([1], "label", lambda: {"predictions": np.full(30, value)})["predictions"][0]
        )

    assert [get(1), get(2)] == [1, 1]
    (file,) = tmp_path.rglob("evaluation.npz")
    DAMAGES[name](file)
    assert [get(3), get(4)] == [3, 3]
    assert len(said) == 1
    assert "evaluation.npz" in said[0]


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from harness.store.sealed import Damage, check, seal

folder = Path(sys.argv[1])
(folder / "meta.json").write_text("{}")
seal(folder)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    while True:
        os.dup(0)
except OSError:
    pass
try:
    check(folder)
except Damage as damage:
    print("damaged:", damage)
except OSError as error:
    print("not read:", error.strerror)
"""


def test_a_file_that_cannot_be_opened_now_is_not_damaged(tmp_path):
    script = [sys.executable, "-c", WITHOUT_DESCRIPTORS, str(tmp_path)]
    said = subprocess.run(script, check=False, capture_output=True, text=True, timeout=60)
    assert said.stdout == "not read: Too many open files\n"
