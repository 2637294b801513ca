"""Checks the smoke suite's leaderboard: what must hold whatever the machine's speed."""

import json
import sys
from pathlib import Path

boards = json.loads(Path(sys.argv[1]).read_text())["boards"]
rows = {
    (row["method"], row["device"], board["key"]["scenario"]): row for board in boards for row in board["rows"]
}
here = {
    method: row
    for (method, device, scenario), row in rows.items()
    if device == "here" and scenario == "single-stream"
}
pair = {method: row for (method, device, _), row in rows.items() if device == "pair"}

assert set(here) == {
    "cloudvit",
    "edgevit-f2",
    "edgevit-f2-int8",
    "cloudvit-torch",
    "tformer",
    "devit-2",
    "edvit-2",
    "small",
    "small-x2",
    "pipeline-2",
}
assert set(pair) == {"devit-2", "edvit-2", "small-x2", "pipeline-2"}
assert ("cloudvit", "here", "offline") in rows
for key, row in rows.items():
    assert row["status"] == "ok", (key, row["status"], row["why"])
    assert row["seeds"] == 2, key
    assert row["latency_p50_ms"] > 0, key
    assert row["weights_mb"] > 0, key
    assert row["process_peak_mb"] > row["baseline_mb"] > 0, key
    assert row["energy_net_mj"] is None, key
    assert row["why"]["energy_net_mj"], key

assert here["cloudvit"]["top1"] > 85, here["cloudvit"]["top1"]
for method in ("edgevit-f2", "tformer", "devit-2", "edvit-2"):
    assert here[method]["top1"] > 50, (method, here[method]["top1"])
# the same weights answer alike: in another runtime, cut in two, on two workers
for other in (here["cloudvit-torch"], here["pipeline-2"], pair["pipeline-2"]):
    assert abs(other["top1"] - here["cloudvit"]["top1"]) < 0.3, other
for method in ("devit-2", "edvit-2"):
    assert abs(pair[method]["top1"] - here[method]["top1"]) < 0.3, method
    assert here[method]["params_m"] < here["cloudvit"]["params_m"], method
assert here["edgevit-f2-int8"]["weights_mb"] < 0.6 * here["edgevit-f2"]["weights_mb"]
assert here["edgevit-f2"]["macs_g"] < here["cloudvit"]["macs_g"]
assert pair["pipeline-2"]["weights_max_device_mb"] < pair["pipeline-2"]["weights_mb"]
assert pair["pipeline-2"]["nodes"] == 2
assert pair["pipeline-2"]["feature_bytes"] == 17 * 24 * 4  # class token and 16 patches, 24 channels, float32
assert all(
    board["key"]["provenance"] == "emulated"
    for board in boards
    if any(row["device"] == "pair" for row in board["rows"])
)
print(f"smoke: {len(rows)} rows are as they should be")
