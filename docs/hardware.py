"""Print rows for the table of docs/hardware.md.

The input is the JSON that owners of boards make with ``harness devices check --json``:

    harness devices check --json > mine.json; python docs/hardware.py mine.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HEADER = ("Board", "System", "ONNX Runtime", "Meters that answer", "Harness", "Checked")


def row(board: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one board's row. They contain no name, address or serial number."""
    memory = f"{board['memory_bytes'] / 2**30:.1f} GiB"
    model = f"{board['model']} ({board['soc']})" if board["soc"] else board["model"]
    kind = "emulated: " if board["emulated"] else "virtual machine: " if board["virtualised"] else ""
    jetpack = f", JetPack {board['jetpack']['release']}" if board["jetpack"] else ""
    runtime = board["onnxruntime"]
    providers = (provider.removesuffix("ExecutionProvider") for provider in runtime.get("providers", ()))
    return (
        f"{kind}{model}, {board['cores']} cores, {memory}",
        f"{board['os']}{jetpack}, Python {board['python']}",
        f"{runtime['version']} ({', '.join(providers)})" if "version" in runtime else runtime["error"],
        ", ".join(sorted({meter["name"] for meter in board["meters"]})) or "none",
        board["version"],
        board["checked"] + ("" if board["usable"] else ", not usable"),
    )


def table(boards: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table with one row for each board that was reached."""
    rows = sorted({row(board) for board in boards if "model" in board})
    lines = [HEADER, ("---",) * len(HEADER), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python docs/hardware.py FILE...   (each from `harness devices check --json`)")
    print(table(board for name in sys.argv[1:] for board in json.loads(Path(name).read_text())))
