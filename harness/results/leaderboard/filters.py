"""Filters of a table: the expressions of ``--where``. A figure that was not measured makes a comparison unknown."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import SuiteError
from harness.types.column_names import column_named, column_of, heading_pattern
from harness.types.columns import Row

__all__ = ["Filter", "parse_where"]


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, box: item in box,
    ast.NotIn: lambda item, box: item not in box,
}


_EXAMPLE = "for example: top1 > 90 and latency_p50_ms < 5 and runtime == 'onnxruntime'"


@dataclass(frozen=True)
class Filter:
    """A condition on rows. ``tree`` has the names of columns, not headings."""

    text: str
    tree: ast.expr

    def __call__(self, row: Row) -> bool | None:
        """Return whether the condition holds; ``None`` if that depends on a value that the row lacks.

        Raises:
            SuiteError: it compares a text with a number.
        """
        return self._holds(self.tree, row)

    def unknown(self, rows: Sequence[Row]) -> list[str]:
        """Return a sentence for the columns that leave the condition unknown in some of ``rows``.

        It says in how many rows, why, and how many rows match the condition without the comparisons of those columns.
        """
        lacking: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            if self(row) is None:
                for name in dict.fromkeys(_names(self.tree)):
                    if row[name] is None:
                        lacking.setdefault(name, []).append(number)
        together: dict[tuple[int, ...], list[str]] = {}
        for name, numbers in lacking.items():
            together.setdefault(tuple(numbers), []).append(name)
        return [self._sentence(names, numbers, rows) for numbers, names in together.items()]

    def _sentence(self, names: Sequence[str], numbers: Sequence[int], rows: Sequence[Row]) -> str:
        rest: ast.expr | None = self.tree
        for name in names:
            rest = rest and _without(rest, name)
        matching = sum(rest is None or self._holds(rest, row) is True for row in rows)
        why = dict.fromkeys(
            rows[number].why.get(name, "not recorded") for number in numbers for name in names
        )
        more = f", or another of {len(why)} reasons" if len(why) > 1 else ""
        verb, it = ("are", "them") if len(names) > 1 else ("is", "it")
        return (
            f"{', '.join(names)} {verb} unknown in {len(numbers)} of {len(rows)} rows ({next(iter(why))}{more}); "
            f"without {it} {matching} match"
        )

    def _holds(self, tree: ast.expr, row: Row) -> bool | None:
        try:
            return _truth(tree, row)
        except TypeError as error:
            raise SuiteError(f"--where {self.text!r}: {error}; {_EXAMPLE}") from None


def parse_where(text: str) -> Filter:
    """Return a filter over rows, from an expression of columns, numbers, texts, lists, comparisons, and/or/not.

    A column is named by its name or its heading. A comparison with a null value is unknown, except with ``None``.

    Raises:
        SuiteError: the expression is not of this form.
    """
    try:
        if len(text) > 1000:
            raise ValueError("longer than 1000 characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\\d" is text here
            tree = ast.parse(_with_names(text.strip()), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SuiteError(f"--where {text!r}: {reason}; {_EXAMPLE}") from None
    _check(tree, text)
    return Filter(text, tree)


_QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""


def _with_names(text: str) -> str:
    """Return ``text`` with the names of columns in place of headings that Python does not read as a name."""
    headings = heading_pattern()

    def replace(match: re.Match[str]) -> str:
        return str(column_named(match[0])) if headings.fullmatch(match[0]) else match[0]

    return re.sub(f"{_QUOTED}|{headings.pattern}", replace, text, flags=re.IGNORECASE)


def _check(node: ast.expr, text: str) -> None:
    """Replace headings by names. Raise SuiteError for syntax that :func:`_value` does not evaluate."""
    children: list[ast.expr]
    match node:
        case ast.Constant(value=int() | float() | str() | None):
            return
        case ast.Name():
            node.id = column_of(node.id, f"--where {text!r}")
            return
        case ast.BoolOp():
            children = node.values
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            children = [node.operand]
        case ast.Compare() if all(type(item) in _COMPARE for item in node.ops):
            children = [node.left, *node.comparators]
        case ast.Tuple() | ast.List():
            children = node.elts
        case _:
            raise SuiteError(f"--where {text!r}: {ast.unparse(node)!r} is not allowed; {_EXAMPLE}")
    for child in children:
        _check(child, text)


def _truth(node: ast.expr, row: Row) -> bool | None:
    """Return whether ``node`` holds for a row, or ``None`` if that is unknown (Kleene's logic)."""
    match node:
        case ast.BoolOp(op=ast.And()):
            return _all(_truth(item, row) for item in node.values)
        case ast.BoolOp():
            return _not(_all(_not(_truth(item, row)) for item in node.values))
        case ast.UnaryOp(op=ast.Not()):
            return _not(_truth(node.operand, row))
        case ast.Compare():
            sides = [node.left, *node.comparators]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return _all(_compared(op, left, right, row) for op, left, right in pairs)
    value = _value(node, row)
    return None if value is None else bool(value)


def _all(truths: Iterator[bool | None]) -> bool | None:
    unknown = False
    for truth in truths:
        if truth is False:
            return False
        unknown |= truth is None
    return None if unknown else True


def _not(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def _compared(op: ast.cmpop, left: ast.expr, right: ast.expr, row: Row) -> bool | None:
    """Compare two values. With a null it is unknown, unless the other side is ``None`` or a list that has it."""
    first, second = _value(left, row), _value(right, row)
    literal = any(isinstance(side, ast.Constant) and side.value is None for side in (left, right))
    listed = isinstance(op, ast.In | ast.NotIn) and isinstance(second, list) and None in second
    if (first is None or second is None) and not listed:
        if literal and isinstance(op, ast.Eq | ast.NotEq):
            return _COMPARE[type(op)](first, second)
        return None
    return bool(_COMPARE[type(op)](first, second))


def _value(node: ast.expr, row: Row) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return row[node.id]
        case ast.UnaryOp(op=ast.USub()):
            operand = _value(node.operand, row)
            return None if operand is None else -operand
        case ast.Tuple() | ast.List():
            return [_value(item, row) for item in node.elts]
    return _truth(node, row)


def _names(node: ast.expr) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _without(node: ast.expr, name: str) -> ast.expr | None:
    """Return a condition without what depends on a column, or ``None`` if nothing is left."""
    if isinstance(node, ast.BoolOp):
        left = [rest for item in node.values if (rest := _without(item, name)) is not None]
        return ast.BoolOp(node.op, left) if left else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        rest = _without(node.operand, name)
        return None if rest is None else ast.UnaryOp(node.op, rest)
    return None if name in _names(node) else node
