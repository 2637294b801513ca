"""Tests of the inventory of boards: valid files, refused files, and edits that change nothing else."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import SuiteError
from harness_remote.inventory.inventory import Board, Inventory, default_path, target
from harness_remote.wire.addresses import is_loopback, resolves_to_loopback
from harness_remote.wire.secrets import Credentials

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
WRITTEN = """\
# mine
pi1:   # in the kitchen
  backend: raspberry-pi
  host: 192.168.1.11
  certificate: pi1.crt
  token: pi1.token
  labels: [kitchen]
  meters: [{ina226: {bus: 1}}, csv]

# the new one
nano: {backend: jetson, host: "::1", port: 99,
  via: {pi1: "10.0.0.2:99"}}
# the end
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "devices.yaml"
    path.write_text(WRITTEN)
    (tmp_path / "pi1.crt").write_text(CERTIFICATE)
    token = tmp_path / "pi1.token"
    token.write_text("secret-word\n")
    token.chmod(0o600)
    return path


def test_what_is_written_is_read(file: Path) -> None:
    inventory = Inventory.load(file)
    pi, nano = inventory.boards["pi1"], inventory.boards["nano"]
    assert (pi.backend, pi.host, pi.labels) == ("raspberry-pi", "192.168.1.11", ("kitchen",))
    assert [(one.name, one.params) for one in pi.meters] == [("ina226", {"bus": 1}), ("csv", {})]
    assert inventory.credentials("pi1") == Credentials(
        target(pi.host, pi.port), CERTIFICATE.encode(), "secret-word"
    )
    assert inventory.credentials("nano") == Credentials("[::1]:99")
    assert inventory.board("nano").via == {"pi1": "10.0.0.2:99"}
    assert nano.certificate is None


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HARNESS_DEVICES", raising=False)
    assert default_path() == tmp_path / "harness" / "devices.yaml"
    monkeypatch.setenv("HARNESS_DEVICES", str(tmp_path / "mine.yaml"))
    assert default_path() == tmp_path / "mine.yaml"
    assert Inventory.load().boards == {}


