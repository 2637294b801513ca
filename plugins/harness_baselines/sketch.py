"""Sketches of the baselines: their parts, computed from dimensions. It imports no torch, because planning calls it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.methods import even_shares, fused_sketch, image_sketch
from harness.types import IMAGE, ModuleSpec, PartSketch, Sketch
from harness_baselines.vgg_sketch import VGGShape
from harness_timm.vit import ViTShape, base_of

__all__ = [
    "MEAN",
    "SmallSize",
    "check_cut",
    "class_split_sketch",
    "ensemble_sketch",
    "group_sizes",
    "known_shape",
    "nnfacet_sketch",
    "perceptron_spec",
    "pipeline_sketch",
    "probe_spec",
    "slice_spec",
    "small_shape",
    "sub_shapes",
]

MEAN = ModuleSpec(factory="harness_baselines.small:mean")


def known_shape(spec: ModuleSpec | None, what: str) -> ViTShape:
    """Return the dimensions of the source.

    Raises:
        ValueError: they are unknown until the model is built. The message begins with ``what``.
    """
    shape = ViTShape.from_spec(spec)
    if shape is None:
        raise ValueError(
            f"{what}; planning knows those of `vit`, and of timm's standard vit_* and deit_* without args"
        )
    return shape


# --- small models ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SmallSize:
    """The dimensions of a small ViT that do not come from the data; ``patch_size`` is by default the source's."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    patch_size: int | None


def small_shape(spec: ModuleSpec | None, size: SmallSize, image: tuple[int, ...], classes: int) -> ViTShape:
    """Return the small ViT for images [channels, height, width], with the patches and class token of the source.

    Raises:
        ValueError: no patch size is known, or the dimensions do not fit.
    """
    channels, height, width = image
    source = ViTShape.from_spec(spec)
    patch_size = size.patch_size
    if patch_size is None:
        patch_size = known_shape(spec, "no patch_size, and the source has none known").patch_size
    return ViTShape(
        image_size=(height, width),
        patch_size=patch_size,
        channels=channels,
        classes=classes,
        dim=size.dim,
        depth=size.depth,
        heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        class_token=source.class_token if source is not None else True,
    )


def ensemble_sketch(spec: ModuleSpec | None, size: SmallSize, members: int) -> Sketch:
    """Return ``member1`` to ``memberN``, which read the image, and ``mean``, which reads their logits.

    Raises:
        ValueError: the source's image size is not known, or the dimensions do not fit.
    """
    source = known_shape(spec, "ensemble needs the source's image size and classes")
    shape = small_shape(spec, size, (source.channels, *source.image_size), source.classes)
    return fused_sketch(
        [image_sketch(f"member{i}", shape, shape.classes, shape.spec()) for i in range(1, members + 1)],
        params=0,
        macs=0,
        classes=shape.classes,
        spec=MEAN,
        decisions={"members": members},
        name="mean",
    )


# --- splits by classes ----------------------------------------------------------------------------


def group_sizes(classes: int, parts: int, least: int = 2) -> list[int]:
    """Return the number of classes of each group. The numbers differ by at most one.

    The default ``least`` is two, because a model of a single class has nothing to learn.

    Raises:
        ValueError: a group would have fewer than ``least`` classes.
    """
    if least * parts > classes:
        of = "one class" if least == 1 else "two classes"
        raise ValueError(
            f"parts: {parts} groups of {of} at least need {least * parts} classes, there are {classes}; "
            + (f"allowed are 2 to {classes // least}" if classes >= 2 * least else "nothing is allowed")
        )
    return even_shares(classes, parts)


def sub_shapes(shape: ViTShape, parts: int, *, probed: bool) -> list[ViTShape]:
    """Return each deployed sub-model: with a head for its classes, or without a head if a probe reads its features."""
    return [replace(shape, classes=0 if probed else n) for n in group_sizes(shape.classes, parts)]


def probe_spec(features: int, classes: int) -> ModuleSpec:
    """Return the spec from which any process builds class-split's probe."""
    params = {"features": features, "classes": classes}
    return ModuleSpec(factory="harness_baselines.class_split:probe", params=params)


def perceptron_spec(features: int, hidden: int, classes: int) -> ModuleSpec:
    """Return the spec from which any process builds NNFacet's perceptron."""
    params = {"features": features, "hidden": hidden, "classes": classes}
    return ModuleSpec(factory="harness_baselines.nnfacet:perceptron", params=params)


