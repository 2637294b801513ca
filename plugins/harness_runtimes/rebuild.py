"""Rebuild a part's module as a worker does, and name its files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from harness.types import Part

__all__ = ["file_name", "rebuild"]


def rebuild(part: Part) -> torch.nn.Module:
    """Return a copy of ``part.module`` on the CPU in evaluation mode, built from its spec and state.

    The part's own module does not change (device, mode).

    Raises:
        ValueError: the spec builds a module that does not accept the state.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # random weights must not move the caller's generator
        module = part.spec.build()
    try:
        module.load_state_dict(part.module.state_dict())
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise ValueError(f"part {part.name!r}: {part.spec.factory} does not rebuild it: {why}") from error
    return module.eval().requires_grad_(False)


def file_name(part: Part, suffix: str) -> str:
    """Return a file name for the part. Raises ``ValueError`` if the part's name is not usable as a file name."""
    if not re.fullmatch(r"\w[\w.-]*", part.name, re.ASCII):
        raise ValueError(f"part {part.name!r}: a part's name may hold letters, digits, '_', '-' and '.' only")
    return part.name + suffix
