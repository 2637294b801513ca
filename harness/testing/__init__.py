"""Tools for authors of plugins: a context over small synthetic data, and checks of the contracts in
``harness.types``.

Each ``check_*`` raises ``AssertionError`` with one line: the entry, the fault, and the contract that it breaks.
Functions that planning calls are also called in a new process, so they must be at the top level of a module. ``data``
are keywords of :func:`make_context`.
"""

from harness.testing.checks import (
    check_compressor,
    check_dataset,
    check_model,
    check_partitioner,
    check_plugin,
    check_runtime,
)
from harness.testing.context import make_context, make_model

__all__ = [
    "check_compressor",
    "check_dataset",
    "check_model",
    "check_partitioner",
    "check_plugin",
    "check_runtime",
    "make_context",
    "make_model",
]
