"""Write results/README.md from the records in results/published.

`make published` calls this script:

    python docs/published.py results/published > results/README.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, printable
from harness.render import render
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import leaderboard_of
from harness.results.merged import Merged
from harness.store.files import read_regular
from harness.types.columns import COLUMNS
from harness.types.record import Record

COLUMNS_SHOWN = (
    *("tier", "method", "top1", "latency_p50_ms", "energy_net_mj", "params_m", "macs_g"),
    *("weights_mb", "process_peak_mb", "flags"),
)
"""The columns of the boards: few enough for the width of a page. A column without any value is left out."""

ALWAYS = ("tier", "method", "top1", "latency_p50_ms")

INTRODUCTION = """# Results

This page is made from the records in `results/published` by `make published`. Nothing on it is written by hand.

- Each folder `published/MACHINE/SUITE` has the records of one suite on one machine, their raw samples, the suite and
  the commands. [docs/results.md](../docs/results.md) describes the files.
- [docs/measuring.md](../docs/measuring.md) says how latency, memory, energy and accuracy are measured, what the columns
  and flags mean, and how rows are ranked.
- `results/local` has your own results. It is not in the repository.

To print a board with all columns, to check the records and samples, to see one record in full, and to measure again:

```
harness leaderboard results/published/MACHINE/SUITE --columns all --format csv
harness results validate results/published/MACHINE/SUITE
harness results show results/published/MACHINE/SUITE METHOD
harness run results/published/MACHINE/SUITE/suite.yaml
```

To add the results of your machine, follow [CONTRIBUTING.md](../CONTRIBUTING.md#submit-results).
"""

NOTHING = "There are no published results yet."


def page(root: Path) -> str:
    """Return the page of the folder ``root``: a section for each machine, and a board for each suite on it."""
    machines = [section(machine) for machine in folders(root) if folders(machine)]
    return "\n".join([INTRODUCTION, *(machines or [NOTHING + "\n"])]).rstrip() + "\n"


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder, by name."""
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def section(machine: Path) -> str:
    """Return the section of one machine."""
    suites = {folder: Results(folder).latest(current_only=True) for folder in folders(machine)}
    lines = [
        f"## {machine.name}",
        "",
        facts([record for records in suites.values() for record in records]),
        "",
    ]
    for folder, records in suites.items():
        lines += [f"### {folder.name}", "", origin(folder, records), "", board(folder), ""]
    return "\n".join(lines)


def facts(records: Sequence[Record]) -> str:
    """Return the facts of the machine and its software. Values that differ between records are all listed."""
    environments = [record.environment for record in records]
    virtual = any(environment.virtualised for environment in environments)
    versions = [
        f"{package} {several(environment.versions.get(package) for environment in environments)}"
        for package in ("edge-harness", "torch", "onnxruntime")
        if any(environment.versions.get(package) for environment in environments)
    ]
    memory = several(f"{(environment.memory_bytes or 0) / 2**30:.0f} GiB" for environment in environments)
    return (
        f"{several(environment.cpu for environment in environments)}, "
        f"{several(environment.cores_logical for environment in environments)} logical cores, {memory} memory"
        f"{', a virtual machine' if virtual else ''}. "
        f"{several(environment.os for environment in environments)}, "
        f"{several(environment.kernel for environment in environments)}, "
        f"Python {several(environment.python for environment in environments)}, {', '.join(versions)}."
    )


def several(values: Any) -> str:
    """Return the different values, in the order in which they appear."""
    return " or ".join(dict.fromkeys(plain(str(value)) for value in values if value is not None)) or "unknown"


def plain(text: str) -> str:
    """Return a text of a record as one short line in which no character is markup."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", printable(" ".join(text.split()))[:200])


def origin(folder: Path, records: Sequence[Record]) -> str:
    """Return how many cells were measured, when, and with which version and command."""
    runs = [json.loads(line) for line in read_regular(folder / "runs.jsonl", 2**24).splitlines()]
    states = [run["harness"] for run in runs]
    versions = several(
        state["version"] + (f" at commit {state['commit'][:12]}" if state.get("commit") else "")
        for state in states
    )
    days = sorted(record.started[:10] for record in records)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    seeds = sorted({record.seed for record in records})
    command = printable(str(runs[-1]["command"]))[:500].replace("`", "'")
    cells = f"{len(records)} cells" + (
        f" with the seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    )
    return f"{cells}, measured {when} with edge-harness {versions}: `{command}`"


def board(folder: Path) -> str:
    """Return the boards of one suite, with the columns that have values."""
    merged = Merged([Results(folder)], current_only=True)
    leaderboard = leaderboard_of(merged.records, merged.answers_of, place_of=merged.place_of)
    boards = json.loads(render(leaderboard, "json"))["boards"]
    rows = [row for each in boards for row in each["rows"]]
    columns = [
        name
        for name in COLUMNS_SHOWN
        if name in COLUMNS and (name in ALWAYS or any(row.get(name) not in (None, []) for row in rows))
    ]
    return re.sub(r"^### ", "#### ", render(leaderboard, "github", columns).strip(), flags=re.MULTILINE)


def main(root: str) -> None:
    """Print the page of the folder ``root``."""
    try:
        text = page(Path(root))
    except SuiteError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
