"""Sub-task distillation (section IV-D): Algorithm 2, feature matching (Fig. 6) and the losses of Eq. 8 to 13.

Shapes: Q, K, V [n, h, T, e]; tokens T; heads h of e channels; logits Y [n, classes].

Readings taken of L_feat:

- ``fm: code`` (default) is what the authors' code does: heads side by side, rows of X X^T / sqrt(e) as
  distributions, KL(teacher || student) summed over rows, one pair of layers (the middle ones), divided by the
  student's number of layers.
- ``fm: paper`` is Fig. 6 and Eq. 12: the three unfoldings of [T, e, h], each X X^T, all layers j with k = g(j) (the
  double sum is a single one), over 3 l. Where the teacher has more rows, as many as the student has are drawn for
  each batch. Eq. 13 needs distributions, which the paper does not make: rows of X X^T / sqrt(columns of X) through a
  softmax.
- The authors' pair of layers is number L / 2, rounded down, of each model.
- Eq. 11's arguments are in the wrong order; it is cross-entropy. Only the true labels are smoothed: Eq. 10 has none for
  the teacher's decision, nor has DeiT [14], which it follows.
- A distilled DeiT has two heads. As in DeiT and in the authors' code, its class head learns the true labels and its
  distillation head the teacher's decision. Without L_pred the mean of both, which is what it answers, learns the labels.
- Algorithms 2 and 3 add the weight decay to the gradient (line 8) and subtract it again (line 14). AdamW, which the
  authors' code has, decays once.
- Table VII's L_feat alone trains no classifier: it is read as ground truth plus that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from harness.methods import Batch, count
from harness.types import Context, FitResult, Model
from harness_devit.partitioning import SubTask
from harness_devit.shrinking import Tap, layer_map
from harness_timm.surgery import require_vit

__all__ = [
    "Distillation",
    "FeatureLoss",
    "Loss",
    "distil",
    "fm_code",
    "fm_paper",
    "middle",
    "prediction_loss",
    "sub_task_loss",
    "two_heads",
    "with_teacher",
]

Loss = Callable[[nn.Module, Batch], torch.Tensor]
"""(student, batch) -> a scalar."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a sub-teacher teaches its sub-model.

    ``terms`` are a row of Table VII, ``alpha`` the weights of Q, K and V in Eq. 12, ``beta`` that of L_feat in Eq. 8,
    ``smoothing`` that of the labels. ``recipe`` holds keywords of ``ctx.fit``.
    """

    terms: Sequence[Literal["truth", "prediction", "feature"]]
    fm: Literal["code", "paper"]
    alpha: tuple[float, float, float]
    beta: float
    smoothing: float
    recipe: Mapping[str, Any]


def distil(
    ctx: Context, teacher: Model, small: VisionTransformer, omega: SubTask, how: Distillation
) -> FitResult:
    """Train ``small``, m_i, on Omega_i with the ``teacher`` M_i (Algorithm 2). The cost includes the teacher's passes."""
    m_i = require_vit(teacher.module, "devit").to(ctx.device).eval()
    matched = "feature" in how.terms
    features = FeatureLoss(small, m_i, how.fm, how.alpha) if matched else None
    with two_heads(small) if "prediction" in how.terms else nullcontext():
        fit = ctx.fit(  # lines 2 to 17
            small,
            loss=sub_task_loss(m_i, features, how),
            data=omega.train,
            validation=omega.validation,
            name=f"distil-{omega.name}",
            **how.recipe,
        )
    if features is not None:
        features.close()
    taught = matched or "prediction" in how.terms
    return with_teacher(fit, count(m_i, [teacher.input]).macs if taught else 0)


def with_teacher(fit: FitResult, macs: int) -> FitResult:
    """Return ``fit`` with the cost of a teacher, which makes a pass of ``macs`` for each pass of the student."""
    return replace(fit, train_macs=fit.train_macs + fit.image_passes * macs)


@contextmanager
def two_heads(small: VisionTransformer) -> Iterator[None]:
    """Let ``small`` in training give the logits of both heads, if it is a distilled DeiT. Afterwards it gives the mean."""
    if not isinstance(small, VisionTransformerDistilled):
        yield
        return
    small.set_distilled_training(True)
    try:
        yield
    finally:
        small.set_distilled_training(False)


