"""Write docs/reproduction.md from the papers' suites and the records in results/published.

`make reproduction` calls this script:

    python docs/reproduction.py results/published > docs/reproduction.md
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tabulate import tabulate

PAPERS = {"edgevit": "EdgeViT", "tformer": "TFormer", "devit": "DeViT", "edvit": "ED-ViT"}
SCALES = ("on-digits", "on-cifar10")
"""Suites with the ordering claims, from the smallest data to the largest."""

LABS = ("nano4", "nano6", "pi10", "pi10-size")
STATUSES = (
    *("reproduced", "within-tolerance", "reproduced-fitted", "not-reproduced"),
    *("paper-contradicts-itself", "not-checkable-here"),
)
"""The statuses that a paper's own claims can have without records."""

INTRODUCTION = """# What is reproduced of the papers

`make reproduction` writes this page from the papers' suites and from the records in `results/published`. Nothing on
it is written by hand.

Two kinds of claims are checked:

- **Counts** (parameters, operations, sizes) need no data. They are taken from the modules that the plugins build, at
  the papers' own sizes (`harness claims papers/edvit`).
- **Orderings** ("this is better than that") are tried on smaller data than the papers', with small models that are
  trained from scratch.

Each ordering has one verdict per data scale. A verdict says what was seen at that scale. It neither reproduces nor
refutes the paper, because many claims need large pretrained weights and the papers' data. At the papers' own scale
no training was run, so none of their accuracies is reproduced here.
"""

ORDERINGS = """## Orderings, by data scale

*Holds*: the difference has the claimed direction. *Opposite*: it has the other direction. *Undecided*: the test cannot
tell the two methods apart. The test has images and training seeds as random effects
([measuring.md](measuring.md#tables-tiers-and-ranks)), and decides at 5%. It is not corrected for the number of claims.
The difference is in points of top-1: the first method minus the second, as the mean over the seeds. The interval is
the 95% interval of the difference.

The table also contains fair comparisons, which no paper makes. A comparison at equal training compute is judged only
if the two methods spent the same within 10%. A second table has what they spent.
"""

COUNTS = """## Counts, at the papers' sizes

A number is *reproduced* if ours rounds to the digits that the paper prints. *Within tolerance*: it misses the printed
digit, and a tolerance with a stated reason admits it. *Reproduced fitted*: our configuration was chosen to meet the
number. *Paper contradicts itself*: two places of the paper disagree, so one of them cannot be reproduced. *Not
checkable here*: accuracies, latencies and energies that need the papers' data, training or hardware. A figure that
the paper prints twice is counted once.
"""

ROWS = """## The rows behind the orderings

The oracle is the top-1 if the sub-model that has an image's class answered this image. It is the upper bound of
splitting by classes.
"""

BOARDS = """## On several boards, emulated

These tables have the form of DeViT's Figure 9 and ED-ViT's Figure 3. They show what a model gains and costs if it is
split over more boards. The commands are `harness lab run nano4`, `nano6` and `pi10`. They run virtual boards on one
machine. The agents use their own TLS connections over emulated links. The compute of a part is *replayed*: its time
alone on a core of the machine is measured, and then slept. So the costs of the network and of the harness are those
of a fleet. The compute is that of the machine's core, not of a Jetson or a Pi. There is one seed. The accuracies are
those of small models. In nano6 and pi10-size they mean nothing, because the images are synthetic.

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


NONE = "No records of this are published yet."


def harness(*arguments: str) -> str:
    """Run a command of the harness and return its output. Exit if the input was wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    return done.stdout


def claims(suite: str, *folder: str) -> dict[str, Any]:
    """Return the JSON of ``harness claims``: the verdict of each claim of a paper's suite."""
    verdicts: dict[str, Any] = json.loads(harness("claims", f"papers/{suite}", *folder, "--json"))
    return verdicts


def folder_of(suite: str, root: Path) -> Path | None:
    """Return the folder with the results of a suite, or None. Of several machines, the one with most records counts."""
    folders = sorted(root.glob(f"*/{suite}/records.jsonl"))
    most = max(folders, key=lambda path: path.read_bytes().count(b"\n"), default=None)
    return None if most is None else most.parent


def table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"
    return "" if value is None else str(value)


def tried(verdict: dict[str, Any] | None) -> list[str]:
    """Return the cells of one ordering at one scale: points, interval, verdict."""
    if verdict is None:
        return ["", "", "not tried"]
    points = "" if verdict["ours"] is None else f"{verdict['ours']:+.2f}"
    interval = " to ".join(f"{bound:+.2f}" for bound in verdict["interval"] or ())
    words = verdict["status"]
    if words == "not-checkable-here":
        words = f"not tried: {verdict['why']}"
    return [points, interval, words]


