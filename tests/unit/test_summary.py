"""Tests of what the leaderboard reads of records: lines, their checksums, answers, and summaries in place of records."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.errors import StorageError
from harness.results import lines
from harness.results.answers import SeedAnswers
from harness.results.archive import Archive
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import leaderboard_of
from harness.results.summary import summary_of
from harness.types.record import Record, checksum_of_line, line_of

OLD = Path(__file__).parents[1] / "data" / "records_0_1_0"


def record(seed: int = 0, **more: Any) -> Record:
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": "vit",
        "method_key": "k",
    }
    return Record(**{**values, "cell_id": f"c{seed}", "attempt": 1, "status": "ok", "seed": seed, **more})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "out", create=True)


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_ends_with_the_checksum_of_what_is_before_it() -> None:
    sealed = record(reason="größer").sealed()
    line = line_of(sealed)
    content = json.loads(line)
    assert content == sealed.dump()
    assert list(content) == [*sorted(content.keys() - {"checksum"}), "checksum"]
    assert checksum_of_line(line) == sealed.checksum
    assert checksum_of_line(json.dumps(content).encode()) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'"seed":0', b'"seed":1'),
        lambda line: line[:-1] + b',"seed":1}',  # after the checksum; the last of two equal keys counts
        lambda line: line.replace(b'"checksum":"', b'"checksum":"0'),
        lambda line: line.replace(b'"reason":""', b'"reason":NaN'),
        lambda line: line[:-3] + b'"}',
    ],
)
def test_a_changed_line_is_no_record(results: Results, change: Any) -> None:
    results.append(record())
    path = results.folder / "records.jsonl"
    line = path.read_bytes().rstrip(b"\n")
    assert change(line) != line
    path.write_bytes(change(line) + b"\n")
    assert results.records() == []
    assert len(results.validate()) == 1


@given(st.floats(min_value=0.0, max_value=1e100))
def test_both_parsers_of_json_read_the_same_number(value: float) -> None:
    line = line_of(record(latency={"p50_ms": value}).sealed())
    plain = json.dumps(json.loads(line), ensure_ascii=True).encode()
    first, second = (lines.record_in(each) for each in (line, plain))
    assert first == second
    assert first.latency.p50_ms == value


def test_a_record_is_read_again_from_its_line_unless_the_line_was_changed(results: Results) -> None:
    written = [results.append(record(seed, lineage=[{"stage": "build"}])) for seed in range(3)]
    summaries, _ = results.summaries()
    assert [summary.record() for summary in summaries] == written
    path = results.folder / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seed":1', b'"seed":7'))
    assert summaries[2].record() == written[2]
    with pytest.raises(StorageError, match=r"records\.jsonl:2: was changed while it was read"):
        summaries[1].record()


def test_equal_settings_of_many_records_are_one_object(results: Results) -> None:
    for seed in range(3):
        results.append(record(seed, data={"name": "digits"}, device={"name": "a" if seed else "b"}))
    first, second, third = results.summaries()[0]
    assert first.data is second.data is third.data
    assert second.device is third.device
    assert first.device != second.device


def test_a_leaderboard_of_summaries_is_that_of_the_records() -> None:
    results = Results(OLD)
    assert leaderboard_of(results.summaries()[0]) == leaderboard_of(results.records())
    assert leaderboard_of(map(summary_of, results.records())) == leaderboard_of(results.records())


# --- answers --------------------------------------------------------------------------------------


def arrays(n: int, dtype: str = "<i8") -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(n)
    return {
        "predictions": random.integers(0, 3, n).astype(np.int32),
        "labels": random.integers(0, 3, n).astype(dtype),
    }


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_answers_are_one_bit_for_each_image(results: Results, n: int) -> None:
    raw = arrays(n)
    written = results.append(record(samples=results.store_samples(raw)))
    answers = results.samples.answers(written)
    assert answers == SeedAnswers.of(raw)
    assert answers is not None
    assert (np.unpackbits(answers.bits, count=n) == (raw["predictions"] == raw["labels"])).all()
    assert (answers.n, len(answers.right)) == (n, (n + 7) // 8)


def test_answers_to_the_same_labels_have_the_same_hash() -> None:
    one, same, other = SeedAnswers.of(arrays(9)), SeedAnswers.of(arrays(9, "|u1")), SeedAnswers.of(arrays(10))
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.images == same.images != other.images
    assert SeedAnswers.of({"predictions": np.zeros(3, int)}) is None


def test_an_array_is_read_as_numpy_reads_it() -> None:
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays(1000))  # type: ignore[arg-type]
        archive = Archive(buffer.getvalue())
        for name, array in arrays(1000).items():
            read = archive.packed(name).array()
            assert read.dtype == array.dtype
            assert (read == array).all()


def test_a_changed_byte_of_an_array_is_noticed() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays(1000))  # type: ignore[arg-type]
    content = bytearray(buffer.getvalue())
    content[1000] ^= 1
    with pytest.raises(ValueError, match="array 'predictions' is damaged"):
        Archive(bytes(content)).packed("predictions").array()
