"""Files of raw samples may be damaged, odd or hostile: each is one line, costs its row alone, and takes no memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import damages
from damages import DAMAGES, answers, flipped, record, rows, sample_of
from harness.errors import StorageError
from harness.results.folder import Results
from harness.results.merged import Merged

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def bounded():
    with damages.little_memory():
        yield


@pytest.fixture
def results(tmp_path):
    return damages.filled(tmp_path / "out")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_sample_file_costs_its_row_and_is_named(results, harness, name):
    path = sample_of(results, "two")
    DAMAGES[name](path)
    code, said, _ = harness("results", "validate", "out")
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith(str(Path("out") / "samples"))]
    assert path.name in line
    code, said, warned = harness("leaderboard", "out", "--format", "json")
    assert code == 0
    assert sorted(rows(said)) == ["one", "three"]
    (line,) = warned.splitlines()
    assert path.name in line
    assert line.endswith("the record of two, seed 0, repeat 0 is left out")
    code, said, warned = harness("results", "show", "out", "two")
    assert code == 0
    assert said.startswith("Method")
    assert warned.count("\n") == 1


def test_a_missing_sample_file_costs_the_tier_and_is_named(results, harness):
    sample_of(results, "two").unlink()
    code, said, warned = harness("leaderboard", "out", "--format", "json")
    assert code == 0
    tiers = {row["method"]: row["tier"] for board in json.loads(said)["boards"] for row in board["rows"]}
    assert tiers == {"one": 1, "three": 1, "two": None}
    assert "1 file of samples is missing" in warned
    assert harness("results", "validate", "out")[0] == 1


def test_of_many_damaged_files_ten_are_named(results, harness):
    for seed in range(1, 30):
        kept = results.append(
            record("one", seed, samples=results.store_samples({"latency_ns": np.arange(seed)}))
        )
        os.truncate(results.folder / str(kept.samples.file), 3)
    merged = Merged([results])
    assert len(merged.problems) == 11
    assert merged.problems[-1].endswith("19 further records with damaged samples left out")
    assert len(merged.records) == 3


def test_samples_that_one_of_two_folders_lacks_are_read_from_the_other(results, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(results.folder / "records.jsonl", copy)
    for folders in ([results, Results(copy)], [Results(copy), results]):
        merged = Merged(folders)
        assert [line for line in merged.problems if "missing" in line] == []
        assert all(merged.load_samples(own) for own in merged.records if not own.samples.empty)
    (line,) = Merged([Results(copy)]).problems
    assert "missing" in line


def planted(results: Results, method: str, content: bytes) -> None:
    """Append a record whose sample file has this content, under its right hash."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"samples/{digest[:2]}/{digest}.npz"
    (results.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (results.folder / name).write_bytes(content)
    results.append(record(method, samples={"file": name, "sha256": digest}))


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def array(shape: tuple[int, ...], dtype: str = "<i8", data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def declared(content: bytes, size: int) -> bytes:
    """An archive of one member whose directory declares another size."""
    changed = bytearray(content)
    start = changed.rindex(b"PK\1\2")
    changed[start + 24 : start + 28] = size.to_bytes(4, "little")
    return bytes(changed)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def packed(how: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as file:
        file.writestr("a.npy", array((3,), data=bytes(24)))
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{}], dtype=object))
    return buffer.getvalue()


