"""Keep what a harness prints and records, so that compare.py can compare another version with it.

    python capture.py OUT --harness .venv/bin/harness [--only STEP] [--reference CAPTURE]

The tool uses the command line and the public files of results folders only, so it runs against any version. ``OUT``
then holds ``answers/STEP/NAME.json`` (exit code, stdout and stderr of one command) and ``runs/NAME`` (results
folders). A second call with the same ``OUT`` continues: measured cells are kept.

The step ``reading`` reads the results folders of ``--reference`` (default: ``OUT`` itself). Two versions that read the
same records must print the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KEPT_RECORDS = HERE.parent / "data" / "records_0_1_0"
PAPERS = ("edgevit", "tformer", "devit", "edvit", "on-digits")
LABS = {"nano4": ("boards/nano4",), "nano6": ("boards/nano6",), "pi10": ("boards/pi10", "boards/pi10-size")}
ESTIMATE = ("--estimate", "--profile", "raspberry-pi-4b", "--link", "16,1")
SHORT = (
    "--set",
    "seeds=[0, 1]",
    "--set",
    "defaults.train.epochs=3",
    "--set",
    "defaults.train.warmup_epochs=1",
)
RUN_LIMIT, LIMIT = 3 * 3600.0, 900.0  # seconds


class Capture:
    """One harness executable, and the folder where its answers are kept."""

    def __init__(self, out: Path, harness: Path, reference: Path, cache: Path) -> None:
        self.out, self.harness, self.reference = out, harness, reference
        self.work = out / "work"
        for folder in (self.work, out / "home", out / "runs", out / "empty-cache"):
            folder.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(out / "home"),
            "HARNESS_CACHE": str(cache),
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            "NO_COLOR": "1",
        }
        # plans and estimates depend on what is prepared already
        self.nothing_prepared = {"HARNESS_CACHE": str(out / "empty-cache")}

    def call(
        self, *arguments: str, variables: dict[str, str] | None = None, limit: float = LIMIT
    ) -> dict[str, Any]:
        """Run one command; return its exit code, its stdout (parsed if it is JSON, else lines) and its stderr."""
        start = time.monotonic()
        answer = subprocess.run(
            [self.harness, *arguments],
            cwd=self.work,
            env=self.environment | (variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        seconds = time.monotonic() - start
        print(f"{seconds:7.1f} s  exit {answer.returncode}  harness {' '.join(arguments)}", flush=True)
        text = self.neutral(answer.stdout)
        try:
            output = json.loads(text)
        except ValueError:
            output = text.splitlines()
        stderr = self.neutral(answer.stderr).splitlines()
        return {"exit": answer.returncode, "stdout": output, "stderr": stderr}

    def keep(self, name: str, answer: dict[str, Any]) -> None:
        """Write ``answer`` as ``answers/NAME.json``."""
        path = self.out / "answers" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n")

    def ask(
        self, name: str, *arguments: str, variables: dict[str, str] | None = None, limit: float = LIMIT
    ) -> Any:
        """Run one command, keep its answer as ``NAME``, and return its stdout."""
        answer = self.call(*arguments, variables=variables, limit=limit)
        self.keep(name, answer)
        return answer["stdout"]

    def run(self, name: str, suite: str, *options: str, variables: dict[str, str] | None = None) -> None:
        """Run ``suite`` into ``runs/NAME``, and keep the leaderboard that it prints."""
        arguments = ("run", suite, "--out", str(self.out / "runs" / name), "--json", *options)
        self.ask(f"run/{name}", *arguments, variables=variables, limit=RUN_LIMIT)

    def neutral(self, text: str) -> str:
        """Return ``text`` without the names of the folders that differ between two captures."""
        names = {
            KEPT_RECORDS: "$KEPT",
            self.reference: "$OUT",
            self.out: "$OUT",
            self.harness.parents[2]: "$ROOT",
        }
        for folder, name in names.items():
            text = text.replace(str(folder), name)
        return text

    @contextlib.contextmanager
    def lab(self, name: str) -> Iterator[dict[str, str]]:
        """Keep a lab up during the block. Yields the variable that makes its boards the inventory.

        Raises:
            SystemExit: the lab cannot be started, for example without root.
        """
        answer = self.call("lab", "up", name)
        exports = [line for line in answer["stdout"] if line.startswith("export HARNESS_DEVICES=")]
        if not exports:
            raise SystemExit(f"lab {name} is not up: {answer}")
        try:
            yield {"HARNESS_DEVICES": exports[0].partition("=")[2].replace("$OUT", str(self.out))}
        finally:
            self.call("lab", "down", name)


# --- steps --------------------------------------------------------------------------------------


def commands(capture: Capture) -> None:
    """Capture the names of all commands and their options, from ``--help``."""
    usage: dict[str, list[str]] = {}

    def visit(words: tuple[str, ...]) -> None:
        lines = capture.call(*words, "--help")["stdout"]
        section = ""
        entries: dict[str, list[str]] = {"Options": [], "Commands": []}
        for line in lines:
            if line and not line.startswith(" "):
                section = line.partition(":")[0]
            elif section in entries and line[2:3].strip():
                entries[section].append(line.strip().split("  ")[0])
        usage[" ".join(words)] = [lines[0], *entries["Options"]]
        for word in entries["Commands"]:
            visit((*words, word))

    visit(())
    capture.keep("commands", {"exit": 0, "stdout": usage, "stderr": []})


def lists(capture: Capture) -> None:
    """Capture what is installed: plugins with their parameters, devices, suites, the suites' schema."""
    entries = capture.ask("lists/plugins", "plugins", "list", "--json")["entries"]
    for plugin in sorted({entry["plugin"] for entry in entries}):
        capture.ask(f"lists/plugin-{plugin}", "plugins", "show", plugin, "--json")
    capture.ask("lists/devices", "devices", "list", "--json")
    capture.ask("lists/suites", "suites", "list")
    capture.ask("lists/schema", "suites", "schema")


