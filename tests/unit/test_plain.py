"""Tests of names of functions that another process imports."""

from __future__ import annotations

import pkgutil

from harness.machine import state
from harness.types.plain import function_name


class Outer:
    @staticmethod
    def inside() -> None: ...


def test_a_functions_name_resolves_to_the_function() -> None:
    assert function_name(state.watch) == "harness.machine.state:watch"
    assert pkgutil.resolve_name(function_name(state.watch)) is state.watch


def test_the_name_of_a_function_in_a_class_contains_the_class() -> None:
    assert function_name(Outer.inside) == f"{__name__}:Outer.inside"