def prediction_loss(
    student: torch.Tensor,
    labels: torch.Tensor,
    teacher: torch.Tensor | None,
    smoothing: float,
    distilled: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return L_pred (Eq. 9 to 11) of logits [n, classes] and ``labels`` [n].

    ``teacher`` are its logits [n, classes]. If there are none, the loss is that of the labels alone. ``distilled`` are
    the logits of a second head, which learns the teacher's decision in place of ``student``.
    """
    truth = functional.cross_entropy(student, labels, label_smoothing=smoothing)
    if teacher is None:
        return truth
    y_t = teacher.argmax(dim=1)  # Eq. 9
    return 0.5 * truth + 0.5 * functional.cross_entropy(student if distilled is None else distilled, y_t)


def _kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return Eq. 13 between softmaxes of the rows of [n, rows, rows]: summed over rows, mean over the batch."""
    return functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


def fm_code(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the divergence of Q, K or V [n, h, T, e] of both by the token unfolding alone (the authors' code)."""

    def match(p: torch.Tensor) -> torch.Tensor:
        x = p.transpose(1, 2).flatten(2)  # [n, T, h e]
        return x @ x.transpose(1, 2) * p.shape[3] ** -0.5  # [n, T, T]

    return _kl(match(student), match(teacher))


def fm_paper(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the divergence of Q, K or V [n, h, T, e] of both, summed over the three unfoldings of Fig. 6."""
    total = student.new_zeros(())
    for dim in (2, 3, 1):  # T, e, h
        s, t = (p.movedim(dim, 1).flatten(2) for p in (student, teacher))  # [n, rows, columns]
        if t.shape[1] > s.shape[1]:
            rows = torch.randperm(t.shape[1])[: s.shape[1]].sort().values
            t = t[:, rows.to(t.device)]
        total = total + _kl(*(x @ x.transpose(1, 2) * x.shape[2] ** -0.5 for x in (s, t)))
    return total


def middle(depth: int) -> int:
    """Return the block that the authors' code matches: number depth / 2, rounded down, counted from 1."""
    return max(depth // 2, 1) - 1


class FeatureLoss:
    """L_feat (Eq. 12) of the batch that student and teacher computed last, whose Q, K and V hooks keep."""

    def __init__(
        self, student: VisionTransformer, teacher: VisionTransformer, fm: str, alpha: Sequence[float]
    ) -> None:
        self._depth, self._alpha = len(student.blocks), alpha
        g = layer_map(self._depth, len(teacher.blocks))
        if fm == "code":
            pairs = [(middle(self._depth), middle(len(teacher.blocks)))]
            self._match, self._over = fm_code, self._depth
        else:
            pairs = list(enumerate(g))
            self._match, self._over = fm_paper, 3 * self._depth
        self._heads = [vit.blocks[0].attn.num_heads for vit in (student, teacher)]
        self._taps = [(Tap(student.blocks[j].attn.qkv), Tap(teacher.blocks[k].attn.qkv)) for j, k in pairs]

    def __call__(self) -> torch.Tensor:
        """Return L_feat, a scalar."""
        terms = []
        for taps in self._taps:
            s, t = (self._split(tap.value, h) for tap, h in zip(taps, self._heads, strict=True))
            terms += [a * self._match(s[i], t[i]) for i, a in enumerate(self._alpha)]
        return torch.stack(terms).sum() / self._over

    def close(self) -> None:
        """Remove the hooks from both models."""
        for tap in (tap for pair in self._taps for tap in pair):
            tap.close()

    @staticmethod
    def _split(qkv: torch.Tensor, heads: int) -> torch.Tensor:
        """Return Q, K, V [3, n, h, T, e] of ``qkv`` [n, T, 3 h e]."""
        return qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def sub_task_loss(teacher: VisionTransformer, features: FeatureLoss | None, how: Distillation) -> Loss:
    """Return L_sub-task: Eq. 8, or what ``how.terms`` leave of it (Table VII)."""
    hard = "prediction" in how.terms
    needed = features is not None or hard

    def loss(student: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            y_t = teacher(batch.inputs) if needed else None  # line 5: the hooks keep Q, K and V
        answer = student(batch.inputs)
        y_s, distilled = answer if isinstance(answer, tuple) else (answer, None)
        total = prediction_loss(y_s, batch.labels, y_t if hard else None, how.smoothing, distilled)
        return total if features is None else total + how.beta * features()  # lines 6 and 7

    return loss
