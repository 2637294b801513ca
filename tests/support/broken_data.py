"""A data set of which one image cannot be read. Processes that read images import it."""

from __future__ import annotations

import os
import signal

import numpy as np

from harness.data.opened import open_data
from harness.errors import SuiteError
from harness.types import DataInfo, DatasetEntry, Params
from harness.types.data import DataChoice

INFO = DataInfo(
    name="broken", shape=(1, 8, 8), class_names=("a", "b"), sizes={}, mean=(0.5,), std=(0.5,), fingerprint="f"
)


class Broken:
    """Twenty images, of which number 5 cannot be read. ``how`` says in which way."""

    labels = np.zeros(20, np.int64)

    def __init__(self, how):
        self.how = how

    def image(self, index):
        if index != 5:
            return np.zeros((8, 8, 1), np.uint8)
        if self.how == "suite":
            raise SuiteError("data/5.jpg: not an image that can be decoded")
        if self.how == "plugin":
            raise KeyError("five")
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((8, 8), np.uint8)

    def __len__(self):
        return 20


class BrokenParams(Params):
    how: str


def load_broken(params, split):
    return Broken(params.how)


def broken(how, load=load_broken):
    """Return the test split, of which no image is kept in memory."""
    entry = DatasetEntry(
        name="broken", summary="", params=BrokenParams, describe=lambda params: INFO, load=load
    )
    return open_data(entry, BrokenParams(how=how), DataChoice(name="broken"), keep_bytes=0).test
