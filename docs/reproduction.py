"""Write docs/reproduction.md from the records of papers/on-digits and of the labs.

`make reproduction` calls this script:

    python docs/reproduction.py results/local/on-digits results/local/nano4 results/local/nano6 \\
        results/local/pi10 results/local/pi10-size > docs/reproduction.md
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

INTRODUCTION = """# What is reproduced of the papers

`make reproduction` writes this page. Nothing on it is written by hand.

Two kinds of claims are checked:

- **Counts** (parameters, operations, sizes) need no data. They are taken from the modules that the plugins build, at
  the papers' own sizes (`harness claims papers/edvit`).
- **Orderings** ("this is better than that") are checked on scikit-learn's digits. The models have a few ten thousand
  parameters and are trained from scratch in seconds.

The orderings are checked far from the papers' data, and many claims need large pretrained weights. So an ordering
that does not show here is not refuted. We do not claim to reproduce the accuracies of the papers. None of their
trainings was run.
"""

ORDERINGS = """## Orderings, on digits

The command is `harness run papers/on-digits`, with three seeds. The difference is in points of top-1: the first
method minus the second, as the mean over the seeds. A paired test over the seeds at 5 % decides between *reproduced*
and *not-reproduced* (the opposite direction). The table also contains fair comparisons, which no paper makes.
"""

COUNTS = """## Counts, at the papers' sizes

*Paper contradicts itself*: two places of the paper disagree, so one of them cannot be reproduced. *Not checkable
here*: accuracies, latencies and energies that need the papers' data, training or hardware.
"""

ROWS = """## The rows behind the orderings

The oracle is the top-1 if the sub-model that has an image's class answered this image. It is the upper bound of
splitting by classes.
"""

BOARDS = """## On several boards, emulated

These tables have the form of DeViT's Figure 9 and ED-ViT's Figure 3. They show what a model gains and costs if it is
split over more boards. The commands are `harness lab run nano4`, `nano6` and `pi10`. They run virtual boards on this
machine. The agents use their own TLS connections over emulated links. The compute of a part is *replayed*: its time
alone on a core of this machine is measured, and then slept. So the costs of the network and of the harness are those
of a fleet. The compute is that of a Xeon core, not of a Jetson or a Pi. There is one seed. The accuracies are those
of small models. In nano6 and pi10-size they mean nothing, because the images are synthetic.

The results are:

- With real sizes (pi10-size), splitting first reduces the latency. With more boards, two costs cancel the gain: the
  image must reach every board through one port, and the harness has its own cost per board on two cores.
- The resident latency, which the papers report, falls up to five boards.
- The weights per board fall as in ED-ViT's Fig. 3.
- At 2 MB/s (nano4, nano6), the transfer of the image is all of the latency. Each further board adds one transfer.
- With models that take milliseconds (pi10), splitting gains nothing.

*p50* is end to end at the central board and includes the transfer of the image. *Resident* means that the images were
already on the boards, as in the papers. The *bound* is the slowest part's compute in the query + its bytes over its
link + fusion.
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
    """Run a command of the harness and return its output. Exit if the input was wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode == 2:
        sys.exit(done.stderr)
    return done.stdout


def claims(suite: str, *folder: str) -> dict[str, Any]:
    """Return the JSON of ``harness claims``: the verdict of each claim of a paper's suite."""
    verdicts: dict[str, Any] = json.loads(harness("claims", f"papers/{suite}", *folder, "--json"))
    return verdicts


def table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"
    return "" if value is None else str(value)


def orderings(folder: str) -> str:
    verdicts = claims("on-digits", folder)["claims"]
    rows = [
        [c["table"], c["says"], "" if c["ours"] is None else f"{c['ours']:+.2f}", c["status"], c["why"]]
        for c in verdicts
    ]
    return table(rows, ["where", "claim", "points", "verdict", "test"])


def counts() -> str:
    verdicts = {paper: claims(paper) for paper in PAPERS}
    summary = [
        [PAPERS[paper], *(str(answer["summary"][status]) for status in STATUSES)]
        for paper, answer in verdicts.items()
    ]
    not_reproduced = [
        [
            PAPERS[paper],
            c["table"],
            c["says"],
            number(c["published"]),
            number(c["ours"]),
            f"{c['tolerance']} {c['unit']}",
        ]
        for paper, answer in verdicts.items()
        for c in answer["claims"]
        if c["status"] == "not-reproduced"
    ]
    contradicted = [
        [PAPERS[paper], c["table"], c["says"], number(c["published"]), number(c["ours"]), c["why"]]
        for paper, answer in verdicts.items()
        for c in answer["claims"]
        if c["status"] == "paper-contradicts-itself"
    ]
    return "\n\n".join(
        [
            table(summary, ["paper", *STATUSES]),
            "These counts were not reproduced. The table shows both figures:",
            table(not_reproduced, ["paper", "where", "claim", "paper's", "ours", "within"]),
            "In these places the papers contradict themselves:",
            table(contradicted, ["paper", "where", "claim", "paper's", "ours", ""]),
        ]
    )


def boards(folder: str) -> str:
    tables = json.loads(harness("leaderboard", folder, "--format", "json"))["boards"]
    rows = [row for board in tables for row in board["rows"]]
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
