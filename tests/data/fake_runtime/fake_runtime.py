"""A runtime for tests of workers. Its sessions compute, count, sleep, allocate or die, as their artifact says."""

import os
import signal
import time

import numpy as np


class FakeSession:
    def __init__(self, what, options):
        self.what = what
        self.facts = {"precision": "float32", "threads": options.threads, "pid": os.getpid()}
        self.kept = np.ones(what.get("allocate_mb", 0) * 250_000, np.float32)
        self.calls = 0
        if "says" in what:
            print(what["says"], flush=True)

    def run(self, inputs):
        self.calls += 1
        if self.what.get("die_at") == self.calls:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what.get("raise_at") == self.calls:
            raise RuntimeError("the fake session fails on demand")
        time.sleep(self.what.get("first_s", 0) if self.calls == 1 else self.what.get("sleep_s", 0))
        if self.what.get("strict") and any(part.dtype != np.float32 for part in inputs):
            raise TypeError("this session takes float32 alone, as ONNX Runtime does")
        if self.what.get("counts"):
            return np.full_like(inputs[0], self.calls)
        return sum(np.asarray(part) for part in inputs) * np.float32(self.what.get("times", 1))

    def close(self):
        pass


def load(artifact, options):
    if artifact.meta.get("broken"):
        raise ValueError("the fake artifact is broken")
    return FakeSession(artifact.meta, options)
