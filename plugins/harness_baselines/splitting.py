"""What the parts of a split by classes will be, from dimensions alone. Torch-free: the planner calls this."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.types import IMAGE, Fleet, ModuleSpec, PartSketch, Sketch
from harness_baselines.sketch import known_shape, small_shape
from harness_baselines.vgg_sketch import VGGShape
from harness_timm.vit import ViTShape

if TYPE_CHECKING:
    from harness_baselines.params import ClassSplitParams, NNFacetParams

__all__ = [
    "class_split_sketch",
    "group_sizes",
    "nnfacet_sketch",
    "perceptron_spec",
    "probe_spec",
    "sub_shapes",
]


def group_sizes(classes: int, parts: int, least: int = 2) -> list[int]:
    """Classes of each group, which differ by at most one. From one class alone there is nothing to learn.

    Raises:
        ValueError: a group would have fewer than ``least``.
    """
    if least * parts > classes:
        of = "one class" if least == 1 else "two classes"
        raise ValueError(
            f"parts: {parts} groups of {of} at least need {least * parts} classes, there are {classes}; "
            + (f"allowed are 2 to {classes // least}" if classes >= 2 * least else "nothing is allowed")
        )
    return [classes // parts + (i < classes % parts) for i in range(parts)]


def sub_shapes(shape: ViTShape, params: ClassSplitParams) -> list[ViTShape]:
    """Each sub-model as deployed: with a head for its classes, or headless where a probe reads its features."""
    sizes = group_sizes(shape.classes, params.parts)
    return [replace(shape, classes=n if params.fusion == "average" else 0) for n in sizes]


def probe_spec(features: int, classes: int) -> ModuleSpec:
    """How any process builds class-split's probe."""
    given = {"features": features, "classes": classes}
    return ModuleSpec(factory="harness_baselines.class_split:probe", params=given)


def perceptron_spec(features: int, hidden: int, classes: int) -> ModuleSpec:
    """How any process builds NNFacet's perceptron."""
    given = {"features": features, "hidden": hidden, "classes": classes}
    return ModuleSpec(factory="harness_baselines.nnfacet:perceptron", params=given)


def class_split_sketch(spec: ModuleSpec | None, params: ClassSplitParams, fleet: Fleet) -> Sketch:
    """``sub1`` ... ``subN`` read the image, ``fusion`` their logits or, for a probe, their features.

    Which classes an average has to put in order is drawn when it is trained, so it has no spec yet.

    Raises:
        ValueError: too many parts, the source's image size is not known, or the dimensions do not fit.
    """
    source = known_shape(spec, "class-split needs the source's image size and classes")
    shape = small_shape(source.spec(), params, (source.channels, *source.image_size), source.classes)
    subs = tuple(
        PartSketch(
            name=f"sub{i}",
            inputs=(IMAGE,),
            params=sub.params(),
            macs=sub.macs(),
            weight_bytes=sub.weight_bytes(),
            output_bytes=4 * (sub.classes or sub.dim),
            spec=sub.spec(),
        )
        for i, sub in enumerate(sub_shapes(shape, params), 1)
    )
    probed = params.fusion == "probe"
    features = params.parts * shape.dim
    weights, biases = (features * shape.classes, shape.classes) if probed else (0, 0)
    fusion = PartSketch(
        name="fusion",
        inputs=tuple(sub.name for sub in subs),
        params=weights + biases,
        macs=weights,
        weight_bytes=4 * (weights + biases),
        output_bytes=4 * shape.classes,
        spec=probe_spec(features, shape.classes) if probed else None,
    )
    return Sketch(parts=(*subs, fusion), decisions={"classes": group_sizes(shape.classes, params.parts)})


def nnfacet_sketch(spec: ModuleSpec | None, params: NNFacetParams, fleet: Fleet) -> Sketch:
    """``sub1`` ... ``subN`` read the image, ``fusion`` their features.

    Raises:
        ValueError: more parts than classes, or the source is no ``vgg``.
    """
    shape = VGGShape.from_spec(spec)
    if shape is None:
        raise ValueError("nnfacet splits a CNN whose dimensions are known when planning: build: {vgg: ...}")
    sub = shape.narrowed(params.keep, 0)
    subs = tuple(
        PartSketch(
            name=f"sub{i}",
            inputs=(IMAGE,),
            params=sub.params(),
            macs=sub.macs(),
            weight_bytes=sub.weight_bytes(),
            output_bytes=4 * sub.dim,
            spec=sub.spec(),
        )
        for i in range(1, params.parts + 1)
    )
    features = params.parts * sub.dim
    weights = (features + shape.classes) * params.hidden
    biases = params.hidden + shape.classes
    fusion = PartSketch(
        name="fusion",
        inputs=tuple(part.name for part in subs),
        params=weights + biases,
        macs=weights,
        weight_bytes=4 * (weights + biases),
        output_bytes=4 * shape.classes,
        spec=perceptron_spec(features, params.hidden, shape.classes),
    )
    sizes = group_sizes(shape.classes, params.parts, least=1)
    return Sketch(
        parts=(*subs, fusion), decisions={"classes": sizes, "filters": [list(s) for s in sub.stages]}
    )
