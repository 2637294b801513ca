"""Contracts of runtimes: the requested precision and tolerance, exported artifacts, and the facts of sessions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.contracts.json import is_json_object
from harness.contracts.need import Need
from harness.types import Artifact, TensorSpec

__all__ = ["check_artifact", "check_facts", "check_settings"]

PARAMETERS_PER_BYTE = 1000
"""Number of parameters per byte of weights from which ``weight_bytes`` cannot be bytes."""


def check_settings(need: Need, precision: Any, tolerance: Any) -> None:
    """Check what ``precision`` and ``tolerance`` of a runtime returned."""
    is_word = isinstance(precision, str) and bool(precision)
    need(is_word, f"precision gave {precision!r}", "RuntimeEntry.precision gives the name of an element type")
    is_share = _is_number(tolerance) and 0 < tolerance < 1
    need(is_share, f"tolerance gave {tolerance!r}", "RuntimeEntry.tolerance gives a number between 0 and 1")


def check_artifact(
    need: Need,
    artifact: Any,
    part: str,
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    folder: Path,
    *,
    runtime: str,
    precision: str,
    params: int,
) -> None:
    """Check an artifact that ``export`` returned.

    Args:
        part: the name of the part. inputs, output: the tensors that the part declares.
        folder: ``ctx.workdir``.
        runtime: the name of the entry.
        precision: the precision that the entry states.
        params: the number of parameters of the part.
    """
    need(isinstance(artifact, Artifact), f"export gave {type(artifact).__name__}", "export gives an Artifact")
    path = artifact.path
    inside = isinstance(path, Path) and path.resolve().is_relative_to(folder.resolve()) and path.exists()
    need(inside, f"{part}: export wrote to {path}", "Artifact.path: below ctx.workdir")
    written = any(file.is_file() and file.stat().st_size for file in (path, *path.rglob("*")))
    need(written, f"{part}: export wrote no file into {path.name}", "Artifact.path: what the worker loads")
    weights = artifact.weight_bytes
    is_size = isinstance(weights, int) and not isinstance(weights, bool) and weights >= 0
    need(is_size, f"{part}: weight_bytes is {weights!r}", "Artifact.weight_bytes: a whole number of bytes")
    need(
        weights * PARAMETERS_PER_BYTE >= params,
        f"{part}: weight_bytes is {weights} for {params} parameters; is it in MB?",
        "Artifact.weight_bytes: bytes",
    )
    said = artifact.precision
    need(
        said == precision,
        f"{part}: the artifact says {said!r}, the entry {precision!r}",
        "Artifact.precision",
    )
    need(
        artifact.runtime == runtime,
        f"{part}: the artifact is of {artifact.runtime!r}",
        "Artifact.runtime: its name",
    )
    takes, gives = [_shape(spec) for spec in artifact.inputs], _shape(artifact.output)
    wanted = [_shape(spec) for spec in inputs]
    need(takes == wanted, f"{part}: the artifact takes {takes}, the part {wanted}", "Artifact.inputs")
    problem = f"{part}: the artifact gives {gives}, the part {_shape(output)}"
    need(gives == _shape(output), problem, "Artifact.output")
    need(
        is_json_object(artifact.meta),
        f"{part}: the artifact's meta is not JSON",
        "Artifact.meta: a JSON object",
    )


def check_facts(need: Need, facts: Any) -> None:
    """Check the facts of a loaded session."""
    need(isinstance(facts, Mapping), f"facts are {type(facts).__name__}", "Session.facts: a JSON object")
    precision = facts.get("precision")
    is_word = isinstance(precision, str) and bool(precision)
    need(is_word, f"facts lack precision: {precision!r}", "Session.facts: the precision that runs")
    need(is_json_object(facts), "facts are not JSON", "Session.facts: a JSON object")


def _shape(spec: Any) -> tuple[int, ...]:
    return tuple(spec.shape) if isinstance(spec, TensorSpec) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