def class_split_sketch(spec: ModuleSpec | None, size: SmallSize, parts: int, *, probed: bool) -> Sketch:
    """Return ``sub1`` to ``subN``, which read the image, and ``fusion``, which reads their logits or features.

    The fusion ``average`` has no spec yet, because the groups of classes are drawn when it is trained.

    Raises:
        ValueError: there are too many parts, the source's image size is not known, or the dimensions do not fit.
    """
    source = known_shape(spec, "class-split needs the source's image size and classes")
    shape = small_shape(source.spec(), size, (source.channels, *source.image_size), source.classes)
    features = parts * shape.dim
    weights, biases = (features * shape.classes, shape.classes) if probed else (0, 0)
    return fused_sketch(
        [
            image_sketch(f"sub{i}", sub, sub.classes or sub.dim, sub.spec())
            for i, sub in enumerate(sub_shapes(shape, parts, probed=probed), 1)
        ],
        params=weights + biases,
        macs=weights,
        classes=shape.classes,
        spec=probe_spec(features, shape.classes) if probed else None,
        decisions={"classes": group_sizes(shape.classes, parts)},
    )


def nnfacet_sketch(spec: ModuleSpec | None, parts: int, *, keep: float, hidden: int) -> Sketch:
    """Return ``sub1`` to ``subN``, which read the image, and ``fusion``, which reads their features.

    Each sub-model has the share ``keep`` of the filters, and the fusion ``hidden`` neurons.

    Raises:
        ValueError: there are more parts than classes, or the source is not a ``vgg``.
    """
    shape = VGGShape.from_spec(spec)
    if shape is None:
        raise ValueError("nnfacet splits a CNN whose dimensions are known when planning: build: {vgg: ...}")
    sub = shape.narrowed(keep, 0)
    features = parts * sub.dim
    weights = (features + shape.classes) * hidden
    biases = hidden + shape.classes
    sizes = group_sizes(shape.classes, parts, least=1)
    return fused_sketch(
        [image_sketch(f"sub{i}", sub, sub.dim, sub.spec()) for i in range(1, parts + 1)],
        params=weights + biases,
        macs=weights,
        classes=shape.classes,
        spec=perceptron_spec(features, hidden, shape.classes),
        decisions={"classes": sizes, "filters": [list(s) for s in sub.stages]},
    )


# --- a model cut in two ---------------------------------------------------------------------------


def slice_spec(spec: ModuleSpec, start: int, stop: int) -> ModuleSpec:
    """Return the spec from which any process builds blocks [start, stop) of the module that ``spec`` builds."""
    return ModuleSpec(
        factory="harness_timm.surgery:sliced", params={"base": base_of(spec), "start": start, "stop": stop}
    )


def check_cut(after: int, depth: int) -> None:
    """Check that both parts have a block.

    Raises:
        ValueError: a part has none.
    """
    if not 1 <= after < depth:
        allowed = f"allowed are 1 to {depth - 1}" if depth > 1 else "there is nowhere to cut"
        raise ValueError(f"after: {after} is outside the model, whose depth is {depth}: {allowed}")


def pipeline_sketch(spec: ModuleSpec | None, after: int) -> Sketch:
    """Return ``front``, the embedding and the blocks before the cut, and ``back``, the other blocks, norm and head.

    Raises:
        ValueError: the cut leaves a part without blocks, or the source's dimensions are not known.
    """
    shape = known_shape(spec, "pipeline needs the dimensions of a ViT")
    assert spec is not None
    check_cut(after, shape.depth)
    front = PartSketch(
        name="front",
        inputs=(IMAGE,),
        params=shape.params(0, after),
        macs=shape.macs(0, after),
        weight_bytes=shape.weight_bytes(0, after),
        output_bytes=4 * shape.tokens * shape.dim,
        spec=slice_spec(spec, 0, after),
    )
    back = PartSketch(
        name="back",
        inputs=("front",),
        params=shape.params(after),
        macs=shape.macs(after),
        weight_bytes=shape.weight_bytes(after),
        output_bytes=4 * shape.classes,
        spec=slice_spec(spec, after, shape.depth),
    )
    return Sketch(parts=(front, back), decisions={"after": after})