BAD = [
    ("- 1", ":1: expected boards, NAME: {backend: ..., host: ...}"),
    ("a: 1", ":1: a: expected a mapping of keys, not 1"),
    ("a b: {}", ":1: a b: a name is letters"),
    ("a:\n  bakend: agent", ":2: a.bakend: unknown key; did you mean 'backend'? allowed: backend, "),
    ("a:\n  host: localhost", ":1: a.backend: missing"),
    ("a:\n  backend: agent\n  host: localhost\n  port: 0", ":4: a.port: must be greater than or equal to 1"),
    (
        "a:\n  backend: pi\n  host: localhost",
        ":2: a.backend: must be 'raspberry-pi', 'jetson' or 'agent', not 'pi'",
    ),
    (
        "a:\n  backend: agent\n  host: localhost\n  via: {b: 'x:1'}",
        ":4: a.via.b: no other board of that name",
    ),
    (
        "a:\n  backend: agent\n  host: localhost\n  via: {a: 'x:1'}",
        ":4: a.via.a: no other board of that name",
    ),
    (
        "a:\n  backend: agent\n  host: 10.0.0.1",
        ":1: a: 10.0.0.1 is another machine, which needs certificate and token",
    ),
    ("a:\n  backend: agent\n  host: 10.0.0.1\n  token: t", ":1: a: certificate and token go together"),
    (
        "a:\n  backend: agent\n  host: localhost\n  link: {rtt_ms: 1}",
        ":1: a: link belongs to an emulated board",
    ),
    ("a:\n  backend: agent\n  host: localhost\na: {}", ":4: a: written twice"),
    ("a: *b", ":1: not valid YAML"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_wrong_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError) as caught:
        Inventory.load(path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_a_file_without_boards_is_an_empty_inventory(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    inventory = Inventory.load(path)
    inventory.add("a", Board(backend="agent", host="localhost"))
    inventory.save()
    assert path.read_text().startswith(text)
    assert list(Inventory.load(path).boards) == ["a"]


def test_a_token_that_others_can_read_is_refused(file: Path) -> None:
    token = file.parent / "pi1.token"
    for mode in (0o604, 0o640, 0o620):
        token.chmod(mode)
        with pytest.raises(
            SuiteError, match=rf"devices.yaml:6: pi1.token: others can read .*: chmod 600 {token}"
        ):
            Inventory.load(file).credentials("pi1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pi1.crt", b"no certificate", "pi1.certificate: pi1.crt is no PEM certificate"),
        ("pi1.token", b"two words", "pi1.token: pi1.token holds no token"),
        ("pi1.token", b"\xff\xfe", "pi1.token: pi1.token holds no token"),
        ("pi1.token", b"", "pi1.token: pi1.token holds no token"),
        ("pi1.crt", b"x" * 70_000, "is larger than a certificate may be"),
        ("pi1.crt", None, "No such file"),
    ],
)
def test_files_that_cannot_be_used(file: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (file.parent / name).unlink()
    else:
        (file.parent / name).write_bytes(content)
    with pytest.raises(SuiteError, match=message):
        Inventory.load(file).credentials("pi1")


def test_a_pipe_is_no_token(file: Path) -> None:
    (file.parent / "pi1.token").unlink()
    os.mkfifo(file.parent / "pi1.token", 0o600)
    with pytest.raises(SuiteError, match="is no file"):
        Inventory.load(file).credentials("pi1")


def test_edits_leave_the_rest_as_it_is(file: Path) -> None:
    inventory = Inventory.load(file)
    inventory.add("third", Board(backend="agent", host="localhost", labels=("a", "b"), port=1))
    inventory.save()
    assert file.read_text().startswith(WRITTEN)
    inventory = Inventory.load(file)
    inventory.remove("nano")
    inventory.save()
    lines = WRITTEN.splitlines(keepends=True)
    kept = "".join(lines[:10] + lines[12:])
    assert file.read_text().startswith(kept)
    assert "the new one" in file.read_text()
    assert list(Inventory.load(file).boards) == ["pi1", "third"]


def test_edits_that_are_refused(file: Path) -> None:
    inventory = Inventory.load(file)
    with pytest.raises(SuiteError, match=r"devices.yaml:2: pi1: there is a board 'pi1' already"):
        inventory.add("pi1", Board(backend="agent", host="localhost"))
    with pytest.raises(SuiteError, match=r"devices.yaml:12: nano.via.pi1: names pi1; remove that first"):
        inventory.remove("pi1")
    with pytest.raises(SuiteError, match=r"no board 'nanu' in .*; did you mean 'nano'\?"):
        inventory.remove("nanu")
    assert file.read_text() == WRITTEN


def test_a_file_in_one_line_is_left_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("{a: {backend: agent, host: localhost}, b: {backend: agent, host: localhost}}\n")
    for edit in (
        lambda one: one.add("c", Board(backend="agent", host="localhost")),
        lambda one: one.remove("a"),
    ):
        with pytest.raises(SuiteError, match="edit it by hand"):
            edit(Inventory.load(path))


def test_a_change_by_another_is_not_overwritten(file: Path) -> None:
    first, second = Inventory.load(file), Inventory.load(file)
    first.add("a", Board(backend="agent", host="localhost"))
    first.save()
    second.add("b", Board(backend="agent", host="localhost"))
    with pytest.raises(SuiteError, match="has changed meanwhile"):
        second.save()
    assert "a" in Inventory.load(file).boards
    assert [one.name for one in file.parent.iterdir() if one.name.startswith(".devices")] == []


def test_saving_keeps_mode_and_follows_a_link(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    inventory = Inventory.load(link)
    inventory.remove("nano")
    inventory.save()
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(Inventory.load(file).boards) == ["pi1"]


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("pi.local", False),
        ("10.0.0.1", False),
        ("localhost.evil.org", False),
    ],
)
def test_loopback(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


@pytest.mark.parametrize(
    ("host", "is_one"),
    [("127.0.0.1", True), ("[::1]", True), ("::1", True), ("0.0.0.0", False), ("192.0.2.1", False)],
)
def test_an_address_that_only_this_machine_reaches(host: str, is_one: bool) -> None:
    assert resolves_to_loopback(host) is is_one


def test_a_host_that_is_no_address_and_no_known_name_has_no_address() -> None:
    with pytest.raises(OSError, match=r"."):
        resolves_to_loopback("no such name")


NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12).filter(
    lambda one: one[0] not in "-_"
)
BOARDS = st.builds(
    Board,
    backend=st.sampled_from(["raspberry-pi", "jetson", "agent"]),
    host=st.sampled_from(["pi.local", "10.1.2.3", "fe80::1"]),
    port=st.integers(1, 65535),
    certificate=st.text(string.printable.strip(), min_size=1, max_size=20),
    token=st.text(string.printable.strip() + " é", min_size=1, max_size=20),
    labels=st.lists(NAMES, max_size=3).map(tuple),
    memory_budget_mb=st.none() | st.floats(1, 1e6),
    emulated=st.booleans(),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boards=st.dictionaries(NAMES, BOARDS, max_size=4), data=st.data())
def test_any_boards_come_back_as_they_were(tmp_path: Path, boards: dict[str, Board], data: Any) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("# a comment\n")
    inventory = Inventory.load(path)
    for name, board in boards.items():
        inventory.add(name, board)
    inventory.save()
    assert Inventory.load(path).boards == boards
    left = dict(boards)
    for name in data.draw(st.permutations(sorted(boards))):
        inventory.remove(name)
        del left[name]
        inventory.save()
        assert Inventory.load(path).boards == left
    assert path.read_text() == "# a comment\n"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80) | st.text("ab: -{}[]&*!|>'\"\n#%", max_size=60))
def test_any_text_is_an_inventory_or_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    message = ""
    try:
        Inventory.load(path)
    except SuiteError as error:
        message = str(error)
    assert message == "" or (message.startswith(str(path)) and "\n" not in message)


DOCS = Path(__file__).parents[2] / "docs" / "devices.md"


def test_the_documented_inventory_is_one(tmp_path: Path) -> None:
    from harness.plugins import load_plugins

    text = DOCS.read_text()
    path = tmp_path / "devices.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    inventory = Inventory.load(path)
    assert list(inventory.boards) == ["pi1", "orin"]
    meters = load_plugins().meters
    for one in inventory.boards["pi1"].meters:
        meters.get(one.name).entry.params(**one.params)


def test_every_key_and_parameter_is_documented() -> None:
    from harness_remote.inventory.boards import GpuBoardParams

    rows = [line.split("|")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    documented = {word.strip(" `") for row in rows for word in row.split(",")}
    assert documented == {*Board.model_fields, *GpuBoardParams.model_fields}
