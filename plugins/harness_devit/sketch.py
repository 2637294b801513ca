"""The dimensions of DeViT's sub-models and fusion (sections III-B and IV-B, Table II). Torch-free: planning calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from harness.methods import even_shares, fused_sketch, image_sketch
from harness.types import ModuleSpec, Sketch
from harness_devit.cct_sketch import CCTShape
from harness_timm.vit import TIMM_FACTORY, ViTShape

__all__ = [
    "Aggregation",
    "Criterion",
    "FusionShape",
    "Shape",
    "Shapes",
    "TokenShape",
    "decompose",
    "devit_sketch",
    "group_sizes",
    "teacher_shape",
]

Criterion: TypeAlias = Literal["taylor", "hsic", "random"]
"""How heads and neurons are ranked (section IV-C): Eq. 5 to 7, as in the authors' code, or at random."""

Aggregation: TypeAlias = Literal["linear", "concat", "attention", "senet", "mlp"]
"""How features are aggregated (section III-B, Table IX)."""

_DISTILLED_NAME = re.compile(r"deit_(tiny|small|base)_distilled_patch(\d+)_\d+(?:\.\w+)?")
_DISTILLED_SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}  # dim, heads; depth 12
_DISTILLED_ARGS = {
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
}


@dataclass(frozen=True, kw_only=True)
class TokenShape(ViTShape):
    """A ViT or, with ``distilled``, a DeiT whose head reads a second token."""

    distilled: bool = False

    @property
    def tokens(self) -> int:
        """Return the number of tokens between blocks, those that heads read included."""
        return super().tokens + self.distilled

    @property
    def read(self) -> int:
        """Return the number of tokens that heads read (R)."""
        return 1 + self.distilled

    def params(self, start: int = 0, stop: int | None = None) -> int:
        """Return the parameters of blocks [start, stop), the second token and its head included."""
        more = 0
        if self.distilled:
            start, stop = self._range(start, stop)
            more += self.dim if start == 0 else 0  # the token itself; its position is among `tokens`
            more += (self.dim + 1) * self.classes if stop == self.depth else 0
        return super().params(start, stop) + more

    def macs(self, start: int = 0, stop: int | None = None) -> int:
        """Return the multiply-accumulates for one image of the same pieces as :meth:`params`."""
        last = (self.depth if stop is None else stop) == self.depth
        return super().macs(start, stop) + self.distilled * last * self.dim * self.classes

    def spec(self) -> ModuleSpec:
        """Return how any process builds a ViT of this shape."""
        plain = {key: value for key, value in vars(self).items() if key != "distilled"}
        if not self.distilled:
            return ViTShape(**plain).spec()
        params = {**plain, "image_size": list(self.image_size)}
        del params["class_token"]
        return ModuleSpec(factory="harness_devit.deit:two_tokens", params=params)


Shape: TypeAlias = TokenShape | CCTShape
"""The families of ViTs that are decomposed."""


@dataclass(frozen=True, kw_only=True)
class FusionShape:
    """The fusion: N features of D channels, for each of R tokens -> logits (:mod:`harness_devit.fusion`).

    ``width`` is D_t of Eq. 3. With ``fa: code`` there is one layer before the head, with ``paper`` there are two.
    """

    kind: Aggregation
    fa: Literal["code", "paper"]
    parts: int
    dim: int
    width: int
    classes: int
    tokens: int = 1

    @property
    def fused(self) -> int:
        """Return F, the channels of the aggregated feature that the head reads."""
        if self.kind in ("attention", "senet"):
            return self.dim
        if self.kind == "concat" or self.fa == "paper":
            return self.parts * self.dim
        return self.width

    def params(self) -> int:
        """Return how many parameters the fusion has."""
        n, d, nd = self.parts, self.dim, self.parts * self.dim
        aggregate = {"concat": 0, "attention": d + 2 * d * (d + 1), "senet": 2 * n * (n + 1)}.get(
            self.kind, (nd + 1) * self.width + (0 if self.fa == "code" else (self.width + 1) * nd)
        )
        return self.tokens * (aggregate + (self.fused + 1) * self.classes)

    def macs(self) -> int:
        """Return the multiply-accumulates for one image."""
        n, d, nd = self.parts, self.dim, self.parts * self.dim
        aggregate = {"concat": 0, "attention": 2 * nd * d + 2 * nd, "senet": 2 * n * n + nd}.get(
            self.kind, nd * self.width * (1 if self.fa == "code" else 2)
        )
        return self.tokens * (aggregate + self.fused * self.classes)

    def spec(self) -> ModuleSpec:
        """Return how any process builds the fusion."""
        return ModuleSpec(factory="harness_devit.fusion:fusion", params=dict(vars(self)))


def group_sizes(classes: int, parts: int) -> list[int]:
    """Return how many of the ``classes`` each of the N ``parts`` gets (Eq. 4).

    Raises:
        ValueError: a part would have fewer than two, so nothing to tell apart.
    """
    if parts > classes:
        raise ValueError(f"parts: {parts} is more than the {classes} classes there are to share out")
    if parts > 1 and classes // parts < 2:
        raise ValueError(
            f"parts: {parts} of {classes} classes leaves a part with one, and nothing to tell apart; "
            f"allowed: 1 to {max(classes // 2, 1)}"
        )
    return even_shares(classes, parts)