def orderings(scales: dict[str, dict[str, Any]]) -> str:
    """Return the table of the orderings, with columns for each scale, and the table of training compute."""
    names = dict.fromkeys(c["claim"] for answer in scales.values() for c in answer["claims"])
    by_scale = {scale: {c["claim"]: c for c in answer["claims"]} for scale, answer in scales.items()}
    rows, spent = [], []
    for name in names:
        verdicts = [own.get(name) for own in by_scale.values()]
        claim = next(verdict for verdict in verdicts if verdict is not None)
        rows.append(
            [claim["table"], claim["says"], *(cell for verdict in verdicts for cell in tried(verdict))]
        )
        if "fair comparison" in claim["table"]:
            spent += [
                [claim["says"], scale, *(f"{pmacs:.3g}" for pmacs in own[name]["compute"])]
                for scale, own in by_scale.items()
                if name in own and own[name]["compute"]
            ]
    headers = [
        "where",
        "claim",
        *(f"{scale}: {word}" for scale in scales for word in ("points", "interval", "verdict")),
    ]
    tables = [table(rows, headers)]
    if spent:
        heading = ["claim", "scale", "PMACs of the first method", "PMACs of the second"]
        tables += ["The training compute of the fair comparisons:", table(spent, heading)]
    return "\n\n".join(tables)


def origins(folders: dict[str, Path]) -> str:
    """Return a table with what was tried at each scale: suite, seeds, machine, version."""
    rows = []
    for scale, folder in folders.items():
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        run = json.loads((folder / "runs.jsonl").read_text().splitlines()[-1])["harness"]
        seeds = len({record["seed"] for record in records})
        commit = f" at commit {run['commit'][:12]}" if run["commit"] else ""
        device = ", ".join(sorted({record["device"]["model"] for record in records}))
        rows.append([scale, f"papers/{folder.name}", str(seeds), device, run["version"] + commit])
    return table(rows, ["scale", "suite", "seeds", "device", "version"])


def counts(verdicts: dict[str, dict[str, Any]]) -> str:
    """Return the table with the number of claims by status, and a table for each status that needs a word."""
    summary = [
        [PAPERS[paper], *(str(answer["summary"][status]) for status in STATUSES)]
        for paper, answer in verdicts.items()
    ]

    def own(status: str) -> list[tuple[str, dict[str, Any]]]:
        return [
            (PAPERS[paper], claim)
            for paper, answer in verdicts.items()
            for claim in answer["claims"]
            if claim["status"] == status and claim["same_as"] is None
        ]

    tables = [table(summary, ["paper", *STATUSES])]
    for status, words in (
        ("not-reproduced", "These numbers were not reproduced:"),
        ("within-tolerance", "These numbers miss the printed digit and are within a tolerance:"),
        ("reproduced-fitted", "These numbers are met by a configuration that was chosen to meet them:"),
        ("paper-contradicts-itself", "In these places the papers contradict themselves:"),
    ):
        if chosen := own(status):
            tables += [words, verdict_table(chosen)]
    return "\n\n".join(tables)


def verdict_table(claims: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Return a table of verdicts on numbers: the paper's figure, ours, the tolerance, and what is behind them."""
    rows = [
        [
            paper,
            claim["table"],
            claim["says"],
            f"{claim['printed'] or number(claim['published'])} {claim['unit']}".strip(),
            number(claim["ours"]),
            claim["tolerance"],
            claim["why"],
        ]
        for paper, claim in claims
    ]
    headers = ["paper", "where", "claim", "paper's", "ours", "within", ""]
    shown = [i for i, header in enumerate(headers) if i < 5 or any(row[i] for row in rows)]
    return table([[row[i] for i in shown] for row in rows], [headers[i] for i in shown])


def board(scale: str, folder: Path) -> str:
    """Return the leaderboard of a scale."""
    columns = "method,top1,top1_oracle,params_m,macs_g,train_pmacs,seeds"
    text = harness("leaderboard", str(folder), "--format", "github", "--columns", columns).strip()
    return f"### {scale}\n\n" + text.replace("### ", "#### ")


def lab(folder: Path) -> str:
    """Return the rows of a lab, sorted by the number of boards."""
    tables = json.loads(harness("leaderboard", str(folder), "--format", "json"))["boards"]
    rows = [row for each in tables for row in each["rows"]]
    rows.sort(key=lambda row: (row["nodes"] or 0, row["method"]))
    shown = [[number(row[name]) for name in LAB_COLUMNS] for row in rows]
    return f"### {folder.name}\n\n" + table(shown, list(LAB_COLUMNS.values()))


def main(root: str) -> None:
    """Print the page."""
    places = {suite: folder_of(suite, Path(root)) for suite in (*SCALES, *LABS)}
    answers = {suite: claims(suite, str(places[suite])) for suite in SCALES if places[suite] is not None}
    scales = {answer["scale"] or suite: answer for suite, answer in answers.items()}
    folders = {answer["scale"] or suite: places[suite] for suite, answer in answers.items()}
    lab_folders = [folder for suite in LABS if (folder := places[suite]) is not None]
    tried_here = [origins(folders), orderings(scales)] if scales else [NONE]
    rows = [board(scale, folder) for scale, folder in folders.items()] or [NONE]
    print(
        "\n\n".join(
            [
                *(INTRODUCTION.strip(), ORDERINGS.strip(), *tried_here),
                *(COUNTS.strip(), counts({paper: claims(paper) for paper in PAPERS})),
                *(ROWS.strip(), *rows),
                *(BOARDS.strip(), *(map(lab, lab_folders) if lab_folders else [NONE])),
            ]
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
