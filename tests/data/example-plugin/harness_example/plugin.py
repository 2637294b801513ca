"""What the harness sees. Torch is imported inside functions only."""

from __future__ import annotations

from dataclasses import asdict, replace

from pydantic import Field

from harness.hookspecs import hookimpl
from harness.types import (
    CompressorEntry,
    Context,
    DataInfo,
    Lineage,
    Model,
    ModelEntry,
    ModuleSpec,
    Params,
    TensorSpec,
)


class MixerParams(Params):
    """An MLP-Mixer; image size, channels and classes are the data set's."""

    patch_size: int = Field(4, ge=1, description="pixels per side of a patch")
    dim: int = Field(64, ge=1, description="channels of a token")
    depth: int = Field(4, ge=1, description="blocks")


def describe_mixer(params: MixerParams, data: DataInfo) -> ModuleSpec:
    _, height, width = data.shape
    if height % params.patch_size or width % params.patch_size:
        raise ValueError(f"patch_size: {params.patch_size} does not divide {height} x {width} pixels")
    return ModuleSpec(
        factory="harness_example.nets:mixer",
        params={"shape": list(data.shape), "classes": data.classes, **params.model_dump()},
    )


def build_mixer(ctx: Context, params: MixerParams) -> Model:
    info = ctx.data.info
    spec = describe_mixer(params, info)
    return Model(module=spec.build(), spec=spec, input=TensorSpec(shape=info.shape), classes=info.classes)


class LowRankParams(Params):
    """Linear layers W [out, in] become two, of rank r, wherever that saves weights."""

    rank: int = Field(ge=1, description="columns that are kept of each weight matrix")
    recover: int = Field(5, ge=0, description="epochs of training afterwards")


def describe_low_rank(spec: ModuleSpec, params: LowRankParams, data: DataInfo) -> ModuleSpec:
    return ModuleSpec(
        factory="harness_example.nets:low_rank", params={"base": asdict(spec), "rank": params.rank}
    )


def compress_low_rank(ctx: Context, model: Model, params: LowRankParams) -> Model:
    from harness_example.nets import factorise

    ctx.progress(f"factorising to rank {params.rank}")
    module, layers = factorise(model.module, params.rank)
    after_svd = ctx.evaluate(module).top1
    fitted = ctx.fit(module, name="recover", epochs=params.recover)
    step = Lineage(
        stage="compress",
        entry="low-rank",
        params=params.model_dump(),
        image_passes=fitted.image_passes,
        train_macs=fitted.train_macs,
        train_s=fitted.train_s,
        notes={"layers": layers, "validation_top1_before_training": after_svd},
    )
    return replace(
        model,
        module=module,
        spec=describe_low_rank(model.spec, params, ctx.data.info),
        lineage=(*model.lineage, step),
    )


@hookimpl
def harness_models():
    yield ModelEntry(
        name="mixer",
        summary="an MLP-Mixer by its dimensions (Tolstikhin et al. 2021)",
        params=MixerParams,
        build=build_mixer,
        describe=describe_mixer,
        requires=("torch",),
        extra="bench",
    )


@hookimpl
def harness_compressors():
    yield CompressorEntry(
        name="low-rank",
        summary="linear layers cut to rank r by SVD, then trained",
        params=LowRankParams,
        compress=compress_low_rank,
        describe=describe_low_rank,
        requires=("torch",),
        extra="bench",
    )
