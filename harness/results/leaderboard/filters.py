"""Filters of a table: the expressions of ``--where``."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

from harness.errors import SuiteError
from harness.types.columns import Row, check_columns

__all__ = ["parse_where"]


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


def parse_where(text: str) -> Callable[[Row], bool]:
    """Return a filter of rows, from an expression of columns, numbers, texts, lists, comparisons, and/or/not.

    A comparison with a null value is false, and so is its negation. ``== None`` and ``!= None`` are the exceptions.

    Raises:
        SuiteError: the expression is not of this form. The filter itself raises it if it compares a text with a
            number.
    """
    try:
        if len(text) > 1000:
            raise ValueError("longer than 1000 characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\\d" is text here
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SuiteError(f"--where {text!r}: {reason}; {_EXAMPLE}") from None
    _check(tree, text)

    def keep(row: Row) -> bool:
        try:
            return bool(_value(tree, row))
        except TypeError as error:
            raise SuiteError(f"--where {text!r}: {error}; {_EXAMPLE}") from None

    return keep


def _check(node: ast.expr, text: str) -> None:
    """Raise :class:`SuiteError` for syntax that :func:`_value` does not evaluate."""
    children: list[ast.expr]
    match node:
        case ast.Constant(value=int() | float() | str() | None):
            return
        case ast.Name(id=name):
            check_columns([name], f"--where {text!r}")
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


def _value(node: ast.expr, row: Row) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return row[node.id]
        case ast.BoolOp(op=ast.And()):
            return all(_value(item, row) for item in node.values)
        case ast.BoolOp():
            return any(_value(item, row) for item in node.values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, row)
        case ast.UnaryOp():
            operand = _value(node.operand, row)
            return None if operand is None else -operand
        case ast.Tuple() | ast.List():
            return [_value(item, row) for item in node.elts]
        case ast.Compare():
            left = _value(node.left, row)
            for compare, other in zip(node.ops, node.comparators, strict=True):
                right = _value(other, row)
                equality = isinstance(compare, ast.Eq | ast.NotEq)
                if not equality and (left is None or right is None):
                    return False
                if not _COMPARE[type(compare)](left, right):
                    return False
                left = right
            return True
    raise AssertionError(node)  # _check allows nothing else
