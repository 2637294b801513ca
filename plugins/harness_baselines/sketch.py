"""What the baselines' parts will be, from dimensions alone. Torch-free: the planner calls this."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.types import IMAGE, Fleet, ModuleSpec, PartSketch, Sketch
from harness_timm.vit import ViTShape, base_of

if TYPE_CHECKING:
    from harness_baselines.params import EnsembleParams, PipelineParams, SmallModelParams

__all__ = [
    "MEAN",
    "check_cut",
    "ensemble_sketch",
    "known_shape",
    "pipeline_sketch",
    "slice_spec",
    "small_shape",
]

MEAN = ModuleSpec(factory="harness_baselines.small:mean")


def known_shape(spec: ModuleSpec | None, what: str) -> ViTShape:
    """The dimensions of the source.

    Raises:
        ValueError: they are not known before it is built; ``what`` begins the message.
    """
    shape = ViTShape.from_spec(spec)
    if shape is None:
        raise ValueError(
            f"{what}; planning knows those of `vit`, and of timm's standard vit_* and deit_* without args"
        )
    return shape


def small_shape(
    spec: ModuleSpec | None, params: SmallModelParams, image: tuple[int, ...], classes: int
) -> ViTShape:
    """The small ViT for images [channels, height, width]; patches and class token as the source has them."""
    channels, height, width = image
    source = ViTShape.from_spec(spec)
    patch_size = params.patch_size
    if patch_size is None:
        patch_size = known_shape(spec, "no patch_size, and the source has none known").patch_size
    return ViTShape(
        image_size=(height, width),
        patch_size=patch_size,
        channels=channels,
        classes=classes,
        dim=params.dim,
        depth=params.depth,
        heads=params.heads,
        mlp_ratio=params.mlp_ratio,
        class_token=source.class_token if source is not None else True,
    )


def ensemble_sketch(spec: ModuleSpec | None, params: EnsembleParams, fleet: Fleet) -> Sketch:
    """``member1`` ... ``memberN`` read the image, ``mean`` their logits.

    Raises:
        ValueError: the source's image size is not known, or the dimensions do not fit.
    """
    source = known_shape(spec, "ensemble needs the source's image size and classes")
    shape = small_shape(spec, params, (source.channels, *source.image_size), source.classes)
    answer = 4 * shape.classes
    members = tuple(
        PartSketch(
            name=f"member{i}",
            inputs=(IMAGE,),
            params=shape.params(),
            macs=shape.macs(),
            weight_bytes=shape.weight_bytes(),
            output_bytes=answer,
            spec=shape.spec(),
        )
        for i in range(1, params.members + 1)
    )
    mean = PartSketch(
        name="mean",
        inputs=tuple(member.name for member in members),
        params=0,
        macs=0,
        weight_bytes=0,
        output_bytes=answer,
        spec=MEAN,
    )
    return Sketch(parts=(*members, mean), decisions={"members": params.members})


def slice_spec(spec: ModuleSpec, start: int, stop: int) -> ModuleSpec:
    """How any process builds blocks [start, stop) of what ``spec`` builds."""
    return ModuleSpec(
        factory="harness_timm.surgery:sliced", params={"base": base_of(spec), "start": start, "stop": stop}
    )


def check_cut(after: int, depth: int) -> None:
    """Both parts need a block.

    Raises:
        ValueError: they have not.
    """
    if not 1 <= after < depth:
        allowed = f"allowed are 1 to {depth - 1}" if depth > 1 else "there is nowhere to cut"
        raise ValueError(f"after: {after} is outside the model, whose depth is {depth}: {allowed}")


def pipeline_sketch(spec: ModuleSpec | None, params: PipelineParams, fleet: Fleet) -> Sketch:
    """``front``: embedding and blocks up to the cut; ``back``: the other blocks, norm and head.

    Raises:
        ValueError: the cut leaves one part without blocks, or the source's dimensions are not known.
    """
    shape, cut = known_shape(spec, "pipeline needs the dimensions of a ViT"), params.after
    check_cut(cut, shape.depth)
    front = PartSketch(
        name="front",
        inputs=(IMAGE,),
        params=shape.params(0, cut),
        macs=shape.macs(0, cut),
        weight_bytes=shape.weight_bytes(0, cut),
        output_bytes=4 * shape.tokens * shape.dim,
        spec=slice_spec(spec, 0, cut),
    )
    back = PartSketch(
        name="back",
        inputs=("front",),
        params=shape.params(cut),
        macs=shape.macs(cut),
        weight_bytes=shape.weight_bytes(cut),
        output_bytes=4 * shape.classes,
        spec=slice_spec(spec, cut, shape.depth),
    )
    return Sketch(parts=(front, back), decisions={"after": cut})
