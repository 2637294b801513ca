"""Make a wheel of this distribution for a board: build it from a checkout, or pack the files of an installed wheel."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import harness
from harness.errors import DeviceError, last_line

__all__ = ["DISTRIBUTION", "make"]

DISTRIBUTION = "edge-harness"
_BUILD_S = 300
_LEFT_OUT = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}  # the installation added these
_STAMP = (2020, 1, 1, 0, 0, 0)  # a fixed time, so that the same content gives the same file


def make(into: Path) -> Path:
    """Make the wheel in the folder ``into``, and return its path.

    Raises:
        DeviceError: this is neither a checkout that can be built, nor an installed wheel.
    """
    checkout = Path(harness.__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return _build(checkout, into)
    try:
        return _pack(distribution(DISTRIBUTION), into)
    except PackageNotFoundError:
        raise DeviceError(
            f"{checkout} is neither a checkout nor an installed wheel of {DISTRIBUTION}: pip install it"
        ) from None


def _build(checkout: Path, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into)]
    try:
        import hatchling  # noqa: F401 - the build needs no network if its backend is installed

        command.append("--no-build-isolation")
    except ImportError:
        pass
    try:
        done = subprocess.run(
            [*command, str(checkout)], capture_output=True, text=True, timeout=_BUILD_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"pip wheel {checkout}: not done in {_BUILD_S} s") from None
    made = sorted(into.glob("edge_harness-*.whl"))
    if done.returncode or not made:
        reason = last_line(done.stderr or done.stdout, f"exit code {done.returncode}")
        raise DeviceError(f"cannot build a wheel of {checkout}: {reason}")
    return made[-1]


def _pack(installed: Distribution, into: Path) -> Path:
    info = f"edge_harness-{installed.version}.dist-info"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    path = into / f"edge_harness-{installed.version}-py3-none-any.whl"
    if not installed.files:
        raise DeviceError(f"{DISTRIBUTION} is installed without a RECORD: install it again, with pip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name, _STAMP), content, zipfile.ZIP_DEFLATED)

        for file in sorted(installed.files, key=str):
            if ".." in file.parts or file.suffix == ".pyc" or file.name in _LEFT_OUT:
                continue
            content = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            add(file.as_posix(), content)
            rows.writerow([file.as_posix(), f"sha256={digest}", len(content)])
        rows.writerow([f"{info}/RECORD", "", ""])
        add(f"{info}/RECORD", record.getvalue().encode())
    return path
