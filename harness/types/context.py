"""The context that the harness gives to a method, and the results of trainings and evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.types.data import Data, Split
from harness.types.models import Model

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


__all__ = ["Context", "Evaluation", "FitResult"]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The cost and the history of a training. ``history`` has a mapping per epoch (loss, lr, validation top1 ...)."""

    image_passes: int
    train_macs: int
    train_s: float
    epochs: int
    history: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The answers of a module on ``n`` samples: ``logits`` float32 [n, classes], ``top1`` and ``top5`` in percent."""

    logits: NDArray[np.float32]
    top1: float
    top5: float
    n: int


class Context(Protocol):
    """The part of the harness that builders, compressors and partitioners use."""

    @property
    def data(self) -> Data:
        """Return the method's data set, loaded on first use."""
        ...

    seed: int
    device: str
    workdir: Path
    workers: int
    """Processes that decode images ahead of their use. 0: none. It changes no result."""

    def fit(
        self,
        module: torch.nn.Module,
        *,
        loss: Callable[[torch.nn.Module, Any], torch.Tensor] | None = None,
        data: Split | None = None,
        validation: Split | None = None,
        name: str = "fit",
        **overrides: Any,
    ) -> FitResult:
        """Train ``module`` in place with the method's recipe. ``overrides`` replace keys of the recipe.

        ``loss(module, batch)`` returns a scalar; ``batch`` has ``inputs`` [n, ...], ``labels`` [n] and ``index`` [n],
        the samples' positions in ``data`` (to look up cached teacher outputs). Under mixup or cutmix ``labels`` are
        float32 [n, classes], which torch's ``cross_entropy`` takes too. ``**harness.methods.NO_AUGMENTATION``
        switches all augmentation off. The default loss is cross-entropy with the recipe's label smoothing. Parameters
        with ``requires_grad=False`` do not change. A training that was killed resumes from ``workdir``. ``name`` must
        differ between the fits of one step.
        """
        ...

    def evaluate(self, module: torch.nn.Module, data: Split | None = None) -> Evaluation:
        """Evaluate ``module`` on a split, by default the validation split. Methods must not use test data."""
        ...

    def once(self, key: str, fn: Callable[[], Model]) -> Model:
        """Return ``fn()``, computed once for all steps that share data, recipe, seed, plugin, its code and ``key``."""
        ...

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Show the user the present activity. ``fraction`` is the share that is done, 0 to 1, or None if unknown."""
        ...
