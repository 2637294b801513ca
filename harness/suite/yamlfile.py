"""Read YAML into plain values, with the line of every key. Size, depth and types are limited."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import SuiteError, first_line

__all__ = [
    "YamlBlock",
    "KeyPath",
    "Source",
    "Tree",
    "dump_yaml",
    "parse_value",
    "parse_yaml",
    "read_text",
    "read_yaml",
]

KeyPath = tuple[str | int, ...]

Tree: TypeAlias = dict[str, Any]
"""A mapping from a file, whose keys a schema checks later."""
YamlBlock: TypeAlias = Mapping[str, Any]
"""A mapping in a suite whose keys only a plugin or a later step can check."""

MAX_BYTES = 256 * 1024
MAX_NODES = 200_000
"""Largest number of nodes, with aliases followed. It stops an alias bomb."""

MAX_WAIT_S = 10.0
"""How long a pipe or a device may take to give all its text."""

MAX_DEPTH = 64
"""Largest depth of lists and mappings, with aliases followed. It stops an alias that contains itself."""


_of_pipes: dict[tuple[int, int], bytes] = {}
"""Device and inode of a pipe -> what it gave. It gives its text once, and a run reads its suite again to keep it."""


@dataclass
class Source:
    """The places of a suite's values in its file.

    ``places`` maps a key path to "file:line" or "--set". ``numbers`` maps the path of a number to its text in the
    file, which keeps trailing zeros.
    """

    name: str
    places: dict[KeyPath, str] = field(default_factory=dict)
    numbers: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, *path: str | int) -> str:
        """Return the place of a key path, such as ``edge.yaml:12: methods.cloudvit``.

        If the key is not written, it is the place of its nearest written parent.
        """
        dotted = ".".join(str(part) for part in path)
        for end in range(len(path), -1, -1):
            place = self.places.get(tuple(path[:end]))
            if place is not None:
                named = not dotted or place == f"--set {dotted}"  # the place already names the key
                return place if named else f"{place}: {dotted}"
        return f"{self.name}: {dotted}" if dotted else self.name

    def copy_branch(self, old: KeyPath, new: KeyPath) -> None:
        """Give ``new`` and all paths below it the places of ``old``."""
        n = len(old)
        for path, place in [item for item in self.places.items() if item[0][:n] == old]:
            self.places[new + path[n:]] = place


def read_yaml(path: Path) -> tuple[Any, Source]:
    """Read one YAML file.

    Raises:
        SuiteError: the file does not exist, is a directory, is not text, is too large, is empty, or is not YAML.
    """
    value, source = parse_yaml(read_text(path, "a suite"), str(path))
    if value is None:
        raise SuiteError(f"{path}: is empty")
    return value, source


def read_text(path: Path, kind: str, *, wait_s: float = MAX_WAIT_S) -> str:
    """Return the text of a file that a person wrote. Errors say that it should be ``kind``.

    Raises:
        SuiteError: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        data = _read(path, wait_s)
    except IsADirectoryError:
        raise SuiteError(f"{path}: is a directory, not {kind} file") from None
    except OSError as error:
        raise SuiteError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise SuiteError(f"{path}: larger than {kind} may be: at most {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from None


def _read(path: Path, wait_s: float) -> bytes:
    """Return at most one byte more than :data:`MAX_BYTES`. A pipe or a device is waited for, but not for ever.

    Raises:
        OSError: it cannot be opened or read, or nothing comes.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    data, end = b"", time.monotonic() + wait_s
    try:
        status = os.fstat(descriptor)
        pipe = (status.st_dev, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None
        if pipe in _of_pipes:
            return _of_pipes[pipe]
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while len(data) <= MAX_BYTES:
            if not waiting.poll(1000 * max(0.0, end - time.monotonic())):
                raise OSError(errno.ETIMEDOUT, f"nothing to read came within {wait_s:g} s", str(path))
            block = os.read(descriptor, MAX_BYTES + 1 - len(data))
            if not block:
                break
            data += block
    finally:
        os.close(descriptor)
    if pipe is not None and data:
        _of_pipes[pipe] = data
    return data


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """Return the value of ``text`` (None if it is empty) and its source. Error messages call the file ``name``."""
    source = Source(name)
    return _parse(text, source), source


def parse_value(text: str, where: str) -> Any:
    """Return the value of ``--set key=value``, which is written as YAML."""
    return _parse(text, Source(where), line_numbers=False)


def dump_yaml(tree: Tree) -> str:
    """Return a tree as YAML that reads back as the same tree, keys in their order."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # lists and mappings of plain values in one line
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 10_000
    yaml.representer.ignore_aliases = lambda data: True
    yaml.representer.add_representer(str, _written)
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _written(representer: Any, text: str) -> Any:
    """Return the node of a text. The emitter writes control characters as they are, unless the text has quotes."""
    style = None if text.isprintable() else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _parse(text: str, source: Source, *, line_numbers: bool = True) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # YAML allows a second definition of an anchor
            root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None and line_numbers else ""
        raise SuiteError(f"{source.name}{line}: not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise SuiteError(f"{source.name}: not valid YAML: {first_line(error)}") from None
    except RecursionError:
        raise SuiteError(f"{source.name}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # "\\UFFFFFFFF"
        raise SuiteError(f"{source.name}: not valid YAML: {error}") from None
    return None if root is None else _Walker(source, line_numbers).value(root, ())


class _Walker:
    """A walk over YAML nodes, which makes plain values and notes their places."""

    def __init__(self, source: Source, line_numbers: bool) -> None:
        self.source = source
        self.line_numbers = line_numbers
        self.visited = 0

    def place(self, node: Any) -> str:
        return f"{self.source.name}:{node.start_mark.line + 1}" if self.line_numbers else self.source.name

    def value(self, node: Any, path: KeyPath) -> Any:
        self.count()
        if len(path) > MAX_DEPTH:
            raise SuiteError(f"{self.place(node)}: nested too deeply, or an alias that contains itself")
        self.source.places.setdefault(path, self.place(node))
        kind, tag = type(node).__name__, str(node.tag).removeprefix("tag:yaml.org,2002:")
        if kind == "ScalarNode":
            if tag in ("int", "float"):
                self.source.numbers[path] = self.text(node)
            return self.scalar(node, tag)
        if tag not in ("map", "seq"):
            raise self.unknown(node)
        if kind == "MappingNode":
            return self.mapping(node, path)
        return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]

    def count(self) -> None:
        self.visited += 1
        if self.visited > MAX_NODES:
            raise SuiteError(
                f"{self.source.name}: more than {MAX_NODES:,} values once its aliases are expanded"
            )

    def mapping(self, node: Any, path: KeyPath) -> Tree:
        result: Tree = {}
        merged: Tree = {}
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                continue
            key = self.key(key_node)
            if key in result:
                raise SuiteError(f"{self.place(key_node)}: {'.'.join(map(str, (*path, key)))}: written twice")
            self.entry(key_node, value_node, path, result)
        self.merge(node, path, result, merged, 0)
        return {**merged, **result}

    def key(self, node: Any) -> str:
        if type(node).__name__ != "ScalarNode":
            raise SuiteError(f"{self.place(node)}: a key must be a plain word")
        return self.text(node)

    def entry(self, key_node: Any, value_node: Any, path: KeyPath, into: Tree) -> None:
        inner = (*path, key := self.key(key_node))
        self.source.places[inner] = self.place(key_node)
        into[key] = self.value(value_node, inner)

    def merge(self, node: Any, path: KeyPath, written: Tree, merged: Tree, depth: int) -> None:
        """Put into ``merged`` what the merge keys (``<<``) of a mapping name, except the keys that are ``written``.

        Of several mappings in a list, the first one that has a key counts (https://yaml.org/type/merge.html).
        """
        if depth > MAX_DEPTH:
            raise SuiteError(f"{self.place(node)}: nested too deeply, or an alias that contains itself")
        for key_node, value_node in node.value:
            if not _is_merge(key_node):
                continue
            several = type(value_node).__name__ == "SequenceNode"
            for part in value_node.value if several else (value_node,):
                if type(part).__name__ != "MappingNode":
                    raise SuiteError(
                        f"{self.place(key_node)}: << merges a mapping or a list of mappings, such as *anchor"
                    )
                for inner_key, inner_value in part.value:
                    self.count()
                    if _is_merge(inner_key) or (key := self.key(inner_key)) in written or key in merged:
                        continue
                    self.entry(inner_key, inner_value, path, merged)
                self.merge(part, path, written, merged, depth + 1)

    def scalar(self, node: Any, tag: str) -> Any:
        text = self.text(node)
        if tag in ("str", "timestamp", "value"):
            return text
        if tag == "null":
            return None
        if tag == "bool":
            if text.lower() not in ("true", "false"):
                raise SuiteError(f"{self.place(node)}: {text!r} is not a bool; write true or false")
            return text.lower() == "true"
        try:
            if tag == "int":
                return self.integer(node, text.replace("_", ""))
            if tag == "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise SuiteError(f"{self.place(node)}: {text!r} is not {_A[tag]}") from None
        raise self.unknown(node)

    def integer(self, node: Any, digits: str) -> int:
        base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2].lower(), 10)
        if (
            len(digits) > 80 or abs(number := int(digits, base)) >= 2**64
        ):  # Python cannot print longer integers
            raise SuiteError(f"{self.place(node)}: a number of more than 64 bits")
        return number

    def text(self, node: Any) -> str:
        text = str(node.value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise SuiteError(f"{self.place(node)}: half a surrogate pair is no text") from None
        return text

    def unknown(self, node: Any) -> SuiteError:
        return SuiteError(f"{self.place(node)}: unknown YAML tag {node.tag!s}; use plain values")


def _is_merge(node: Any) -> bool:
    return str(node.tag) == "tag:yaml.org,2002:merge"


_A = {"int": "an int", "float": "a float"}
