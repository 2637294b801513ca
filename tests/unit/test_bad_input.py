"""Tests of wrong input: the answer is one line with place, fault and allowed values, and the exit code is 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import cli

GOOD = """\
suite: mine
data: {name: digits, image_size: 16}
seeds: [0, 1]
defaults:
  train: {epochs: 3}
measure: {min_time: 1s}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}}
  edge:
    from: cloud
    compress: [{edgevit: {blocks: 2}}]
  cut:
    from: cloud
    partition: {pipeline: {after: 1}}
devices:
  here: {backend: cpu}
  pair: {fleet: [here, here]}
run:
  - {methods: all, devices: [here]}
"""


@pytest.fixture
def harness(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, capsys.readouterr().err

    return call


def refused(answer: tuple[int, str]) -> str:
    code, text = answer
    assert code == 2, text
    assert text.startswith("error: "), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    for leak in (
        "nput should",
        "tring should",
        "valid integer",
        "union",
        "is_instance",
        "validation error",
        "pydantic",
        "type=",
    ):
        assert leak not in text, text
    return text


def test_the_suite_that_the_mistakes_are_made_in_is_good(harness):
    Path("mine.yaml").write_text(GOOD)
    code, text = harness("plan", "mine.yaml")
    assert code == 0, text


def test_top_level_keys_that_begin_with_x_are_the_author_s(harness):
    Path("mine.yaml").write_text(
        "x-recipe: &recipe {epochs: 1}\nx-note: anything\n"
        + GOOD
        + "  # the end\ndefaults: {train: {<<: *recipe}}\n"
        if "defaults:" not in GOOD
        else "x-note: &anything [1, {2: 3}]\n" + GOOD
    )
    code, text = harness("plan", "mine.yaml")
    assert code == 0, text
    assert "unknown key 'x-note'" in refused(harness("plan", "mine.yaml", "--set", "x-note=1"))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("seeds:", "seds:", 3, ["seds", "did you mean 'seeds'?"]),
        ("seeds: [0, 1]", "seeds: [0, 0]", 3, ["seeds", "twice"]),
        ("seeds: [0, 1]", "seeds: many", 3, ["seeds"]),
        ("seeds: [0, 1]", "seeds: [-1]", 3, ["seeds"]),
        ("seeds: [0, 1]\n", "seeds: [0, 1]\nseeds: [2]\n", 4, ["seeds", "written twice"]),
        ("suite: mine", "suite: a b", 1, ["suite: a name has letters, digits, '-' and '_'", "not 'a b'"]),
        ("suite: mine", "suite: mine\ntask: detection", 2, ["task", "image-classification"]),
        ("name: digits", "name: digit", 2, ["unknown dataset 'digit'", "did you mean 'digits'?"]),
        ("image_size: 16", "image_sise: 16", 2, ["image_sise", "did you mean 'image_size'?"]),
        ("image_size: 16", "image_size: big", 2, ["image_size: must be a whole number, not 'big'"]),
        ("image_size: 16", "image_size: 16.5", 2, ["image_size: must be a whole number, not 16.5"]),
        ("image_size: 16", "classes: [0, 99]", 2, ["classes", "99", "0 to 9"]),
        ("image_size: 16", "validation: 2", 2, ["validation"]),
        ("epochs: 3", "epoch: 3", 5, ["epoch", "did you mean 'epochs'?"]),
        ("epochs: 3", "learning_rate: 0.1", 5, ["learning_rate", "did you mean 'lr'?"]),
        ("epochs: 3", "wd: 0.1", 5, ["wd", "did you mean 'weight_decay'?"]),
        ("dim: 24", "embed_dim: 24", 8, ["embed_dim", "did you mean 'dim'?"]),
        ("epochs: 3", "epochs: -3", 5, ["epochs"]),
        ("epochs: 3", "lr: fast", 5, ["lr: must be a number, not 'fast'"]),
        ("epochs: 3", "compile: perhaps", 5, ["compile: must be true or false, not 'perhaps'"]),
        ("epochs: 3", "optimizer: 3", 5, ["optimizer: must be text, not 3"]),
        ("min_time: 1s", "min_time: 1 fortnight", 6, ["min_time", "500ms"]),
        ("min_time: 1s", "min_time: 9s, max_time: 2s", 6, ["max_time", "min_time"]),
        ("min_time: 1s", "scenario: server", 6, ["server needs target_qps"]),
        ("min_time: 1s", "scenario: server, target_qps: 0.1", 6, ["below 10 arrivals in max_time"]),
        ("min_time: 1s", "scenario: server, target_qps: 9, preset: devit", 6, ["preset: devit"]),
        ("min_time: 1s", "target_qps: 5", 6, ["target_qps belongs to scenario: server"]),
        (
            "min_time: 1s",
            "scenario: servr",
            6,
            ["'single-stream', 'offline', 'multi-stream' or 'server'", "servr"],
        ),
        ("min_time: 1s", "in_flight: 0", 6, ["greater than or equal to 1"]),
        (
            "min_time: 1s",
            "scenario: multi-stream, in_flight: 2",
            6,
            ["in_flight (2) has no effect with scenario"],
        ),
        ("min_time: 1s", "deadline: 5 minutes", 6, ["is no duration; write 500ms"]),
        ("min_time: 1s", "deadline: 0", 6, ["deadline is a time above 0"]),
        ("min_time: 1s", "on_missing: guess", 6, ["'fail' or 'substitute'"]),
        ("min_time: 1s", "on_missing: substitute", 6, ["substitute needs deadline"]),
        ("min_time: 1s", "robustness: 1", 6, ["write drop-1", "not 1"]),
        ("min_time: 1s", "robustness: drop-0", 6, ["write drop-1", "not 'drop-0'"]),
        ("fleet: [here, here]", "fleet: [here, here], input: jpeg", 17, ["'tensor' or 'raw'"]),
        ("{backend: cpu}", "{backend: cpu, input: raw}", 16, ["input belongs to a fleet"]),
        ("min_time: 1s", "streams: 4", 6, ["streams belongs to scenario: multi-stream"]),
        ("min_time: 1s", "scenario: multi-stream, batch: 3", 6, ["streams (8) is no multiple of batch (3)"]),
        ("min_time: 1s", "energy_error: two", 6, ["energy_error", "'two' is no share; write 2% or 0.02"]),
        ("min_time: 1s", "energy: off, energy_error: 2%", 6, ["energy_error has no effect"]),
        ("min_time: 1s", "cool_down: {below: 40}", 6, ["cool_down", "no sensor gives a temperature"]),
        ("min_time: 1s", "cool_down: {below: hot}", 6, ["cool_down.below", "'hot'"]),
        ("min_time: 1s", "preset: devitt", 6, ["preset", "'default', 'devit' or 'mlperf'", "devitt"]),
        ("backend: cpu", "backend: cpu, meters: [powrcap]", 16, ["unknown meter 'powrcap'"]),
        ("min_time: 1s", "scenario: offlin", 6, ["scenario", "offline"]),
        (
            "min_time: 1s",
            "energy: require",
            6,
            ["energy: require needs a meter, but on here no meter answers"],
        ),
        ("build: {vit:", "build: {vti:", 8, ["unknown model 'vti'", "did you mean 'vit'?"]),
        ("dim: 24", "dims: 24", 8, ["dims", "did you mean 'dim'?"]),
        ("dim: 24", "dim: 25", 8, ["25", "heads"]),
        ("dim: 24", "dim: many", 8, ["dim", "many"]),
        ("dim: 24, ", "", 8, ["dim", "missing"]),
        ("patch_size: 4", "patch_size: 5", 8, ["patch", "5", "16"]),
        (
            "from: cloud\n    compress",
            "from: clod\n    compress",
            10,
            ["no method 'clod'", "did you mean 'cloud'?"],
        ),
        ("from: cloud\n    compress", "from: edge\n    compress", 10, ["circle", "edge -> edge"]),
        (
            "edgevit: {blocks: 2}",
            "edgevitt: {blocks: 2}",
            11,
            ["unknown compressor", "did you mean 'edgevit'?"],
        ),
        ("edgevit: {blocks: 2}", "edgevit: {blocks: 9}", 11, ["blocks", "9", "depth of 3"]),
        ("edgevit: {blocks: 2}", "edgevit: {block: 2}", 11, ["block", "did you mean 'blocks'?"]),
        ("edgevit: {blocks: 2}", "edgevit: {blocks: 2, train: none}", 11, ["train", "head"]),
        (
            "compress: [{edgevit: {blocks: 2}}]",
            "compress: {edgevit: {blocks: 2}}",
            11,
            ["compress", "expected a list"],
        ),
        ("compress: [{edgevit: {blocks: 2}}]", "train: {epochs: 2}", 11, ["has no effect"]),
        ("compress: [{edgevit: {blocks: 2}}]", "place: round-robin", 11, ["only a split model"]),
        (
            "compress: [{edgevit: {blocks: 2}}]",
            "runtime: onnxruntim",
            11,
            ["unknown runtime", "did you mean"],
        ),
        ("pipeline: {after: 1}", "pipeline: {after: 3}", 14, ["after", "3"]),
        (
            "pipeline: {after: 1}",
            "pipelin: {after: 1}",
            14,
            ["unknown partitioner", "did you mean 'pipeline'?"],
        ),
        ("backend: cpu", "bakend: cpu", 16, ["needs one of backend: or fleet:; 'bakend' is neither"]),
        ("backend: cpu", "backend: cpus", 16, ["unknown backend", "did you mean 'cpu'?"]),
        ("backend: cpu", "backend: cpu, affinity: [4096]", 16, ["affinity", "4096", "allowed"]),
        ("backend: cpu", "backend: cpu, afinity: [0]", 16, ["afinity", "did you mean 'affinity'?"]),
        ("fleet: [here, here]", "fleet: [here, there]", 17, ["no device 'there'", "did you mean 'here'?"]),
        ("fleet: [here, here]", "fleet: [pair, here]", 17, ["is a fleet itself"]),
        ("fleet: [here, here]", "fleet: [here], central: pair", 17, ["not in the fleet"]),
        ("devices: [here]", "devices: [her]", 19, ["no device 'her'", "did you mean 'here'?"]),
        ("methods: all", "methods: [clod]", 19, ["no method 'clod'", "did you mean 'cloud'?"]),
        (
            "methods: all",
            "methods: al",
            19,
            ["run.0.methods: 'al'", "did you mean 'all'?", "allowed: all, or"],
        ),
        ("methods: all", "methods: edge", 19, ["run.0.methods: 'edge' is not a list", "like [edge]"]),
        ("methods: all", "method: all", 19, ["method", "did you mean 'methods'?"]),
        ("suite: mine", "suite: mine\nbaseline: clod", 2, ["no method 'clod'"]),
        ("suite: mine", "suite: mine\nrank_by: topp1", 2, ["no column 'topp1'", "did you mean 'top1'?"]),
        ("suite: mine", "suite: mine\nrank_by: Runtime", 2, ["'Runtime' is not a number"]),
        ("suite: mine", "suite: mine\nprepare: {device: 'cuda:7'}", 2, ["cuda:7"]),
        ("suite: mine", "suite: mine\nprepare: {device: gpu}", 2, ["'gpu' is not auto, cpu, cuda or cuda:N"]),
        ("suite: mine", "suite: mine\nprepare: {jobs: x}", 2, ["must be a whole number or 'auto', not 'x'"]),
        ("suite: mine", "suite: mine\nprepare: {processes: 0}", 2, ["prepare.processes", "1, not 0"]),
        ("suite: mine", "suite: mine\nprepare: {processes: two}", 2, ["prepare.processes", "'two'"]),
        (
            "suite: mine",
            "suite: mine\nprepare: {processes: 2, device: 'cuda:0'}",
            2,
            ["cuda:0", "write cuda"],
        ),
        ("cut:", "cut-${after}:", 12, ["grid"]),
        (
            "  cut:\n",
            "  edge-${k}:\n    grid: {k: [1]}\n    from: cloud\n    compress: [{edgevit: {blocks: '${j}'}}]\n  cut:\n",
            12,
            ["${j}", "k"],
        ),
        ("{after: 1}", "{after: !!python/object 1}", 14, ["tag"]),
        ("{after: 1}", "{after: [1}", 14, ["not valid YAML"]),
    ],
)
def test_a_mistake_in_a_suite(harness, old, new, line, words):
    assert old in GOOD
    Path("mine.yaml").write_text(GOOD.replace(old, new, 1))
    text = refused(harness("plan", "mine.yaml"))
    assert f"mine.yaml:{line}: " in text, text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"# nothing\n", ["is empty"]),
        (b"\x80\x81\xff", ["not a text file"]),
        (b"\x00\x01", ["not valid YAML"]),
        (b"- 1\n- 2\n", ["mapping"]),
        (b"just words", ["mapping"]),
        (b"a: " + b"x" * 300_000, ["at most 262,144"]),
        (
            b"a: &a [x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9))
                for c in range(ord("c"), ord("k"))
            ),
            ["aliases"],
        ),
        (b"suite: &a {x: *a}\n", ["itself"]),
    ],
)
def test_a_file_that_is_no_suite(harness, content, words):
    Path("mine.yaml").write_bytes(content)
    text = refused(harness("plan", "mine.yaml"))
    assert "mine.yaml" in text
    assert any(word in text for word in words), text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "edg"], ["edg", "did you mean 'edge'?"]),
        (["plan", "no/such.yaml"], ["no such file"]),
        (["plan", "."], ["is a directory"]),
        (["plna", "edge"], ["did you mean 'plan'?"]),
        (["plan"], ["SUITE"]),
        (["plan", "mine.yaml", "--set", "sedes=[1]"], ["--set sedes", "did you mean 'seeds'?"]),
        (["plan", "mine.yaml", "--set", "seeds"], ["key.path=value"]),
        (
            ["plan", "mine.yaml", "--set", "methods.clod.build=vit"],
            ["no method 'clod'", "did you mean 'cloud'?"],
        ),
        (
            ["plan", "mine.yaml", "--set", "data.imag_size=8"],
            ["--set data.imag_size: unknown key", "image_size"],
        ),
        (["plan", "mine.yaml", "--set", "measure.min_tim=1s"], ["--set measure.min_tim", "min_time"]),
        (["plan", "mine.yaml", "--set", "seeds.7=1"], ["--set seeds.7", "0 to 1"]),
        (["plan", "mine.yaml", "--set", "suite.x=1"], ["single value"]),
        (["plan", "mine.yaml", "--set", "seeds.²=1"], ["--set seeds.²", "0 to 1"]),
        (["plan", "mine.yaml", "--set", "seeds.٣=1"], ["--set seeds.٣", "0 to 1"]),
        (["plan", "mine.yaml", "--set", "seeds=[1"], ["--set seeds", "not valid YAML"]),
        (["plan", "mine.yaml", "--only", "clod"], ["--only clod", "did you mean 'cloud'?"]),
        (["plan", "mine.yaml", "--block", "edgevitt"], ["--block edgevitt", "did you mean 'edgevit'?"]),
        (["plan", "mine.yaml", "--device", "her"], ["--device her", "did you mean 'here'?"]),
        (["plan", "mine.yaml", "--device", "pair"], ["no run: block"]),
        (["plan", "mine.yaml", "--block", "timm"], ["unknown model 'vit'", "(blocked: timm)"]),
        (["plugins", "show", "edgevitt"], ["did you mean 'edgevit'?"]),
        (["run", "mine.yaml", "--set", "data.name=parquet", "--set", "data.path=nowhere"], ["nowhere"]),
        (["run", "mine.yaml", "--out", "mine.yaml"], ["mine.yaml"]),
        (["run", "mine.yaml", "--out", "/proc/nothing"], ["/proc/nothing"]),
        (["plan", "papers/edvt"], ["papers/edvt", "did you mean 'papers/edvit'?"]),
        (["plan", "papers/edvt.yaml"], ["papers/edvt.yaml", "did you mean 'papers/edvit'?"]),
        (["claims", "edge"], ["has no claims", "edge.claims.yaml"]),
        (["leaderboard", "nowhere"], ["nowhere"]),
        (["results", "show", "nowhere"], ["nowhere"]),
    ],
)
def test_a_mistake_on_the_command_line(harness, arguments, words):
    Path("mine.yaml").write_text(GOOD)
    text = refused(harness(*arguments))
    for word in words:
        assert word in text, text


def test_corrupt_data_is_named(harness):
    Path("data").mkdir()
    for name in ("train", "test"):
        Path(f"data/{name}.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    Path("mine.yaml").write_text(GOOD.replace("name: digits", "name: parquet, path: data"))
    text = refused(harness("run", "mine.yaml"))
    assert "data/" in text
    assert "parquet" in text


def test_absent_data_plans_with_a_warning_and_does_not_run(harness):
    Path("mine.yaml").write_text(
        GOOD.replace("name: digits", "name: parquet, path: data, num_classes: 3, shape: [3, 16, 16]")
    )
    code, text = harness("plan", "mine.yaml")
    assert code == 0, text
    assert "warning: " in text
    assert "data: not found" in text
    assert "not found" in refused(harness("run", "mine.yaml"))
