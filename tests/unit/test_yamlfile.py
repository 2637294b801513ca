"""Tests of YAML: any text gives a value, or one line with the fault and its place."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SuiteError
from harness.suite.yamlfile import parse_value, read_yaml


def value(text: str) -> Any:
    return parse_value(text, "--set x")


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    def of(text: str | bytes) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(SuiteError) as caught:
            read_yaml(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert len(message.splitlines()) == 1
        return message.removeprefix(str(path))

    return of


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7", 7),
        ("-7", -7),
        ("1_000", 1000),
        ("010", 10),
        ("0x1F", 31),
        ("-0x1F", -31),
        ("0o17", 15),
        ("0b101", 5),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("1_0.5", 10.5),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1s", "1s"),
        ("2026-01-01", "2026-01-01"),
        ('"7"', "7"),
        ("'true'", "true"),
        ("!!str 7", "7"),
        ("=", "="),
        ("|\n a\n b\n", "a\nb\n"),
        ("[1, [a, {b: c}]]", [1, ["a", {"b": "c"}]]),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("模型: né", {"模型": "né"}),
    ],
)
def test_what_yaml_means_by_it(text: str, meant: Any) -> None:
    found = value(text)
    assert (type(found), found) == (type(meant), meant)


def test_not_a_number_in_any_spelling() -> None:
    assert all(math.isnan(value(text)) for text in (".nan", ".NaN", ".NAN"))


# line and paragraph separators fold in a quoted YAML text, and are no part of what is compared here
letters = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn", "Zl", "Zp"), exclude_characters="\ufeff")
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | letters
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
@settings(max_examples=100, deadline=None)
def test_json_is_yaml(written: Any) -> None:
    assert value(json.dumps(written, ensure_ascii=False)) == written


# --- places -------------------------------------------------------------------------------------


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("# head\na: 1\nb:\n  c:\n    - x\n    - {d: y}\ne: &e {f: 2}\ng: *e\n")
    found, source = read_yaml(path)
    assert found["g"] == {"f": 2}
    assert source.where("a") == f"{path}:2: a"
    assert source.where("b", "c", 1, "d") == f"{path}:6: b.c.1.d"
    assert source.where("g") == f"{path}:8: g"
    assert source.where("g", "f") == f"{path}:7: g.f"  # where it is written
    assert source.where("b", "absent", "deeper") == f"{path}:3: b.absent.deeper"  # its nearest parent
    assert source.where() == f"{path}:2"


def test_a_copied_branch_stands_where_the_original_does(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("a:\n  b:\n    c: 1\n")
    source = read_yaml(path)[1]
    source.copy_branch(("a", "b"), ("a", "z"))
    assert source.where("a", "z", "c") == f"{path}:3: a.z.c"


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: a: written twice"),
        ("a:\n  - {b: 1,\n     b: 2}\n", ":3: a.0.b: written twice"),
        ('a: 1\n"a": 2\n', ":2: a: written twice"),
        ("a: 1\n? [b]\n: c\n", ":2: a key must be a plain word"),
        ("a: 1\nb: [1\nc: 2\n", ":3: not valid YAML"),
        ("a: 1\nb: 2: 3\n", ":2: not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2: not valid YAML"),
        ("a: 1\nb: *nowhere\n", ":2: not valid YAML: found undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML: but found another document"),
        ("a: 1\nb: !mine 3\n", ":2: unknown YAML tag !mine; use plain values"),
        ("a: 1\nb: !mine {c: 3}\n", ":2: unknown YAML tag !mine; use plain values"),
        ("a: 1\nb: !!set {c}\n", ":2: unknown YAML tag"),
        ("a: 1\nb: !!python/object:os.system [x]\n", ":2: unknown YAML tag"),
        ("a: 1\nb: !!bool yes\n", ":2: 'yes' is not a bool; write true or false"),
        ("%YAML 1.1\n---\na: yes\n", ":3: 'yes' is not a bool; write true or false"),
        ("a: 1\nb: !!int many\n", ":2: 'many' is not an int"),
        (f"a: 1\nb: 0x{'f' * 5000}\n", ":2: a number of more than 64 bits"),
        (f"a: 1\nb: {'9' * 5000}\n", ":2: a number of more than 64 bits"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', ": not valid YAML"),
        ('a: 1\nb: "\\U00110000"\n', ": not valid YAML"),
        ('a: 1\nb: "\\ud800"\n', ":2: half a surrogate pair is no text"),
        ('a: 1\n"\\ud800": b\n', ":2: half a surrogate pair is no text"),
        ("a: &x {b: *x}\n", ":1: nested too deeply, or an alias that contains itself"),
        ("a: &x {<<: *x}\n", ":1: nested too deeply, or an alias that contains itself"),
        ("a: 1\nb:\n  <<: 3\n", ":3: << merges a mapping or a list of mappings, such as *anchor"),
        ("a: &x [1]\nb: {<<: [*x]}\n", ":2: << merges a mapping or a list of mappings"),
        ("a: &x {? [c] : d}\n", ":1: a key must be a plain word"),
        ("[" * 5000, ": nested too deeply"),
        ("a: " + "[" * 100 + "]" * 100, ":1: nested too deeply, or an alias that contains itself"),
    ],
    ids=lambda text: text[:30],
)
def test_a_mistake_is_reported_with_its_line(refusal: Any, text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": is empty"),
        (b"# a\n", ": is empty"),
        (b"---\n...\n", ": is empty"),
        (b"null", ": is empty"),
        (b"a\x80\x81", ": not a text file (byte 1 is no UTF-8)"),
        ("a: b".encode("utf-16"), ": not a text file"),
        (b"\x7fELF\x02\x01\x01\0\0", ": not valid YAML: unacceptable character"),
        (b"PK\x03\x04\x14\0\0\0", ": not valid YAML: unacceptable character"),
        (b"x" * 262_145, ": larger than a suite may be: at most 262,144 bytes"),
    ],
    ids=lambda content: str(content)[:30],
)
def test_a_file_that_is_no_suite(refusal: Any, content: bytes, message: str) -> None:
    assert refusal(content).startswith(message)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"no\.yaml: No such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(SuiteError, match="is a directory"):
        read_yaml(tmp_path)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    code = (
        "import resource; from pathlib import Path; from harness.suite.yamlfile import read_yaml\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "try: read_yaml(Path('/dev/zero'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "SuiteError /dev/zero: larger than a suite may be: at most 262,144 bytes\n"


def test_an_alias_bomb_ends_soon(refusal: Any) -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    assert refusal(text) == ": more than 200,000 values once its aliases are expanded"


def test_a_bomb_of_merge_keys_ends_soon(refusal: Any) -> None:
    keys = ", ".join(f"k{i}: 0" for i in range(5000))
    text = f"a: &a {{{keys}}}\n" + "".join(f"b{i}: {{<<: *a, <<: *a}}\n" for i in range(5000))
    assert refusal(text) == ": more than 200,000 values once its aliases are expanded"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[&a {k: 1, l: 2}, {<<: *a, l: 3}]", {"k": 1, "l": 3}),
        ("[&a {k: 1, l: 2}, {l: 3, <<: *a}]", {"k": 1, "l": 3}),
        ("[[&a {k: 1}, &b {k: 2, m: 3}], {<<: [*a, *b], n: 4}]", {"k": 1, "m": 3, "n": 4}),
        ("[[&a {k: 1}, &b {k: 2, m: 3}], {<<: [*b, *a]}]", {"k": 2, "m": 3}),
        ("[&a {k: 1, <<: &b {k: 2, m: 3}}, {<<: *a}]", {"k": 1, "m": 3}),
        ("[&a {k: {x: 1, y: 2}}, {<<: *a, k: {x: 3}}]", {"k": {"x": 3}}),
        ("[&a {}, {<<: *a}]", {}),
        ('[&a {k: 1}, {"<<": *a}]', {"<<": {"k": 1}}),
    ],
)
def test_merge_keys(text: str, expected: Any) -> None:
    assert value(text)[1] == expected
    assert list(value(text)[1]) == list(expected)


def test_a_merged_key_has_the_place_where_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("x-own: &own\n  k: 1\n  l: 2\nb:\n  <<: *own\n  l: 3\n")
    _, source = read_yaml(path)
    assert source.where("b", "k") == f"{path}:2: b.k"
    assert source.where("b", "l") == f"{path}:6: b.l"


def test_a_name_given_twice_to_an_anchor_prints_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value("[&a 1, &a 2, *a]") == [1, 2, 2]


@given(st.text(max_size=60) | st.text("[]{}:,-?&*!|>'\"%@#\\ \n\tax0U.~_<=+e1", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    try:
        found = value(text)
    except SuiteError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - either outcome is right
    else:
        repr(found).encode()  # what has no text could be neither shown nor recorded


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_file_is_a_value_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        read_yaml(path)
    except SuiteError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either outcome is right
        assert len(str(error).splitlines()) == 1  # noqa: PT017