def teacher_shape(spec: ModuleSpec | None) -> Shape:
    """Return the dimensions of the teacher that ``spec`` builds.

    Raises:
        ValueError: it is of another family, or its dimensions are not known before it is built.
    """
    plain, compact = ViTShape.from_spec(spec), CCTShape.from_spec(spec)
    if plain is not None:
        return TokenShape(**vars(plain))
    if compact is not None:
        return compact
    built = spec.params if spec is not None and spec.factory == TIMM_FACTORY else {}
    name = _DISTILLED_NAME.fullmatch(built.get("name", ""))
    if name is None or not set(built["args"]) <= set(_DISTILLED_ARGS):
        what = built.get("name") or (spec.factory if spec is not None else "a model of unknown shape")
        raise ValueError(
            f"devit cannot tell the dimensions of {what}: its teacher is `vit`, `cct`, or timm's standard "
            "vit_*, deit_* or deit_*_distilled"
        )
    dim, heads = _DISTILLED_SIZES[name[1]]
    sizes = {"patch_size": int(name[2]), "dim": dim, "depth": 12, "heads": heads}
    return TokenShape(
        image_size=tuple(built["image_size"]),
        channels=built["channels"],
        classes=built["classes"],
        drop_path_rate=built["drop_path_rate"] or 0.0,
        distilled=True,
        **{**sizes, **{_DISTILLED_ARGS[key]: value for key, value in built["args"].items()}},
    )


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The dimensions of all that Algorithm 1 makes of the ``teacher`` M_0.

    Each sub-model m_i has the shape ``sub``, without a head. ``groups`` are the numbers of classes N_i of Eq. 4.
    """

    teacher: Shape
    groups: tuple[int, ...]
    sub: Shape
    fusion: FusionShape


def decompose(
    spec: ModuleSpec | None,
    *,
    parts: int,
    dim: int,
    heads: int,
    depth: int | None,
    mlp_ratio: float,
    drop_path_rate: float,
    sliced: bool,
    matched: bool,
    fusion: Aggregation,
    fa: Literal["code", "paper"],
    width: int | None,
) -> Shapes:
    """Return the dimensions of ``parts`` sub-models of the teacher that ``spec`` builds, and of their fusion.

    A sub-model has ``depth`` blocks (L_s, by default half the teacher's), ``heads`` heads (h_s), ``dim`` channels (D_s)
    and ``mlp_ratio`` x ``dim`` neurons (d_s). ``drop_path_rate`` is its stochastic depth. If it is ``sliced``, it is cut from its teacher and is no larger. If it is
    ``matched`` as in Fig. 6, it has no more and no wider heads. ``width`` is D_t, by default the teacher's D.

    Raises:
        ValueError: a teacher of another family, too many parts, or dimensions that do not fit together or the teacher.
    """
    teacher = teacher_shape(spec)
    groups = group_sizes(teacher.classes, parts)
    sub = replace(
        teacher,
        classes=0,
        dim=dim,
        depth=depth or (teacher.depth + 1) // 2,
        heads=heads,
        mlp_ratio=mlp_ratio,
        drop_path_rate=drop_path_rate,
    )
    limits = [("depth", sub.depth, teacher.depth)]  # Eq. 12 maps each layer to one of the teacher's
    if sliced:
        limits += [("dim", sub.dim, teacher.dim), ("mlp_ratio x dim", sub.hidden, teacher.hidden)]
    if sliced or matched:
        limits += [
            ("heads", sub.heads, teacher.heads),
            ("dim / heads", sub.dim // sub.heads, teacher.dim // teacher.heads),
        ]
    for name, value, most in limits:
        if value > most:
            raise ValueError(
                f"{name}: {value} is more than the teacher's {most}, of which a sub-model takes a part"
                + "; init: random and fm: code allow it" * (name != "depth")
            )
    fused = FusionShape(
        kind=fusion,
        fa=fa,
        parts=parts,
        dim=dim,
        width=width or teacher.dim,
        classes=teacher.classes,
        tokens=teacher.read,
    )
    return Shapes(teacher=teacher, groups=tuple(groups), sub=sub, fusion=fused)


def devit_sketch(shapes: Shapes) -> Sketch:
    """Return ``sub1`` ... ``subN``, which read the image, and ``fusion``, which reads their features [R, D_s]."""
    sub, fusion = shapes.sub, shapes.fusion
    return fused_sketch(
        [
            image_sketch(f"sub{i}", sub, sub.read * sub.dim, sub.spec())
            for i in range(1, len(shapes.groups) + 1)
        ],
        params=fusion.params(),
        macs=fusion.macs(),
        classes=fusion.classes,
        spec=fusion.spec(),
        decisions={"classes_per_part": list(shapes.groups), "depth": sub.depth},
    )
