"""Counts of a suite's modules, for claims: parameters, MACs, sizes. The plugins build the modules, without weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from harness.errors import CellError
from harness.extras import install_command
from harness.plan.resolve import Resolved, ResolvedMethod
from harness.plan.targets import Target
from harness.results.claims.claims import ALL, BUT_FUSION, Figure
from harness.results.claims.evidence import Unchecked
from harness.train.counting.footprint import Footprint, Modules
from harness.types import IMAGE, ModuleSpec, Sketch, TensorSpec

__all__ = ["Counted"]

T = TypeVar("T")


class Counted:
    """The modules of a suite's methods. A module that several claims are about is built once."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved = resolved
        self._built: dict[str, Footprint] = {}
        self._modules: dict[tuple[str, str | None], Modules] = {}

    def count(self, figure: Figure) -> float:
        """Return a quantity of one part of a method, or of several parts together.

        Raises:
            Unchecked: a module is not known before training, or does not run without data.
        """
        names = self._parts(figure.method).names
        chosen = {ALL: names, BUT_FUSION: names[:-1]}.get(figure.part, [figure.part])
        return sum(
            self._figure(figure.method, name, lambda footprint: footprint.figure(figure.quantity))
            for name in chosen
        )

    def sketch(self, method: str, target: Target | None = None) -> Sketch | None:
        """Return the sketch of a method, or ``None`` for a whole model.

        It is made for ``target``, or else for the suite's first device.
        """
        resolved = self.resolved.method(method)
        if resolved.partition is None:
            return None
        suite = self.resolved.suite
        target = target or self.resolved.target(suite.run[0].devices[0], suite.defaults.threads)
        return self.resolved.sketch(method, resolved, target)

    def counted_sketch(self, method: str, target: Target) -> Sketch:
        """Return the sketch of a split method for a fleet, with the linear MACs and the bytes of the built parts.

        Raises:
            Unchecked: a part is not known before training.
        """
        sketch = self.sketch(method, target)
        assert sketch is not None  # the caller has checked that the method is split
        parts = []
        for part in sketch.parts:
            counts = self._figure(method, part.name, lambda footprint: footprint.counts, target)
            parts.append(replace(part, macs=counts.macs_linear, weight_bytes=counts.weight_bytes))
        return replace(sketch, parts=tuple(parts))

    def _figure(
        self, method: str, part: str, figure: Callable[[Footprint], T], target: Target | None = None
    ) -> T:
        try:
            footprint = self._parts(method, target).get(part)
            if footprint is not None:
                return figure(footprint)
        except (CellError, RuntimeError, NotImplementedError) as error:
            raise Unchecked(f"{part} cannot be counted before it is trained: {error}") from None
        raise Unchecked(f"the plugin does not say what {part} is before it is trained")

    def _parts(self, method: str, target: Target | None = None) -> Modules:
        key = method, None if target is None else target.name
        if key not in self._modules:
            resolved = self.resolved.method(method)
            _need_installed(resolved)
            sketch = self.sketch(method, target)
            parts: list[tuple[str, ModuleSpec | None, tuple[str, ...]]] = [(method, resolved.spec, (IMAGE,))]
            if sketch is not None:
                parts = [(part.name, part.spec, part.inputs) for part in sketch.parts]
            image = TensorSpec(shape=resolved.data.info.shape)
            self._modules[key] = Modules(parts, image, self._built)
        return self._modules[key]


def _need_installed(resolved: ResolvedMethod) -> None:
    """Check that the modules of a method can be built here.

    Raises:
        Unchecked: they cannot.
    """
    steps = [link.step for link in resolved.links]
    if any(step.each_part for step in steps):
        raise Unchecked("its parts are compressed after the split, so their modules are not known before")
    for step in steps:
        entry = step.chosen.entry
        for package in entry.requires:
            if importlib.util.find_spec(package) is None:
                raise Unchecked(f"{package} is not installed: {install_command(entry.extra)}")
