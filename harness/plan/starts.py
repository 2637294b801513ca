"""The pretrained weights from which methods start: what planning knows of them, and what it must say or refuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from harness.errors import SuiteError
from harness.plan.datasets import ChosenData
from harness.registry import Registry
from harness.types import ModelEntry, Params, Preprocessing, StartingWeights

__all__ = ["Start", "preprocessing_of", "start_of", "start_warnings"]

FEW = 5
"""A warning names so many methods."""


@dataclass(frozen=True)
class Start:
    """The weights from which a method is built, and how their images were prepared. Both are None for random weights.

    ``weights`` is also None if the data set is not here, since its classes are then not known.
    """

    preprocessing: Preprocessing | None = None
    weights: StartingWeights | None = None


def preprocessing_of(
    models: Registry[ModelEntry], name: str, params: Params, where: str
) -> Preprocessing | None:
    """Return how the images of the pretrained weights of builder ``name`` were prepared, or None if it has none.

    ``where`` is its place in the suite.

    Raises:
        SuiteError: the builder refuses its parameters.
        BrokenContract: its function failed.
    """
    function = models.get(name).entry.preprocessing
    if function is None:
        return None
    try:
        with models.calling(name, "preprocessing"):
            found = function(params)
    except ValueError as error:
        raise SuiteError(f"{where}: {error}") from None
    right = found is None or isinstance(found, Preprocessing)
    models.need(name)(right, f"preprocessing gave {type(found).__name__}", "Preprocessing or None")
    return found


def start_of(
    models: Registry[ModelEntry], name: str, params: Params, start: Start, data: ChosenData, where: str
) -> Start:
    """Return ``start`` with the weights from which builder ``name`` starts for ``data``.

    Raises:
        SuiteError: the weights do not fit the data.
        BrokenContract: the builder's function failed.
    """
    function = models.get(name).entry.weights
    if function is None or data.info.missing:
        return start
    try:
        with models.calling(name, "weights"):
            found = function(params, data.info)
    except ValueError as error:
        raise SuiteError(f"{where}: {error}") from None
    right = found is None or isinstance(found, StartingWeights)
    models.need(name)(right, f"weights gave {type(found).__name__}", "StartingWeights or None")
    return replace(start, weights=found)


def start_warnings(starts: Mapping[str, tuple[Start, ChosenData]]) -> Iterable[str]:
    """Yield a line for each way in which models differ from their pretrained weights. ``starts``: by method."""
    methods: dict[str, list[str]] = {}
    for name, (start, data) in starts.items():
        said = []
        if start.weights is not None:
            said = [f"the head is {start.weights.head}"] if start.weights.new_head else []
            said += start.weights.adapted
        said += data.differences
        if said:
            methods.setdefault("; ".join(said), []).append(name)
    for text, names in methods.items():
        more = f" and {len(names) - FEW} more methods" if len(names) > FEW + 1 else ""
        yield f"{', '.join(names[:FEW] if more else names)}{more}: {text}"
