"""Tests of `harness devices profile`: the line of a device of known speed, and repeated timing after a disturbance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import DeviceError
from harness.plan.profiles.stored import load_profile, write_profile
from harness.plugins import load_plugins
from harness.store.artifacts import Store
from harness.types import (
    Artifact,
    BackendEntry,
    DeviceInfo,
    DeviceReport,
    DeviceSpec,
    LatencyTrace,
    Params,
    PartTrace,
    PeerAddress,
    Samples,
    Unavailable,
    WarmUp,
)
from harness_profile.command import profile_of, report
from harness_profile.timing import PROBES, WORKLOAD, measure_profile, operation, small_vit

FIXED, SLOPE = 0.002, 500.0
TINY = [small_vit(8, 4, dim, depth, 2) for dim, depth in ((8, 1), (16, 2), (24, 3))] + [
    operation("matmul", "a product", (5, 8), dim=8, out=8)
]
INFO = DeviceInfo(name="board", backend="fake", model="A Board", kind="cpu", cores=4, memory_bytes=2**30)


class Board:
    """A device whose every inference takes what its line says; its arguments are kept in ``seen``."""

    def __init__(self, seen: list[Any], *, remote: bool, flagged: Iterator[bool] | None = None) -> None:
        self.info = replace(INFO, machine_id="m1") if remote else INFO
        self.remote, self.seen, self.flagged = remote, seen, flagged
        self.loaded: dict[str, Artifact] = {}

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: Any) -> None:
        self.seen.append("closed")

    def close(self) -> None:
        pass

    def infer(self, images: Any, batch: int) -> Any:
        raise AssertionError("a profile asks for no answers")

    def load(self, name: str, artifact: Artifact, runtime: Any) -> dict[str, Any]:
        self.loaded[name] = artifact
        return {"precision": "float32", "version": "1.2", "provider": "CPUExecutionProvider"}

    def connect(self, graph: Any, peers: Any) -> None:
        self.seen.append((tuple(part.name for part in graph.parts), dict(peers)))

    def serve(self, central: Any) -> PeerAddress:
        return PeerAddress(device="board", open="a:b")

    def measure(self, load: Any, images: np.ndarray) -> Samples:
        macs = next(iter(self.loaded.values())).meta["macs"]
        disturbed = self.flagged is not None and next(self.flagged, False)
        seconds = (FIXED + SLOPE * macs / 1e9) * (3 if disturbed else 1)
        return Samples(
            trace=LatencyTrace(latency_ns=np.full(11, round(seconds * 1e9)), window_ns=10**9, reached=True),
            warmup=WarmUp(latency_ns=np.zeros(0, np.int64), steady=not disturbed),
            first_ns=1,
            batch=1,
            here=DeviceReport(memory={"process_peak_bytes": 60 * 2**20}),
            parts=PartTrace(
                traffic={"sent_bytes:whole": 1_000_000},
                links={"rtt:whole": 2_000_000, "up:whole": 502_000_000},
            ),
        )


def backend(seen: list[Any], **more: Any) -> BackendEntry:
    return BackendEntry(
        name="fake",
        summary="a board of known speed",
        probe=lambda: [INFO],
        describe=lambda spec: INFO,
        open=lambda spec: Board(seen, **more),
    )


@pytest.fixture
def runtime() -> Any:
    """ONNX Runtime's entry, but an export writes nothing and remembers the module's MACs."""
    found = load_plugins().runtimes.get("onnxruntime")

    def export(ctx: Any, part: Any, params: Any) -> Artifact:
        from harness.methods import count

        inputs = tuple(edge.tensor for edge in part.inputs)
        counts = count(part.module, inputs)
        return Artifact(
            path=ctx.workdir,
            runtime="onnxruntime",
            precision="float32",
            weight_bytes=counts.weight_bytes,
            inputs=inputs,
            output=part.output,
            meta={"macs": counts.macs},
        )

    return replace(found, entry=replace(found.entry, export=export))


@pytest.fixture
def measured(tmp_path: Path, runtime: Any) -> Any:
    def run(entry: BackendEntry, **more: Any) -> Any:
        spec = DeviceSpec(name="board", backend="fake", params=Params(), threads=2)
        return measure_profile(
            entry, spec, runtime, Store(tmp_path), lambda text: None, code="1", probes=TINY, **more
        )

    return run


def test_a_device_of_known_speed_gives_its_line_back(measured: Any) -> None:
    seen: list[Any] = []
    profile = measured(backend(seen, remote=False))
    assert (profile.name, profile.device_model, profile.provenance) == ("board", "A Board", "measured")
    assert (profile.runtime, profile.precision, profile.threads) == ("onnxruntime", "float32", 2)
    assert "onnxruntime 1.2 CPUExecutionProvider" in profile.origin
    assert profile.line.fixed == pytest.approx(FIXED, rel=1e-3)
    assert [(p.kind, p.what) for p in profile.points] == [(probe.kind, probe.what) for probe in TINY]
    product = profile.points[-1]
    assert (product.macs, product.bytes) == (5 * 8 * 8, 4 * (64 + 40 + 40))
    assert profile.link is None
    assert seen == [(("whole",), {}), "closed"] * len(TINY)  # a fresh worker for each


def test_what_is_disturbed_is_timed_again_and_else_says_so(measured: Any) -> None:
    seen: list[Any] = []
    flags = iter([True, False, True, True])
    profile = measured(backend(seen, remote=False, flagged=flags))
    assert seen.count("closed") == len(TINY) + 2
    assert [p.flags for p in profile.points] == [(), ("unsteady",), (), ()]
    expected = [
        (FIXED + SLOPE * p.macs / 1e9) * factor
        for p, factor in zip(profile.points, (1, 3, 1, 1), strict=True)
    ]
    assert [p.seconds for p in profile.points] == pytest.approx(expected, rel=1e-6)


def test_the_link_of_a_board_is_timed_too(measured: Any) -> None:
    seen: list[Any] = []
    here = backend(seen, remote=False)
    spec = DeviceSpec(name="here", backend="fake", params=Params())
    profile = measured(backend(seen, remote=True), central=(here, spec))
    assert profile.link is not None
    assert profile.link.rtt_ms == 2.0
    assert profile.link.rate_mbps == pytest.approx(16.0)  # a megabyte in half a second
    assert (("whole",), {"whole": PeerAddress(device="board", open="a:b")}) in seen


def test_a_device_that_cannot_be_used_is_one_line(measured: Any) -> None:
    away = replace(
        backend([], remote=False), describe=lambda spec: Unavailable(name="x", reason="is off", fix="on")
    )
    with pytest.raises(DeviceError, match=r"board: is off \(on\)"):
        measured(away)
    gpu = replace(backend([], remote=False), describe=lambda spec: replace(INFO, kind="npu"))
    with pytest.raises(DeviceError, match="does not run on npu"):
        measured(gpu)


def test_the_probes_differ_and_span_two_decades() -> None:
    assert len({probe.what for probe in PROBES}) == len(PROBES)
    kinds = [probe.kind for probe in PROBES]
    assert all(kinds.count(kind) >= 3 for kind in ("model", "matmul", "attention", "mlp", "conv"))


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DEVICES", str(tmp_path / "devices.yaml"))
    (tmp_path / "devices.yaml").write_text("orin: {backend: jetson, host: 127.0.0.1}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["orni"], "orni: no board of the inventory, nor a backend; did you mean 'orin'?"),
        (
            ["cpu", "--runtime", "onnxruntim"],
            "--runtime: unknown runtime 'onnxruntim': did you mean 'onnxruntime'?",
        ),
        (["cpu", "--set", "cores=2"], "--set: cores: unknown key; allowed: affinity"),
        (["cpu", "--set", "affinity"], "--set affinity: write KEY=VALUE"),
        (["orin", "--set", "device=gpu"], "--set: device: "),
    ],
)
def test_a_wrong_word_is_one_line(folders: Path, arguments: list[str], why: str) -> None:
    done = CliRunner().invoke(cli, ["devices", "profile", *arguments])
    assert done.exit_code != 0
    assert why in f"{done.output}{done.exception}"


@pytest.mark.e2e
def test_this_machine_is_measured_and_found_by_plans(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = load_plugins()
    backend = plugins.backends.get("cpu").entry
    spec = DeviceSpec(name="cpu", backend="cpu", params=backend.params())
    workload = replace(WORKLOAD, stop=replace(WORKLOAD.stop, min_time_s=0.05, warmup="one"))
    made = profile_of(backend, spec, "onnxruntime", plugins, lambda text: None, TINY, workload)
    path = write_profile(made, None)
    report(made, path, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["provenance"] == "measured"
    assert all(0 < point["seconds"] < 1 for point in shown["points"])
    report(made, path, as_json=False)
    assert f"kept in {path}" in capsys.readouterr().out
    profile = load_profile("cpu")
    assert (profile.threads, profile.runtime) == (1, "onnxruntime")
    assert all(p.memory_bytes and p.memory_bytes > 2**24 for p in profile.points)
