"""Writes docs/reproduction.md from the records of ``harness run papers/on-digits``; `make reproduction` calls it.

python docs/reproduction.py results/local/on-digits > docs/reproduction.md
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tabulate import tabulate

PAPERS = {"edgevit": "EdgeViT", "tformer": "TFormer", "devit": "DeViT", "edvit": "ED-ViT"}
STATUSES = ("reproduced", "not-reproduced", "paper-contradicts-itself", "not-checkable-here")

INTRODUCTION = """# What of the papers is reproduced

`make reproduction` writes this page; nothing on it is written by hand.

Two kinds of claims are checked. **Counts** (parameters, operations, sizes) need no data: they are taken from the modules
that the plugins build, at the papers' own sizes (`harness claims papers/edvit`). **Orderings** ("this is better than
that") are checked on scikit-learn's digits with models of a few ten thousand parameters, trained from scratch in seconds.
That is far from the papers' data, and many of their claims need large pretrained weights: an ordering that does not show
here is not refuted. Accuracies of the papers are not claimed to be reproduced; none of their trainings was run.
"""

ORDERINGS = """## Orderings, on digits

`harness run papers/on-digits`, three seeds. The difference is in points of top-1, first minus second, mean over the
seeds; *reproduced* and *not-reproduced* (the other way round) are told by a paired test over the seeds at 5 %. The fair
comparisons, which no paper makes, stand among them.
"""

COUNTS = """## Counts, at the papers' sizes

*Paper contradicts itself*: two places of the paper disagree, so one cannot be met. *Not checkable here*: accuracies,
latencies and energies that need the papers' data, training or hardware.
"""

ROWS = """## The rows behind the orderings

Oracle: top-1 if each image were answered by the sub-model that owns its class, the ceiling of splitting by classes.
"""


def harness(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode == 2:
        sys.exit(done.stderr)
    return done.stdout


def claims(suite: str, *folder: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(harness("claims", f"papers/{suite}", *folder, "--json"))
    return told


def table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def orderings(folder: str) -> str:
    told = claims("on-digits", folder)["claims"]
    rows = [
        [c["table"], c["says"], "" if c["ours"] is None else f"{c['ours']:+.2f}", c["status"], c["why"]]
        for c in told
    ]
    return table(rows, ["where", "claim", "points", "verdict", "test"])


def counts() -> str:
    told = {paper: claims(paper) for paper in PAPERS}
    summary = [
        [PAPERS[paper], *(str(found["summary"][status]) for status in STATUSES)]
        for paper, found in told.items()
    ]
    missed = [
        [
            PAPERS[paper],
            c["table"],
            c["says"],
            number(c["published"]),
            number(c["ours"]),
            f"{c['tolerance']} {c['unit']}",
        ]
        for paper, found in told.items()
        for c in found["claims"]
        if c["status"] == "not-reproduced"
    ]
    against = [
        [PAPERS[paper], c["table"], c["says"], number(c["published"]), number(c["ours"]), c["why"]]
        for paper, found in told.items()
        for c in found["claims"]
        if c["status"] == "paper-contradicts-itself"
    ]
    return "\n\n".join(
        [
            table(summary, ["paper", *STATUSES]),
            "What was not met, with both figures:",
            table(missed, ["paper", "where", "claim", "paper's", "ours", "within"]),
            "Where the papers contradict themselves:",
            table(against, ["paper", "where", "claim", "paper's", "ours", ""]),
        ]
    )


def main(folder: str) -> None:
    columns = "method,top1,top1_oracle,params_m,macs_g,train_pmacs,seeds"
    board = harness("leaderboard", folder, "--format", "github", "--columns", columns).strip()
    print("\n".join([INTRODUCTION, ORDERINGS, orderings(folder), "", COUNTS, counts(), "", ROWS, board]))


if __name__ == "__main__":
    main(*sys.argv[1:])
