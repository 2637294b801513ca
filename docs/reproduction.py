"""Writes docs/reproduction.md from the records of papers/on-digits and of the labs; `make reproduction` calls it.

python docs/reproduction.py results/local/on-digits results/local/nano4 results/local/nano6 results/local/pi10 \\
    results/local/pi10-size > docs/reproduction.md
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
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

BOARDS = """## Over boards, emulated

The shape of DeViT's Figure 9 and ED-ViT's Figure 3: what a model split over more boards gains and costs. `harness lab run
nano4`, `nano6` and `pi10`: virtual boards on this machine, the agents' own TLS streams over emulated links, what a
part computes *replayed* (its time alone on a core of this machine, slept): so the network and the harness' own costs are
those of a fleet, and the compute is a Xeon core's, not a Jetson's or a Pi's. One seed; accuracies are of small models, and
say nothing in nano6 and pi10-size, whose images are synthetic.

What shows: with real sizes (pi10-size) splitting pays at first, and then the image's way to ever more boards through one
port, and the harness' own cost per board on two cores, take it back; resident, as the papers count, it falls up to five
boards. Weights per board fall as in ED-ViT's Fig. 3. Behind 2 MB/s (nano4, nano6) the image is all of the latency, and each
board adds one. With models of milliseconds (pi10) there is nothing to gain.

p50: end to end at the central board, the image's transfer included; *resident*: the images were on the boards (what the
papers report). Bound: slowest part's compute in the query + its bytes over its link + fusion.
"""

LAB_COLUMNS = {
    "method": "method",
    "device": "fleet",
    "nodes": "boards",
    "top1": "top-1 %",
    "latency_p50_ms": "p50 ms",
    "latency_no_input_p50_ms": "resident ms",
    "critical_path_ms": "bound ms",
    "over_bound": "p50 / bound",
    "weights_max_device_mb": "weights, fullest board MB",
    "process_peak_mb": "peak, fullest board MB",
    "input_bytes": "image bytes",
    "feature_bytes": "feature bytes",
}


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
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"
    return "" if value is None else str(value)


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


def boards(folder: str) -> str:
    told = json.loads(harness("leaderboard", folder, "--format", "json"))["boards"]
    rows = [row for board in told for row in board["rows"]]
    rows.sort(key=lambda row: (row["nodes"] or 0, row["method"]))
    shown = [[number(row[name]) for name in LAB_COLUMNS] for row in rows]
    return f"### {Path(folder).name}\n\n" + table(shown, list(LAB_COLUMNS.values()))


def main(folder: str, *labs: str) -> None:
    columns = "method,top1,top1_oracle,params_m,macs_g,train_pmacs,seeds"
    board = harness("leaderboard", folder, "--format", "github", "--columns", columns).strip()
    print("\n".join([INTRODUCTION, ORDERINGS, orderings(folder), "", COUNTS, counts(), "", ROWS, board]))
    if labs:
        print("\n" + "\n\n".join([BOARDS.strip(), *map(boards, labs)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
