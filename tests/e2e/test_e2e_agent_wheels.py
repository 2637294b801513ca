"""Tests that wheels exist for boards for all of the agent's requirements, and that torch is not one of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness_remote.setup import provision, wheel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("glibc", "python"),
    [
        pytest.param((2, 28), (3, 10), id="3.10"),
        pytest.param((2, 28), (3, 11), id="3.11", marks=pytest.mark.soak),
        pytest.param((2, 28), (3, 12), id="3.12", marks=pytest.mark.soak),
        pytest.param((2, 28), (3, 13), id="3.13"),
        pytest.param((2, 27), (3, 10), id="JetPack 4", marks=pytest.mark.soak),
        pytest.param((2, 27), (3, 12), id="JetPack 4, newer Python", marks=pytest.mark.soak),
    ],
)
def test_aarch64_has_wheels_of_all_that_the_agent_needs(tmp_path, glibc, python):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--report",
            str(report),
            "--target",
            str(tmp_path / "T"),
            *provision.target_options("aarch64", glibc, python),
            f"{wheel.make(tmp_path)}[agent]",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    resolved = json.loads(report.read_text())["install"]
    names = {one["metadata"]["name"].lower().replace("_", "-") for one in resolved}
    assert {"edge-harness", "numpy", "grpcio", "onnxruntime", "protobuf", "cryptography", "psutil"} <= names
    assert not names & {"torch", "timm", "onnx", "scipy", "pyarrow"}
    files = [one["download_info"]["url"].rpartition("/")[2] for one in resolved]
    assert all(file.endswith(("aarch64.whl", "none-any.whl")) for file in files), files
    compiled = [file for file in files if file.endswith("aarch64.whl")]
    tag = f"cp{python[0]}{python[1]}"
    assert all(tag in file or "abi3" in file for file in compiled), compiled
