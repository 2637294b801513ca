"""Text as the standard output can show it: no control characters, and ASCII stand-ins where there is no UTF-8."""

from __future__ import annotations

import codecs
import json
import sys
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
        return json.dumps(document, indent=indent, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(document), parse_constant=lambda name: None)
        return json.dumps(finite, indent=indent)


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
