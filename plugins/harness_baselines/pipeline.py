"""Pipelines: a trained ViT cut in two after a block, or left whole.

Nothing is trained. The parts compute exactly what the whole model computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.types import IMAGE, Edge, Lineage, Model, Part, Partition, Sketch, TensorSpec
from harness_baselines.sketch import MEAN, check_cut, slice_spec
from harness_timm.surgery import require_vit, slice_blocks

__all__ = ["neurosurgeon", "pipeline"]


def pipeline(model: Model, after: int) -> Partition:
    """Return ``front``, image -> tokens [T, D] after block ``after``, and ``back``, tokens -> logits.

    Raises:
        ValueError: the model is not a timm ViT, or the cut leaves a part without blocks.
    """
    step = Lineage(stage="partition", entry="pipeline", params={"after": after})
    return _cut(model, after, step)


def neurosurgeon(model: Model, params: Mapping[str, Any], sketch: Sketch) -> Partition:
    """Return the parts that the sketch decided: ``front`` and ``back`` of :func:`pipeline`, or ``whole``.

    If ``whole`` is not on the central device, that device has the part ``answer``, which returns the logits
    unchanged.
    """
    decisions = sketch.decisions
    step = Lineage(stage="partition", entry="neurosurgeon", params=params, notes=decisions)
    if decisions["front"] != decisions["back"]:
        return _cut(model, decisions["after"], step)
    logits = TensorSpec(shape=(model.classes,))
    image = Edge(source=IMAGE, tensor=model.input)
    parts = [Part(name="whole", module=model.module, spec=model.spec, inputs=(image,), output=logits)]
    if len(sketch.parts) > 1:
        whole = Edge(source="whole", tensor=logits)
        # the mean of one output is that output
        parts.append(Part(name="answer", module=MEAN.build(), spec=MEAN, inputs=(whole,), output=logits))
    return Partition(parts=tuple(parts), classes=model.classes, lineage=(*model.lineage, step))


def _cut(model: Model, after: int, step: Lineage) -> Partition:
    """Return ``front`` and ``back`` of ``model``, cut after that many blocks."""
    vit = require_vit(model.module, "pipeline")
    depth = len(vit.blocks)
    check_cut(after, depth)
    tokens = TensorSpec(shape=(vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim))
    front = Part(
        name="front",
        module=slice_blocks(vit, 0, after),
        spec=slice_spec(model.spec, 0, after),
        inputs=(Edge(source=IMAGE, tensor=model.input),),
        output=tokens,
    )
    back = Part(
        name="back",
        module=slice_blocks(vit, after, depth),
        spec=slice_spec(model.spec, after, depth),
        inputs=(Edge(source="front", tensor=tokens),),
        output=TensorSpec(shape=(model.classes,)),
    )
    return Partition(parts=(front, back), classes=model.classes, lineage=(*model.lineage, step))
