"""Refuse an answer that breaks a contract, and report an exception of a plugin, each in one line that names the plugin.

A check takes ``need``, which knows whose answer it is. A run makes it with :func:`needing`. ``harness.testing`` gives
one that raises ``AssertionError``, so that both use the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.errors import BrokenContract, HarnessError, first_line
from harness.extras import missing_module

__all__ = ["Need", "calling", "needing"]

Need = Callable[[bool, str, str], None]
"""``need(condition, problem, contract)`` raises an error if the condition does not hold.

``problem`` says what is wrong, and ``contract`` what is allowed and where that is written.
"""


def needing(who: str, plugin: str | None = None) -> Need:
    """Return the :data:`Need` of a run.

    ``who`` begins each message, such as ``plugin toys (toys 1.0): runtime 'fast'``. ``plugin`` is the plugin's name.
    """
    return _Needing(who, plugin)


@dataclass(frozen=True)
class _Needing:
    """A :data:`Need` that can be pickled, because a data set is also read in other processes."""

    who: str
    plugin: str | None

    def __call__(self, condition: bool, problem: str, contract: str) -> None:
        if not condition:
            raise BrokenContract(f"{self.who}: {problem} (contract: {contract})", plugin=self.plugin)


@contextmanager
def calling(who: str, function: str, plugin: str | None = None, *, may_refuse: bool = True) -> Iterator[None]:
    """Report an exception of a plugin's planning-time function in one line.

    A :class:`~harness.errors.HarnessError` passes unchanged. With ``may_refuse`` a ``ValueError`` passes too, since
    the function raises it for parameters that cannot be right.

    Raises:
        BrokenContract: the function raised anything else, or wanted to end the process.
    """
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        if may_refuse and isinstance(error, ValueError):
            raise
        what = missing_module(error) or f"{function} raised {first_line(error, kind=True)}"
        raise BrokenContract(f"{who}: {what}", plugin=plugin) from error
