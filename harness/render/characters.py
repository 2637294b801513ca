"""Text as the standard output can show it: no control characters, and ASCII stand-ins where there is no UTF-8."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator
from typing import IO, Any

from harness.errors import printable

__all__ = ["STAND_INS", "UNENCODABLE", "json_text", "shown"]

STAND_INS = {
    "×": "x",
    "–": "-",
    "—": "-",
    "±": "+-",
    "·": "-",
    "…": "~",
    "✓": "+",
    "✗": "x",
    "†": "^",
    "µ": "u",
    "→": "->",
    **dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True)),
    **dict.fromkeys("─━╌╍┄┅═╸╺╴╶", "-"),
    **dict.fromkeys("│┃║╎╏┆┇", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╷╵╒╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡╢╣╤╥╦╧╨╩╪╫╬", "+"),
}
"""Character of our own output -> what is printed instead of it if the output's encoding does not have it."""

UNENCODABLE = "harness.stand-ins"
"""Name of the error handler of :mod:`codecs` that prints stand-ins, and escapes what has none."""


def shown(text: str, stream: IO[str] | None = None) -> str:
    """Return ``text`` without control characters, and in characters that ``stream`` has, by default standard output.

    A table must measure texts of this form, because a stand-in or an escape may be longer than the character. Line
    breaks and tabs stay.
    """
    encoding = codecs.lookup(getattr(stream or sys.stdout, "encoding", None) or "utf-8").name
    text = printable(text)
    return text if encoding == "utf-8" else text.encode(encoding, UNENCODABLE).decode(encoding)


def json_text(document: Any, indent: int = 1) -> str:
    """Return a document as JSON in ASCII, which any parser reads and any terminal shows.

    JSON has no numbers for infinity and "not a number", so these become null.
    """
    try:
        return _indented(document, " " * indent, "\n")
    except ValueError:
        finite = json.loads(json.dumps(document), parse_constant=lambda name: None)
        return _indented(finite, " " * indent, "\n")


def _indented(value: Any, indent: str, line: str) -> str:
    """Return what ``json.dumps(value, indent=indent)`` does, where ``line`` is a line break and the present indent.

    The standard library writes indented JSON in Python, which takes longer than to make a large leaderboard. Here its
    C encoder writes all values that stand one after another and contain no others.
    """
    inner = line + indent
    if isinstance(value, dict) and value:
        return "{" + inner + f",{inner}".join(_members(value, indent, inner)) + line + "}"
    if isinstance(value, list | tuple) and value:
        return "[" + inner + f",{inner}".join(_indented(item, indent, inner) for item in value) + line + "]"
    return json.dumps(value, allow_nan=False)


def _members(value: dict[Any, Any], indent: str, inner: str) -> Iterator[str]:
    encoder = json.JSONEncoder(allow_nan=False, separators=(f",{inner}", ": "))
    plain: dict[Any, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict | list | tuple) and item:
            if plain:
                yield encoder.encode(plain)[1:-1]
                plain = {}
            yield json.dumps({key: 0})[1:-2] + _indented(item, indent, inner)
        else:
            plain[key] = item
    if plain:
        yield encoder.encode(plain)[1:-1]


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding does not have. This is an error handler of :mod:`codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    texts = (
        STAND_INS.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in unknown
    )
    return "".join(texts), error.end


codecs.register_error(UNENCODABLE, _stand_in)
