"""Tests of replay: a part's time when it runs alone, and its real output."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.errors import DeviceError
from harness_remote.lab.replay import VARIABLE, ReplayedSession, replayed


class Busy:
    """Doubles its input, and takes 5 ms for it."""

    def __init__(self) -> None:
        self.facts = {"threads": 1}
        self.runs = 0
        self.at_work = 0
        self.crowded = False
        self.closed = False

    def run(self, inputs):
        self.runs += 1
        self.at_work += 1
        self.crowded |= self.at_work > 1
        time.sleep(0.005)
        self.at_work -= 1
        return 2 * inputs[0]

    def close(self) -> None:
        self.closed = True

    def device_memory(self):
        return {"peak": 1}


def images(n: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 3, 4, 4), dtype=np.float32)


def test_the_lock_file_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Busy()
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(DeviceError, match=r"replay: HARNESS_REPLAY names no lock file"):
        replayed(session)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "lock"))
    assert isinstance(replayed(session), ReplayedSession)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no" / "lock"))
    with pytest.raises(DeviceError, match=r"replay: .*No such file"):
        replayed(session)


def test_what_was_rehearsed_is_not_computed_again(tmp_path: Path) -> None:
    session = Busy()
    slept = []
    clock = SimpleNamespace(
        perf_counter_ns=lambda: 5_000_000 * session.runs + sum(slept),
        sleep=lambda seconds: slept.append(round(seconds * 1e9) + 150_000),
    )
    replay = ReplayedSession(session, tmp_path / "lock", clock)
    assert np.array_equal(replay.rehearse([images()]), 2 * images())
    runs = session.runs
    replay.rehearse([images()])
    assert np.array_equal(replay.run([images()]), 2 * images())
    assert session.runs == runs
    assert sum(slept) == 5_000_000
    assert replay.facts["threads"] == 1
    assert (replay.facts["replayed"], replay.facts["rehearsed"], replay.facts["computed"]) == (True, 1, 0)
    assert replay.facts["solo_ms"] == 5


def test_a_session_that_reuses_its_buffer_is_replayed_rightly(tmp_path: Path) -> None:
    class Reuses(Busy):
        buffer = np.zeros((1, 3, 4, 4), np.float32)

        def run(self, inputs):
            self.buffer[:] = super().run(inputs)
            return self.buffer

    replay = ReplayedSession(Reuses(), tmp_path / "lock")
    for seed in (1, 2):
        replay.rehearse([images(seed=seed)])
    for seed in (1, 2):
        assert np.array_equal(replay.run([images(seed=seed)]), 2 * images(seed=seed))


def test_another_input_is_computed_and_counted(tmp_path: Path) -> None:
    replay = ReplayedSession(Busy(), tmp_path / "lock")
    replay.rehearse([images()])
    for other in (images(seed=1), images(2), images().reshape(1, 3, 16), images().astype(np.float16)):
        assert np.array_equal(replay.run([other]), 2 * other)
    assert replay.facts["computed"] == 4
    replay.rehearse([images()])
    assert replay.facts["computed"] == 0


def test_its_session_is_still_there(tmp_path: Path) -> None:
    session = Busy()
    replay = ReplayedSession(session, tmp_path / "lock")
    assert hasattr(replay, "device_memory")
    assert not hasattr(replay, "something_else")
    replay.close()
    assert session.closed


@pytest.mark.clock
def test_many_at_once_take_what_one_takes_alone(tmp_path: Path) -> None:
    shared = Busy()
    boards = [ReplayedSession(shared, tmp_path / "lock") for _ in range(6)]

    def at_once(name: str) -> list[float]:
        took = []

        def one(board: ReplayedSession) -> None:
            start = time.perf_counter()
            getattr(board, name)([images()])
            took.append(time.perf_counter() - start)

        threads = [threading.Thread(target=one, args=(board,)) for board in boards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took

    at_once("rehearse")
    assert not shared.crowded  # one at a time, whichever board asks
    solo = max(board.facts["solo_ms"] for board in boards) / 1e3
    rounds = [at_once("run") for _ in range(9)]  # threads of one process also wait for each other
    assert min(map(max, rounds)) < solo + 0.002
    assert min(map(min, rounds)) >= min(board.facts["solo_ms"] for board in boards) / 1e3
