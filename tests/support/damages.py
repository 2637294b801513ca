"""What can become of a file, and a results folder to plant it in."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.results.folder import Results
from harness.types.record import Record

N = 40


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.unlink()
        make(path)

    return plant


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "an empty device": replaced(lambda path: path.symlink_to("/dev/null")),
}
DAMAGES: dict[str, Callable[[Path], None]] = {
    **NOT_FILES,
    "a flipped bit": flipped,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "6 GiB of holes": lambda path: os.truncate(path, 6 * 2**30),
    "a link to nothing": replaced(lambda path: path.symlink_to("nowhere")),
}


BAD_PLANS = {
    **{
        name: DAMAGES[name]
        for name in ("a folder", "a pipe", "a link to itself", "an endless device", "6 GiB of holes")
    },
    **{
        str(text[:20]): lambda path, text=text: path.write_bytes(text)
        for text in (
            *(b"", b"7", b"null", b"[]", b"{}", b"\xff", b"[" * 200_000, b'{"run_id": 3, "cells": []}'),
            *(
                b'{"run_id": "r1", "cells": [], "checksum": "0"}',
                b'{"run_id": "r1", "cells": [NaN], "checksum": 3}',
            ),
            *(b'{"run_id": "r", "cells": 3}', b'{"run_id": "../../up", "cells": []}', b'{"cells": ["one0"]}'),
        )
    },
}


@contextmanager
def little_memory() -> Iterator[None]:
    """Allow less memory than the holes have, so that reading them whole fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def record(method: str, seed: int = 0, **more) -> Record:
    values = {
        "run_id": "r1",
        "machine_id": "m",
        "suite": "s",
        "method_key": method,
        "status": "ok",
        "attempt": 1,
    }
    figures = {"accuracy": {"top1": 50.0}, "latency": {"p50_ms": 1.0}, "device": {"model": "board"}}
    return Record(
        **{**values, **figures, "cell_id": f"{method}{seed}", "method": method, "seed": seed, **more}
    )


def answers(right: int) -> dict[str, np.ndarray]:
    labels = np.arange(N, dtype=np.int64) % 4
    predictions = labels.astype(np.int32)
    predictions[right:] += 1
    return {"predictions": predictions, "labels": labels, "latency_ns": np.arange(100)}


def filled(folder: Path) -> Results:
    """A results folder with the records of three methods, their samples and a plan."""
    results = Results(folder, create=True)
    for number, method in enumerate(("one", "two", "three")):
        results.append(record(method, samples=results.store_samples(answers(10 + number))))
    plan = {"run_id": "r1", "suite": "s", "cells": ["one0", "two0", "three0"]}
    (results.folder / "plan.json").write_text(json.dumps(plan))
    return results


def sample_of(results: Results, method: str) -> Path:
    found = next(item for item in results.records() if item.method == method)
    return results.folder / str(found.samples.file)


def rows(text: str) -> list[str]:
    return [row["method"] for board in json.loads(text)["boards"] for row in board["rows"]]