def plans(capture: Capture) -> None:
    """Capture the plans of all shipped suites that need no board, and the estimates of three of them."""
    variables = capture.nothing_prepared
    for line in capture.call("suites", "list")["stdout"]:
        suite = line.split()[0]
        if not suite.startswith("boards/"):
            capture.ask(f"plan/{suite}", "plan", suite, "--json", variables=variables)
    for suite in ("smoke", "edge", "papers/edvit"):
        capture.ask(f"estimate/{suite}", "plan", suite, "--json", *ESTIMATE, variables=variables)


def claims(capture: Capture) -> None:
    """Capture the claims of each paper, without records."""
    for paper in PAPERS:
        capture.ask(f"claims/{paper}", "claims", f"papers/{paper}", "--json")


def boards(capture: Capture) -> None:
    """Capture the plans of the suites for boards, on virtual boards, and the boards' descriptions. Needs root."""
    for lab, suites in LABS.items():
        with capture.lab(lab) as devices:
            variables = capture.nothing_prepared | devices
            for suite in suites:
                capture.ask(f"plan/{suite}", "plan", suite, "--json", variables=variables)
                capture.ask(f"estimate/{suite}", "plan", suite, "--json", *ESTIMATE, variables=variables)
            if lab == "nano4":
                capture.ask("boards/check", "devices", "check", "--json", variables=variables)


def smoke(capture: Capture) -> None:
    """Capture a run of every method, with two seeds and short trainings."""
    capture.run("smoke", "smoke")


def edge(capture: Capture) -> None:
    """Capture a run of every method, with three seeds and full trainings."""
    capture.run("edge", "edge")


def corners(capture: Capture) -> None:
    """Capture a run with every scenario and status, and a meter."""
    with _meter(capture.work / "meter.csv"):
        capture.run("corners", str(HERE / "corners.yaml"))


def remote(capture: Capture) -> None:
    """Capture a run with parts on virtual boards with slow links. Needs root."""
    with capture.lab("nano4") as devices:
        capture.run("remote", str(HERE / "remote.yaml"), variables=devices)


def digits(capture: Capture) -> None:
    """Capture records for the claims of papers/on-digits, with two seeds and short trainings."""
    capture.run("on-digits", "papers/on-digits", *SHORT)


def reading(capture: Capture) -> None:
    """Capture the output for existing records: those of the reference, and those of version 0.1.0."""
    folders = {path.name: path for path in sorted((capture.reference / "runs").iterdir())}
    if KEPT_RECORDS.is_dir():
        folders["kept"] = KEPT_RECORDS
    for name, folder in folders.items():
        place, step = str(folder), f"reading/{name}"
        for form in ("json", "csv", "latex", "github"):
            capture.ask(f"{step}/board-{form}", "leaderboard", place, "--format", form, "--columns", "all")
        capture.ask(
            f"{step}/board-within", "leaderboard", place, "--format", "json", "--all", "--within", "runtime"
        )
        capture.ask(f"{step}/records", "results", "show", place, "--json")
        capture.ask(f"{step}/listing", "results", "show", place)
        capture.ask(f"{step}/validate", "results", "validate", place)
    if "on-digits" in folders:
        place = str(folders["on-digits"])
        capture.ask("reading/on-digits/claims", "claims", "papers/on-digits", place, "--json", *SHORT)


STEPS: dict[str, Callable[[Capture], None]] = {
    step.__name__: step
    for step in (commands, lists, plans, claims, boards, smoke, corners, remote, digits, edge, reading)
}


@contextlib.contextmanager
def _meter(path: Path) -> Iterator[None]:
    """Write the log of a meter during the block: about 5 W, one line every 50 ms."""
    ended = threading.Event()

    def write() -> None:
        with path.open("w", buffering=1) as log:
            log.write("time,watt\n")
            while not ended.wait(0.05):
                now = time.time()
                log.write(f"{now:.6f},{5 + math.sin(now):.3f}\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--harness", type=Path, default=Path(sys.executable).parent / "harness")
    parser.add_argument("--only", action="append", choices=STEPS, help="this step (repeatable; default: all)")
    parser.add_argument("--reference", type=Path, help="a capture whose records the step `reading` reads")
    parser.add_argument("--cache", type=Path, help="HARNESS_CACHE of the runs (default: OUT/cache)")
    options = parser.parse_args()
    out = options.out.absolute()
    capture = Capture(
        out,
        options.harness.absolute(),
        (options.reference or out).absolute(),
        (options.cache or out / "cache").absolute(),
    )
    for name in options.only or STEPS:
        STEPS[name](capture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
