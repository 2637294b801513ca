"""Fixtures that several test files use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real data (``cifar10/{train,test}.parquet``); the test is skipped where there is none."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("HARNESS_TEST_DATA") or beside)
    if not (folder / "cifar10").is_dir():
        pytest.skip("real data not found: set HARNESS_TEST_DATA to a folder with cifar10/train.parquet")
    return folder