HUGE = 3 * 2**30
HOSTILE = {
    "no archive": b"x" * 100,
    "nothing": b"",
    "an array alone": array((3,), data=bytes(24)),
    "a header of 8 EiB": archive({"a.npy": array((2**60,))}),
    "3 GiB unpacked": declared(archive({"a.npy": array((HUGE // 8 - 16,), data=bytes(64))}), HUGE),
    "negative shape": archive({"a.npy": array((-1,), data=bytes(8))}),
    "more than its header": archive({"a.npy": array((1,), data=bytes(800))}),
    "less than its header": archive({"a.npy": array((100,), data=bytes(8))}),
    "no array inside": archive({"a.txt": b"text"}),
    "a header that is code": archive({"a.npy": b"\x93NUMPY\1\0\x10\0__import__('os')"}),
    "a header cut off": archive({"a.npy": array((3,))[:20]}),
    "another version": archive({"a.npy": b"\x93NUMPY\x09\0" + bytes(50)}),
    "a header of 3 GiB": declared(
        archive({"a.npy": b"\x93NUMPY\2\0" + HUGE.to_bytes(4, "little") + b" " * 1000}), HUGE
    ),
    "a header of 900 MB": archive({"a.npy": b"\x93NUMPY\2\0" + (9 * 10**8).to_bytes(4, "little")}),
    "nested": archive({"a.npy": b"\x93NUMPY\1\0\x10\x27" + b"(" * 10_000}),
    "an open string": archive({"a.npy": b"\x93NUMPY\1\0\x14\0{'descr': 3L, (  '"}),
    "packed with LZMA": packed(zipfile.ZIP_LZMA),
    "packed with BZ2": packed(zipfile.ZIP_BZIP2),
    "Python objects": pickled(),
    "a comment behind": npz(a=np.zeros(3)) + b"more",
    "other bytes before": b"more" + npz(a=np.zeros(3)),
    "a damaged directory": npz(a=np.zeros(3)).replace(b"PK\1\2", b"PK\1\3"),
    "predictions of two dimensions": npz(
        predictions=np.zeros((5, 2), np.int32), labels=np.zeros(5, np.int64)
    ),
    "predictions of other length": npz(predictions=np.zeros(7, np.int32), labels=np.zeros(5, np.int64)),
    "labels that are no integers": npz(predictions=np.zeros(5, np.int32), labels=np.zeros(5)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_sample_file_whose_hash_is_right_and_content_is_not(results, harness, name):
    planted(results, "bad", HOSTILE[name])
    code, said, _ = harness("results", "validate", "out")
    assert code == 1
    assert said.count("\n") == 2
    code, said, warned = harness("leaderboard", "out", "--all", "--format", "json")
    assert code == 0
    assert sorted(rows(said)) == ["one", "three", "two"]
    assert warned.count("\n") == 1
    assert "the record of bad, seed 0, repeat 0 is left out" in warned


WHOLE = npz(predictions=np.arange(9, dtype=np.int32), labels=np.arange(9), latency_ns=np.arange(300))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=9)), max_size=4))
def test_any_content_is_arrays_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(WHOLE)
    for place, new in changes:
        content[place : place + len(new)] = new
    results = Results(tmp_path_factory.mktemp("any"), create=True)
    planted(results, "bad", bytes(content))
    (bad,) = results.records()
    problem = results.samples.problem(bad)
    assert problem is None or "\n" not in problem
    try:
        arrays = results.load_samples(bad)
    except StorageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert sum(values.nbytes for values in arrays.values()) < 10**6


def test_an_archive_of_a_million_names_is_not_listed(results):
    directory = (b"PK\1\2" + bytes(42)) * 30_000
    end = b"PK\5\6" + bytes(8) + len(directory).to_bytes(4, "little") + bytes(4) + bytes(2)
    planted(results, "bad", directory + end)
    assert "its directory has more than 1,048,576 bytes" in Merged([results]).problems[0]


def test_content_that_does_not_unpack_is_one_line(results):
    content = bytearray(npz(a=np.random.default_rng(0).integers(0, 9, 1000)))
    content[400] ^= 255
    planted(results, "bad", bytes(content))
    with pytest.raises(StorageError, match="cannot be unpacked"):
        results.load_samples(results.records()[-1])


def test_the_same_samples_are_written_over_a_damaged_file(results):
    path = sample_of(results, "one")
    before = path.read_bytes()
    flipped(path)
    results.store_samples(answers(10))
    assert path.read_bytes() == before
