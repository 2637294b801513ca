"""The optimizer and the learning-rate schedule of a recipe, through timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import nearest
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    import torch

__all__ = ["make_optimizer", "make_scheduler"]


def make_optimizer(module: torch.nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Return timm's optimizer with the recipe's name. One-dimensional parameters get no weight decay.

    Raises:
        ValueError: timm knows no such optimizer.
    """
    from inspect import signature

    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    name = recipe.optimizer.lower()
    if name not in list_optimizers():
        raise ValueError(f"unknown optimizer {recipe.optimizer!r}: {nearest(name, list_optimizers())}")
    # One kernel for all weights, if there is one. Small models spend a seventh of a step here.
    fused = {"fused": True} if "fused" in signature(get_optimizer_info(name).opt_class).parameters else {}
    return create_optimizer_v2(
        module, name, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum, **fused
    )


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: TrainRecipe, steps: int) -> Any:
    """Return timm's scheduler. It is stepped by updates, so the learning rate is a pure function of their number."""
    from timm.scheduler import create_scheduler_v2

    constant = recipe.schedule == "none"  # timm's own "none" has no warm-up
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="step" if constant else recipe.schedule,
        num_epochs=recipe.epochs,
        decay_epochs=1 if constant else recipe.decay_epochs,
        decay_rate=1.0 if constant else recipe.decay_rate,
        min_lr=recipe.min_lr,
        warmup_lr=recipe.warmup_lr,
        warmup_epochs=recipe.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return scheduler
