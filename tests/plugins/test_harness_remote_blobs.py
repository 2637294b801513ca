"""Tests of files that are sent to a board."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DeviceError
from harness_remote.agent.blobs import Blobs


def sha(content):
    return hashlib.sha256(content).hexdigest()


def put(blobs, content, step=7):
    held = blobs.held(sha(content), len(content))
    while held < len(content):
        held = blobs.write(sha(content), len(content), held, content[held : held + step])
    return blobs.path(sha(content))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def instead(make):
    def plant(path):
        path.unlink()
        make(path)

    return plant


DAMAGES = {
    "a flipped bit": flip,
    "truncated": lambda path: os.truncate(path, 20),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "missing": Path.unlink,
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a link to nothing": instead(lambda path: path.symlink_to("nowhere")),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs", 1000, 2000, reserve_bytes=0)


class TestSending:
    def test_in_pieces(self, blobs):
        content = bytes(range(256))
        assert put(blobs, content).read_bytes() == content
        assert blobs.held(sha(content), 256) == 256

    def test_it_continues_where_it_was(self, blobs, tmp_path):
        content = b"x" * 100
        assert blobs.write(sha(content), 100, 0, content[:40]) == 40
        again = Blobs(tmp_path / "blobs", 1000, 2000, reserve_bytes=0)
        assert again.held(sha(content), 100) == 40
        assert again.write(sha(content), 100, 40, content[40:]) == 100
        assert again.path(sha(content)).read_bytes() == content

    def test_nothing_is_used_before_it_is_whole(self, blobs):
        content = b"x" * 100
        blobs.write(sha(content), 100, 0, content[:99])
        with pytest.raises(DeviceError, match="not on the board"):
            blobs.path(sha(content))

    def test_another_content_is_thrown_away(self, blobs, tmp_path):
        name = sha(b"right")
        with pytest.raises(DeviceError, match="another content"):
            blobs.write(name, 5, 0, b"wrong")
        assert blobs.held(name, 5) == 0
        assert list((tmp_path / "blobs").iterdir()) == []
        assert blobs.write(name, 5, 0, b"right") == 5

    @pytest.mark.parametrize("again", [False, True], ids=["same process", "new process"])
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_blob_is_never_given_and_sent_again(self, blobs, tmp_path, damage, again):
        content = bytes(range(200))
        path = put(blobs, content)
        DAMAGES[damage](path)
        if again:
            blobs = Blobs(tmp_path / "blobs", 1000, 2000, reserve_bytes=0)
        with pytest.raises(DeviceError, match="send it"):
            blobs.path(path.name)
        assert put(blobs, content).read_bytes() == content
        DAMAGES[damage](path)
        assert put(blobs, content).read_bytes() == content

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_first_part_that_was_damaged_on_the_disk_is_sent_again(self, blobs, tmp_path, damage):
        content = b"x" * 100
        blobs.write(sha(content), 100, 0, content[:40])
        DAMAGES[damage](tmp_path / "blobs" / f"{sha(content)}.part")
        blobs = Blobs(tmp_path / "blobs", 1000, 2000, reserve_bytes=0)
        assert put(blobs, content).read_bytes() == content

    def test_a_blob_is_read_once(self, blobs, monkeypatch):
        path = put(blobs, b"x" * 100)
        monkeypatch.setattr(Path, "open", None)
        for _ in range(3):
            assert blobs.held(path.name, 100) == 100
            assert blobs.path(path.name) == path

    @pytest.mark.parametrize(
        ("offset", "data"), [(1, b"x"), (-1, b"x"), (3, b"xx"), (2, b"x" * 9), (0, b"x")]
    )
    def test_only_the_next_piece_is_taken(self, blobs, offset, data):
        name = sha(b"0123456789")
        blobs.write(name, 10, 0, b"01")
        with pytest.raises(DeviceError, match="where 2 of 10 are held"):
            blobs.write(name, 10, offset, data)
        assert blobs.held(name, 10) == 2

    def test_another_size(self, blobs):
        put(blobs, b"0123456789")
        with pytest.raises(DeviceError, match="has 10 bytes, not 11"):
            blobs.held(sha(b"0123456789"), 11)
        name = sha(b"abc")
        blobs.write(name, 900, 0, b"abcdef")
        assert blobs.held(name, 3) == 0  # begun as a longer one: from the start

    def test_whole_but_for_its_name(self, blobs, tmp_path):
        content = b"0123456789"
        (tmp_path / "blobs" / f"{sha(content)}.part").write_bytes(content)
        assert blobs.held(sha(content), 10) == 10
        assert blobs.path(sha(content)).read_bytes() == content

    @pytest.mark.parametrize("size", [0, -1, 1001, 2**63])
    def test_sizes_that_are_not_admitted(self, blobs, size):
        with pytest.raises(DeviceError, match="allowed are 1 to 1000"):
            blobs.write(sha(b""), size, 0, b"")

    @given(
        name=st.text(max_size=70) | st.just("../" + "a" * 61) | st.just("A" * 64) | st.just("a" * 64 + "\n")
    )
    def test_no_other_name_touches_the_disk(self, name):
        with tempfile.TemporaryDirectory() as folder:
            blobs = Blobs(Path(folder) / "blobs", 10, 10, reserve_bytes=0)
            for act in (
                lambda: blobs.held(name, 1),
                lambda: blobs.write(name, 1, 0, b"x"),
                lambda: blobs.path(name),
            ):
                with pytest.raises(DeviceError, match="named by its SHA-256"):
                    act()
            assert [path.name for path in Path(folder).rglob("*")] == ["blobs"]


class TestRoom:
    def test_the_least_recently_used_goes(self, blobs):
        contents = [bytes([i]) * 600 for i in range(4)]
        for i, content in enumerate(contents[:3]):
            os.utime(put(blobs, content, 600), (i, i))
        blobs.path(sha(contents[0]))  # now the second is the oldest
        put(blobs, contents[3], 600)
        assert [blobs.held(sha(content), 600) for content in contents] == [600, 0, 600, 600]

    def test_one_that_was_left_unfinished_goes_too(self, blobs):
        for i in range(10):
            blobs.write(sha(bytes([i])), 1000, 0, b"x" * 500)
        assert sum(blobs.held(sha(bytes([i])), 1000) for i in range(10)) <= 2000

    def test_a_low_disk_is_reported_and_nothing_is_dropped_in_vain(self, tmp_path):
        blobs = Blobs(tmp_path, 10**18, 10**19)
        kept = put(blobs, b"kept")
        with pytest.raises(DeviceError, match=r"the board's disk has .* MB free: .* make room"):
            blobs.write(sha(b"x"), 10**18, 0, b"x")
        assert kept.exists()

    def test_more_than_the_agent_keeps(self, tmp_path):
        blobs = Blobs(tmp_path, 1000, 500, reserve_bytes=0)
        with pytest.raises(DeviceError, match="the agent keeps"):
            blobs.write(sha(b"x"), 600, 0, b"x")

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_disk_that_fills_up_meanwhile(self, blobs, monkeypatch, code):
        content = b"x" * 100
        blobs.write(sha(content), 100, 0, content[:40])

        def full(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DeviceError, match="the board's disk is full"):
            blobs.write(sha(content), 100, 40, content[40:])
        monkeypatch.undo()
        assert blobs.held(sha(content), 100) == 100

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DeviceError, match="cannot make"):
            Blobs(tmp_path / "file" / "blobs", 1, 1)


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 40), st.booleans(), st.integers(-2, 2)), max_size=40
    )
)
def test_against_a_model(steps):
    """The board holds a prefix of the sent content. Only a whole file with the right hash can be used."""
    contents = [bytes([i]) * size for i, size in enumerate((1, 30, 50, 70, 100))]
    with tempfile.TemporaryDirectory() as folder:
        blobs = Blobs(Path(folder), 100, 10_000, reserve_bytes=0)
        held = [0] * 5
        for which, count, right, shift in steps:
            content, name = contents[which], sha(contents[which])
            size, begin = len(content), held[which] + shift
            piece = content[held[which] : held[which] + count] if right else b"\xff" * count
            try:
                held_now = blobs.write(name, size, begin, piece)
            except DeviceError:
                if shift == 0 and held[which] + len(piece) == size:
                    held[which] = 0  # whole, and wrong
                assert shift != 0 or not right or held[which] == 0
            else:
                held[which] = size if held[which] == size else held[which] + len(piece)
                assert held_now == held[which]
            assert blobs.held(name, size) == held[which]
            whole = Path(folder) / name
            assert whole.exists() == (held[which] == size)
            if whole.exists():
                assert whole.read_bytes() == content
                assert blobs.path(name) == whole
        assert all(len(path.name) in (64, 69) for path in Path(folder).iterdir())


SENDER = """
import hashlib, sys
from pathlib import Path
from harness_remote.agent.blobs import Blobs
blobs = Blobs(Path(sys.argv[1]), 10**7, 10**8, reserve_bytes=0)
content = bytes(range(256)) * 2000
name = hashlib.sha256(content).hexdigest()
held = blobs.held(name, len(content))
print(held, flush=True)
while held < len(content):
    held = blobs.write(name, len(content), held, content[held : held + 997])
print("whole", flush=True)
"""


def test_killed_again_and_again(tmp_path):
    content = bytes(range(256)) * 2000
    chance = random.Random(5)
    held = []
    for _ in range(6):
        sender = subprocess.Popen(
            [sys.executable, "-c", SENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        held.append(int(sender.stdout.readline()))
        time.sleep(chance.uniform(0, 0.01))
        sender.send_signal(signal.SIGKILL)
        sender.communicate(timeout=30)
        whole = tmp_path / sha(content)
        assert not whole.exists() or whole.read_bytes() == content
    assert held == sorted(held)
    blobs = Blobs(tmp_path, 10**7, 10**8, reserve_bytes=0)
    assert put(blobs, content, 10**6).read_bytes() == content
