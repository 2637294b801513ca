"""Measure seconds and memory of ``harness leaderboard`` over a folder of many records, first without its index.

python benchmarks/leaderboard.py [RECORDS ...] [--keep FOLDER]

The default is 1,000 and 10,000 records. Each row has five records, one for each seed. A record has its own sample file
with the answers to 1,000 images and 1,000 latencies. The records are made from two of version 0.1.0, one with energy.
With ``--keep`` the folders stay, and a later call uses them again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.types.record import Record, line_of

SOURCE = Path(__file__).parents[1] / "tests" / "data" / "records_0_1_0" / "records.jsonl"
SEEDS = 5
IMAGES = 1000
QUERIES = 1000
CLASSES = 10


def templates() -> list[dict[str, Any]]:
    """Return one record without and one with energy."""
    records = [json.loads(line) for line in SOURCE.read_text().splitlines()]
    good = [record for record in records if record["status"] == "ok" and record["device"]["nodes"] == 1]
    return [good[0], next(record for record in good if record["energy"])]


def samples(random: np.random.Generator, labels: np.ndarray[Any, Any], share: float, ms: float) -> bytes:
    """Return a sample file in which ``share`` of the images are answered right and a query takes ``ms``."""
    wrong = (labels + 1 + random.integers(0, CLASSES - 1, IMAGES)) % CLASSES
    arrays = {
        "latency_ns": (ms * 1e6 * random.lognormal(0, 0.05, QUERIES)).astype(np.int64),
        "warmup_ns": (ms * 1e6 * random.lognormal(0, 0.1, QUERIES // 10)).astype(np.int64),
        "first_ns": np.int64(ms * 1e7),
        "predictions": np.where(random.random(IMAGES) < share, labels, wrong).astype(np.int32),
        "labels": labels,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def make(folder: Path, count: int) -> None:
    """Write a results folder of ``count`` records."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, IMAGES)
    kinds = templates()
    with (folder / "records.jsonl").open("wb") as file:
        for number in range(count):
            row, seed = divmod(number, SEEDS)
            record = json.loads(json.dumps(kinds[row % len(kinds)]))
            share, ms = 0.6 + 0.3 * (row * 0.618 % 1), 1 + 20 * (row * 0.377 % 1)
            content = samples(random, labels, share + random.normal(0, 0.01), ms * random.normal(1, 0.02))
            digest = hashlib.sha256(content).hexdigest()
            name = f"samples/{digest[:2]}/{digest}.npz"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            vary(record, row, seed, random, share, ms)
            record["samples"] = {"file": name, "sha256": digest}
            file.write(line_of(Record.model_validate(record)) + b"\n")


def vary(
    record: dict[str, Any], row: int, seed: int, random: np.random.Generator, share: float, ms: float
) -> None:
    """Give a record the identity of its row and seed, and figures of its own."""
    key = hashlib.sha256(f"{row}".encode()).hexdigest()
    cell = hashlib.sha256(f"{row} {seed}".encode()).hexdigest()
    record |= {"method": f"method-{row:05}", "method_key": key[:32], "cell_id": cell[:32], "seed": seed}
    record |= {"run_id": "made", "machine_id": "made", "repeat": 0, "flags": [], "baseline": "method-00000"}
    record["device"]["name"] = "here"
    record["accuracy"]["top1"] = 100 * share + random.normal(0, 1)
    record["accuracy"]["top5"] = min(100.0, 100 * share + 8 + random.normal(0, 1))
    for name, value in record["latency"].items():
        if isinstance(value, float):
            record["latency"][name] = ms * random.lognormal(0, 0.02)
    record["memory"]["process_peak_bytes"] += int(random.integers(0, 2**24))
    for name in record["counts"]:
        record["counts"][name] += row
    for reading in record["energy"]:
        for name, value in reading.items():
            if isinstance(value, float) and name.startswith("energy"):
                reading[name] = value * random.lognormal(0, 0.02)
    for step in record["lineage"]:
        step["train_s"] = 100 * random.lognormal(0, 0.02)
        step["params"]["dim"] = 16 + row
        for epoch in step["notes"].get("history", []):
            epoch["loss"] = random.lognormal(0, 0.1)
    record["train"]["train_s"] = sum(step["train_s"] for step in record["lineage"])
    record["environment"]["window"]["cpu_s"] = float(random.random())
    record["started"] = f"2026-11-{1 + seed:02}T{row // 60 % 24:02}:{row % 60:02}:09.081+00:00"


def measured(folder: Path, *options: str) -> tuple[float, float, float, str]:
    """Return wall seconds, processor seconds, peak memory in 10^6 bytes and the output's SHA-256 of one process."""
    read, write = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os.dup2(write, 1)
        os.close(read)
        os.close(write)
        os.execv(sys.executable, [sys.executable, "-m", "harness", "leaderboard", str(folder), *options])
    os.close(write)
    whole = hashlib.sha256()
    with os.fdopen(read, "rb") as output:
        while part := output.read(2**20):
            whole.update(part)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"harness leaderboard {folder}: status {status}")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, whole.hexdigest()[:12]


@contextlib.contextmanager
def folder_of(count: int, keep: Path | None) -> Iterator[Path]:
    """Yield a results folder of ``count`` records without an index."""
    parent = Path(tempfile.mkdtemp()) if keep is None else keep
    folder = parent / str(count)
    try:
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder, count)
            (folder / "made").touch()
        shutil.rmtree(folder / ".index", ignore_errors=True)
        yield folder
    finally:
        if keep is None:
            shutil.rmtree(parent)


def main() -> None:
    """Print one line for each call of the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("records", nargs="*", type=int, default=[1000, 10000])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    for count in given.records:
        with folder_of(count, given.keep) as folder:
            for format in ("json", "table"):
                for state in ("no index", "index"):
                    if state == "no index":
                        shutil.rmtree(folder / ".index", ignore_errors=True)
                    seconds, processor, peak, digest = measured(folder, "--format", format)
                    print(
                        f"{count:,} records, {format}, {state}: {seconds:.2f} s, processor {processor:.2f} s, "
                        f"peak {peak:.0f} MB, output {digest}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
