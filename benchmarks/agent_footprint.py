"""Measure the cost of the agent for a board: memory while it waits, time to start, disk on aarch64 per Python.

Memory and start time are those of this machine. The disk space is that of the aarch64 wheels that pip downloads,
packed and unpacked.

    python benchmarks/agent_footprint.py [RUNS] [--python 3.11]...
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median

IDLE_S = 2.0  # the start's temporary memory is released by then
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def started(folder: Path) -> tuple[float, float, float]:
    """Start an agent. Return seconds until it is ready, resident MB, and MB of anonymous memory."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    begin = time.perf_counter()
    agent = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "harness",
            "agent",
            "serve",
            "--port",
            "0",
            "--folder",
            str(folder),
            "--ready-file",
            str(ready),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not ready.exists():
            if agent.poll() is not None or time.perf_counter() - begin > 60:
                sys.exit("the agent does not start")
            time.sleep(0.01)
        took = time.perf_counter() - begin
        time.sleep(IDLE_S)
        rollup = Path(f"/proc/{agent.pid}/smaps_rollup").read_text()
        kept = {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in rollup.splitlines()[1:]}
        return took, kept["Rss:"], kept["Anonymous:"]
    finally:
        agent.terminate()
        agent.wait(15)


def installed(made: Path, python: str) -> dict[str, float]:
    """Return MB of the aarch64 wheels: packed, unpacked, and the three largest."""
    from harness_remote.setup import provision

    major, minor = (int(number) for number in python.split("."))
    with tempfile.TemporaryDirectory() as name:
        options = provision.target_options("aarch64", (2, 28), (major, minor))
        files = [made, *provision.download(made, Path(name), options)]
        packed = {file.name.partition("-")[0]: file.stat().st_size for file in files}
        unpacked = {}
        for file in files:
            with zipfile.ZipFile(file) as archive:
                unpacked[file.name.partition("-")[0]] = sum(item.file_size for item in archive.infolist())
    largest = sorted(unpacked, key=unpacked.__getitem__, reverse=True)[:3]
    return {
        "wheels": len(files),
        "packed_mb": round(sum(packed.values()) / 1e6, 1),
        "unpacked_mb": round(sum(unpacked.values()) / 1e6, 1),
        **{one: round(unpacked[one] / 1e6, 1) for one in largest},
    }


def main(runs: int, pythons: list[str]) -> None:
    from harness_remote.setup import wheel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        took, resident, own = zip(*(started(folder) for _ in range(runs)), strict=True)
        print(
            f"agent, waiting: {median(resident):.1f} MB resident, {median(own):.1f} MB of them no file's pages; "
            f"ready after {median(took):.2f} s ({min(took):.2f} to {max(took):.2f}), n {runs}"
        )
        made = wheel.make(folder)
        for python in pythons:
            print(f"aarch64, Python {python}: {json.dumps(installed(made, python))}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    parser.add_argument("--python", action="append", dest="pythons", choices=PYTHONS)
    given = parser.parse_args()
    main(given.runs, given.pythons or list(PYTHONS))
