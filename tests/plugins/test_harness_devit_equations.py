"""Tests of DeViT's equations against cases by hand, finite differences and masked originals."""

from __future__ import annotations

import contextlib
import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness_devit.distillation import (
    Distillation,
    FeatureLoss,
    fm_code,
    fm_paper,
    middle,
    prediction_loss,
    sub_task_loss,
    two_heads,
)
from harness_devit.ensemble import Ensemble, Ensembling, ensemble_loss, token_maps
from harness_devit.fusion import fusion
from harness_devit.shrinking import Importance, Kept, Tap, choose, layer_map, slice_teacher, taylor_importance
from harness_devit.sketch import TokenShape

SHAPE = TokenShape(
    image_size=(8, 8), patch_size=4, channels=1, classes=3, dim=12, depth=3, heads=3, class_token=False
)


def vit(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    module = TokenShape(**{**vars(SHAPE), **changes}).spec().build().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


class Images:
    def __init__(self, n: int = 7) -> None:
        rng = np.random.default_rng(3)
        self.labels = rng.integers(0, 3, n)
        self.images = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)

    def batch(self, indices: Any) -> Any:
        return self.images[indices]

    def __len__(self) -> int:
        return len(self.labels)


# --- feature matching -----------------------------------------------------------------------------


def divergence(student: list[list[float]], teacher: list[list[float]]) -> float:
    """KL(teacher || student) of the rows' softmaxes, summed: plain loops."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = ([math.exp(v) / sum(map(math.exp, row)) for v in row] for row in (s, t))
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total


def gram(rows: list[list[float]], scale: float) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(x, y, strict=True)) * scale for y in rows] for x in rows]


def test_fm_of_the_code_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 1, 2, 2)  # n 1, h 1, T 2, e 2
    teacher = torch.tensor([[[1.0], [2.0]], [[3.0], [-1.0]]]).reshape(1, 2, 2, 1)  # h 2, T 2, e 1
    s = gram([[1, 0], [0, 2]], 2**-0.5)
    t = gram([[1, 3], [2, -1]], 1.0)  # token rows, heads side by side
    assert t == [[10, -1], [-1, 5]]
    assert float(fm_code(student, teacher)) == pytest.approx(divergence(s, t), rel=1e-5)
    twice = fm_code(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1))
    assert float(twice) == pytest.approx(divergence(s, t), rel=1e-5)  # a mean over the batch


def unfold(x: torch.Tensor, dim: int) -> list[list[float]]:
    """Return the rows of [h, T, e] along ``dim``."""
    return [x.select(dim, i).flatten().tolist() for i in range(x.shape[dim])]


def test_fm_of_the_paper_sums_the_three_unfoldings() -> None:
    student, teacher = torch.randn(2, 2, 3, 2, generator=torch.Generator().manual_seed(1))[:, None].unbind(0)
    want = 0.0
    for dim in range(3):
        rows = [unfold(x[0], dim) for x in (student, teacher)]
        want += divergence(*(gram(r, len(r[0]) ** -0.5) for r in rows))
    assert float(fm_paper(student, teacher)) == pytest.approx(want, rel=1e-4)


def test_fm_of_the_paper_draws_as_many_of_the_teachers_heads_as_the_student_has() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(1, 3, 2, generator=generator), torch.randn(3, 3, 2, generator=generator)
    whole = 0.0
    for dim in (1, 2):  # tokens and head channels agree: all rows
        rows = [unfold(x, dim) for x in (student, teacher)]
        whole += divergence(*(gram(r, len(r[0]) ** -0.5) for r in rows))
    picks = []
    for head in range(3):
        rows = [unfold(student, 0), [unfold(teacher, 0)[head]]]
        picks.append(whole + divergence(*(gram(r, len(r[0]) ** -0.5) for r in rows)))
    two = torch.cat([student, student * 0.5])
    pairs = []
    for pair in itertools.combinations(range(3), 2):
        t = teacher[list(pair)]
        pairs.append(sum_of_unfoldings(two, teacher, t))
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        got = float(fm_paper(two[None], teacher[None]))
        near = [i for i, value in enumerate(pairs) if got == pytest.approx(value, rel=1e-4)]
        assert near
        seen.update(near)
    assert seen == {0, 1, 2}
    assert float(fm_paper(student[None], teacher[None])) == pytest.approx(
        picks[0], rel=1e-4
    )  # one row: softmax 1


def sum_of_unfoldings(student: torch.Tensor, teacher: torch.Tensor, drawn: torch.Tensor) -> float:
    total = 0.0
    for dim, other in ((0, drawn), (1, teacher), (2, teacher)):
        rows = [unfold(x, dim) for x in (student, other)]
        total += divergence(*(gram(r, len(r[0]) ** -0.5) for r in rows))
    return total


@pytest.mark.parametrize(("fm", "match"), [("code", fm_code), ("paper", fm_paper)])
def test_the_feature_loss_weighs_q_k_and_v_of_the_mapped_layers(fm: str, match: Any) -> None:
    """Eq. 12 on Q, K and V computed from each layer's input; equal heads, so nothing is drawn."""
    student, teacher = vit(1, depth=2), vit(2, depth=4)
    images = torch.randn(3, 1, 8, 8)
    loss = FeatureLoss(student, teacher, fm, (0.2, 0.1, 0.3))
    with torch.no_grad():
        student(images)
        teacher(images)
        got = float(loss())
        pairs = [(0, 1)] if fm == "code" else [(0, 1), (1, 3)]
        want = 0.0
        for j, k in pairs:
            for i, alpha in enumerate((0.2, 0.1, 0.3)):
                s, t = qkv(student, images, j)[i], qkv(teacher, images, k)[i]
                want += alpha * float(match(s, t))
    assert got == pytest.approx(want / (2 if fm == "code" else 6), rel=1e-4)
    loss.close()
    assert not student.blocks[0].attn.qkv._forward_hooks


def qkv(model: Any, images: torch.Tensor, block: int) -> list[torch.Tensor]:
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    x = model.blocks[block].norm1(model.blocks[:block](x))
    attn, (n, tokens, dim) = model.blocks[block].attn, x.shape
    weights, biases = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
    made = [nn.functional.linear(x, w, b) for w, b in zip(weights, biases, strict=True)]
    return [y.reshape(n, tokens, attn.num_heads, dim // attn.num_heads).transpose(1, 2) for y in made]


def test_layers_are_mapped_evenly_the_last_to_the_last() -> None:
    assert layer_map(2, 4) == [1, 3]
    assert layer_map(12, 24) == list(range(1, 24, 2))
    assert layer_map(3, 3) == [0, 1, 2]
    assert layer_map(4, 6) == [0, 2, 3, 5]


def test_the_pair_of_layers_of_the_code_is_the_middle_of_each_rounded_down() -> None:
    """Counted from 0: blocks 5 and 11 of 12 and 24, blocks 2 and 6 of DeCCT's 7 and CCT's 14."""
    assert [middle(depth) for depth in (12, 24, 7, 14, 2, 1)] == [5, 11, 2, 6, 0, 0]


def test_prediction_loss_is_half_truth_half_the_teachers_decision() -> None:
    student, labels = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 0])
    teacher = torch.tensor([[0.0, 9.0], [1.0, 0.5]])  # decides 1, 0
    log2, log43 = math.log(2), math.log(4 / 3)
    assert float(prediction_loss(student, labels, None, 0.0)) == pytest.approx((log2 + log43) / 2)
    teacher[1] = torch.tensor([0.0, 1.0])  # decides 1, 1
    want = 0.5 * (log2 + log43) / 2 + 0.5 * (log2 + math.log(4)) / 2
    assert float(prediction_loss(student, labels, teacher, 0.0)) == pytest.approx(want)


def test_the_teachers_decision_is_not_smoothed() -> None:
    """Eq. 10, one image of three classes: the logs of its softmax are -0.4076, -1.4076 and -2.4076."""
    student, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
    teacher = torch.tensor([[0.0, 0.0, 1.0]])
    truth = 0.9 * 0.4076 + 0.1 * (0.4076 + 1.4076 + 2.4076) / 3  # smoothed by 0.1
    want = 0.5 * truth + 0.5 * 2.4076
    assert float(prediction_loss(student, labels, teacher, 0.1)) == pytest.approx(want, abs=1e-4)


def test_the_heads_of_a_distilled_deit_learn_the_label_and_the_decision() -> None:
    """As in DeiT: class head <- label, distillation head <- the teacher's decision. By hand, with two classes."""
    head, second = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, math.log(7)]])
    labels, teacher = torch.tensor([0]), torch.tensor([[0.0, 1.0]])
    want = 0.5 * math.log(4 / 3) + 0.5 * math.log(8 / 7)
    assert float(prediction_loss(head, labels, teacher, 0.0, second)) == pytest.approx(want)
    assert float(prediction_loss(head, labels, None, 0.0)) == pytest.approx(math.log(4 / 3))


BATCH = SimpleNamespace(
    inputs=torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(4)),
    labels=torch.tensor([0, 1, 2, 1, 0]),
)


def entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean cross-entropy, row by row."""
    rows = zip(logits.softmax(1).tolist(), labels.tolist(), strict=True)
    return -sum(math.log(row[label]) for row, label in rows) / len(labels)


@pytest.mark.parametrize(
    "losses", [("truth",), ("prediction",), ("truth", "feature"), ("prediction", "feature")]
)
@torch.no_grad()
def test_the_sub_task_loss_is_eq_8(losses: tuple[Any, ...]) -> None:
    teacher, student = vit(1), vit(2, depth=2)
    how = Distillation(terms=losses, fm="code", alpha=(0.2, 0.1, 0.3), beta=0.7, smoothing=0, recipe={})
    features = FeatureLoss(student, teacher, how.fm, how.alpha) if "feature" in losses else None
    got = float(sub_task_loss(teacher, features, how)(student, BATCH))
    y_s, y_t = student(BATCH.inputs), teacher(BATCH.inputs).argmax(1)
    assert y_t.tolist() != BATCH.labels.tolist()
    want = entropy(y_s, BATCH.labels)
    if "prediction" in losses:
        want = want / 2 + entropy(y_s, y_t) / 2
    if features is not None:
        want += 0.7 * float(features())
    assert got == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("hard", [False, True])
@torch.no_grad()
def test_the_sub_task_loss_of_two_tokens_gives_each_head_its_label(hard: bool) -> None:
    """Both heads are read from the tokens after the last LayerNorm, apart from the plugin's way to them."""
    teacher, student = vit(1), vit(2, class_token=True, distilled=True)
    how = Distillation(
        terms=("prediction",) if hard else ("truth",),
        fm="code",
        alpha=(0, 0, 0),
        beta=0,
        smoothing=0,
        recipe={},
    )
    student.train()
    with two_heads(student) if hard else contextlib.nullcontext():
        got = float(sub_task_loss(teacher, None, how)(student, BATCH))
    tokens, y_t = student.forward_features(BATCH.inputs), teacher(BATCH.inputs).argmax(1)
    one, two = student.head(tokens[:, 0]), student.head_dist(tokens[:, 1])
    want = entropy((one + two) / 2, BATCH.labels)
    if hard:
        want = entropy(one, BATCH.labels) / 2 + entropy(two, y_t) / 2
    assert got == pytest.approx(want, rel=1e-4)
    torch.testing.assert_close(student(BATCH.inputs), (one + two) / 2)


@torch.no_grad()
def test_the_token_loss_of_two_tokens_is_the_sum_of_both() -> None:
    """The authors' code adds a mean squared error for each token of a distilled DeiT."""
    changes = {"class_token": True, "distilled": True}
    m0, subs = vit(1, **changes), [vit(seed, classes=0, **changes) for seed in (2, 3)]
    fused = made_fusion("linear", tokens=2, parts=2, dim=12, width=12, classes=3)
    whole = Ensemble(subs, fused, token_maps(12, 12, 2, direct=True))
    how = Ensembling(terms=("truth", "token"), gamma=1, smoothing=0, recipe={})
    taps = [Tap(branch.fa) for branch in fused.branches]
    got = float(ensemble_loss(m0, whole, taps, how)(whole, BATCH))
    apart = 0.0
    for r, branch in enumerate(fused.branches):
        z = torch.cat([sub.forward_features(BATCH.inputs)[:, r] for sub in subs], 1)
        wanted = m0.forward_features(BATCH.inputs)[:, r]
        apart += float((branch.fa.w1(z) - wanted).square().sum()) / (5 * 12)
    assert got == pytest.approx(entropy(whole(BATCH.inputs), BATCH.labels) + apart, rel=1e-4)


@pytest.mark.parametrize("losses", [("truth",), ("prediction",), ("truth", "token"), ("prediction", "token")])
@pytest.mark.parametrize("kind", ["concat", "linear"])
@torch.no_grad()
def test_the_ensemble_loss_is_eq_14_and_15(kind: str, losses: tuple[Any, ...]) -> None:
    """``concat`` uses G [24, 12]. The fused feature of ``linear`` is as wide as the teacher's token."""
    m0, subs = vit(1, class_token=True), [vit(seed, class_token=True, classes=0) for seed in (2, 3)]
    fused = made_fusion(kind, parts=2, dim=12, width=12, classes=3)
    maps = token_maps(24 if kind == "concat" else 12, 12, 1, direct=kind == "linear")
    whole = Ensemble(subs, fused, maps)
    how = Ensembling(terms=losses, gamma=0.7, smoothing=0, recipe={})
    taps = [Tap(branch.fa) for branch in fused.branches]
    got = float(ensemble_loss(m0, whole, taps, how)(whole, BATCH))

    z = torch.cat([sub.forward_features(BATCH.inputs)[:, 0] for sub in subs], 1)  # class tokens
    if kind == "linear":
        w1 = fused.branches[0].fa.w1
        z = z @ w1.weight.T + w1.bias
    head = fused.branches[0].head
    logits, y_t = z @ head.weight.T + head.bias, m0(BATCH.inputs).argmax(1)
    want = entropy(logits, BATCH.labels)
    if "prediction" in losses:
        want = want / 2 + entropy(logits, y_t) / 2
    if "token" in losses:
        mapped = z if kind == "linear" else z @ maps[0].weight.T
        want += 0.7 * float((mapped - m0.forward_features(BATCH.inputs)[:, 0]).square().mean())
    assert got == pytest.approx(want, rel=1e-4)


# --- feature aggregation --------------------------------------------------------------------------


def made_fusion(kind: str = "linear", fa: str = "code", tokens: int = 1, **sizes: int) -> Any:
    torch.manual_seed(0)
    given = {"parts": 2, "dim": 2, "width": 3, "classes": 2, **sizes}
    return fusion(kind=kind, fa=fa, tokens=tokens, **given).eval()


def put(linear: nn.Linear, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


Z = (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]))


def test_fa_of_the_code_by_hand() -> None:
    module = made_fusion()
    put(module.branches[0].fa.w1, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 2]], [0.5, 0, 0])
    put(module.branches[0].head, [[1, 1, 0], [0, 0, 1]], [0, 1])
    # concatenated [1, 2, 3, -1] -> [1.5, 5, -2] -> [6.5, -1]
    assert module(*Z).tolist() == [[6.5, -1.0]]


def test_fa_of_the_paper_by_hand() -> None:
    module = made_fusion(fa="paper", width=1)
    put(module.branches[0].fa.w1, [[1, 1, 1, 1]], [1])  # 6
    put(module.branches[0].fa.w2, [[1], [0], [-1], [2]], [0, 1, 0, 0])  # [6, 1, -6, 12]
    put(module.branches[0].head, [[1, 1, 1, 1], [0, 0, 1, 0]], [0, 0])
    assert module(*Z).tolist() == [[13.0, -6.0]]


def test_mlp_has_the_activation_that_the_paper_removes() -> None:
    module = made_fusion("mlp", fa="paper", width=1)
    put(module.branches[0].fa.w1, [[-1, -1, -1, -1]], [-95])  # GELU(-100) is 0
    put(module.branches[0].fa.w2, [[1], [1], [1], [1]], [1, 2, 3, 4])
    put(module.branches[0].head, [[1, 1, 1, 1], [0, 0, 0, 1]], [0, 0])
    assert module(*Z).tolist() == [[10.0, 4.0]]


def test_senet_weighs_each_feature_by_itself() -> None:
    module = made_fusion("senet")
    excite = module.branches[0].fa.excite
    put(excite[0], [[1, 0], [0, 1]], [0, 0])  # squeezed means 1.5 and 1
    put(excite[2], [[0, 0], [0, 1]], [0, math.log(3) - 1])  # sigmoids of 0 and ln 3
    put(module.branches[0].head, [[1, 0], [0, 1]], [0, 0])
    torch.testing.assert_close(module(*Z), torch.tensor([[0.5 + 0.75 * 3, 0.5 * 2 - 0.75]]))


def test_attention_is_a_softmax_over_the_features() -> None:
    module = made_fusion("attention")
    fa = module.branches[0].fa
    put(fa.key, [[1, 0], [0, 1]], [0, 0])
    put(fa.value, [[2, 0], [0, 2]], [0, 0])
    put(module.branches[0].head, [[1, 0], [0, 1]], [0, 0])
    with torch.no_grad():
        fa.query.copy_(torch.tensor([[math.log(3) * 2**0.5 / 2], [0.0]]))  # scores ln 3 / 2 and 3 ln 3 / 2
    torch.testing.assert_close(module(*Z), torch.tensor([[0.25 * 2 + 0.75 * 6, 0.25 * 4 - 0.75 * 2]]))


def test_two_tokens_have_a_branch_each_and_logits_are_averaged() -> None:
    module = made_fusion(tokens=2)
    features = [torch.randn(3, 2, 2) for _ in range(2)]
    with torch.no_grad():
        apart = [
            branch(torch.stack([f[:, r] for f in features], 1)) for r, branch in enumerate(module.branches)
        ]
        torch.testing.assert_close(module(*features), (apart[0] + apart[1]) / 2)


# --- importance -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"class_token": True}, {"class_token": True, "distilled": True}], ids=str
)
def test_taylor_importance_is_the_slope_of_the_loss_by_a_gate(changes: dict[str, Any]) -> None:
    """Against central differences: each head, neuron or channel scaled by 1 + t and 1 - t, in float64."""
    model, data = vit(**changes), Images()
    found = taylor_importance(model, data, "cpu", batch=3)
    model.double()
    x, y = torch.from_numpy(data.images).double(), torch.from_numpy(data.labels)

    def slope(module: nn.Module, picked: slice, inputs: bool) -> float:
        losses = []
        for t in (1e-4, -1e-4):
            gate = torch.ones(module.in_features if inputs else SHAPE.dim, dtype=torch.float64)
            gate[picked] += t
            if inputs:
                handle = module.register_forward_pre_hook(lambda _, given, gate=gate: (given[0] * gate,))
            else:
                handle = module.register_forward_hook(lambda _, __, out, gate=gate: out * gate)
            with torch.no_grad():
                losses.append(float(nn.functional.cross_entropy(model(x), y)))
            handle.remove()
        return (losses[0] - losses[1]) / 2e-4

    for i, block in enumerate(model.blocks):
        for head in range(3):
            want = slope(block.attn.proj, slice(4 * head, 4 * head + 4), True)
            assert float(found.heads[i, head].sum()) == pytest.approx(want, rel=1e-3, abs=1e-6)
        for neuron in (0, 17, 47):
            want = slope(block.mlp.fc2, slice(neuron, neuron + 1), True)
            assert float(found.neurons[i, neuron]) == pytest.approx(want, rel=1e-3, abs=1e-6)
    for channel in (0, 5, 11):
        want = sum(abs(slope(block, slice(channel, channel + 1), False)) for block in model.blocks)
        assert float(found.embedding[channel]) == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_the_most_important_are_kept_in_their_order() -> None:
    importance = Importance(
        heads=torch.tensor([[[0.0, 0.1], [-3.0, 1.0], [1.0, 0.5]]]),  # |sums| 0.1, 2, 1.5
        neurons=torch.tensor([[1.0, -5.0, 0.0, 2.0]]),
        embedding=torch.tensor([0.1, 3.0, 0.2, 2.0, 0.0, 1.0]),
    )
    small = TokenShape(**{**vars(SHAPE), "dim": 2, "depth": 1, "heads": 2, "mlp_ratio": 1.0})
    kept = choose(importance, small)
    assert kept.blocks == [0]
    assert kept.channels.tolist() == [1, 3]
    assert kept.heads.tolist() == [[2, 4]]  # first channel of head 1, first of head 2
    assert kept.neurons.tolist() == [[1, 3]]


# --- teacher-slice --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"class_token": True}, {"class_token": True, "distilled": True}], ids=str
)
def test_fewer_blocks_and_neurons_are_exactly_a_masked_teacher(changes: dict[str, Any]) -> None:
    teacher, small = vit(1, **changes), vit(2, depth=2, mlp_ratio=2.0, **changes)
    neurons = torch.stack([torch.randperm(48)[:24].sort().values for _ in range(2)])
    every = torch.arange(12)
    slice_teacher(teacher, small, Kept([0, 2], every, torch.stack([every, every]), neurons))
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        for j, block in enumerate((0, 2)):
            mask = torch.zeros(48)
            mask[neurons[j]] = 1
            teacher.blocks[block].mlp.fc2.weight.mul_(mask)
        teacher.blocks[1] = nn.Identity()
        torch.testing.assert_close(small(images), teacher(images), rtol=1e-4, atol=1e-5)


def test_fewer_heads_and_channels_are_exactly_a_masked_attention() -> None:
    """LayerNorm sees the kept channels alone, so exact is what lies between two: attention, and the MLP."""
    teacher, small = vit(1), vit(2, dim=8, heads=2)
    channels, heads = torch.tensor([0, 1, 3, 4, 6, 7, 9, 11]), torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    neurons = torch.arange(5, 37)
    slice_teacher(
        teacher, small, Kept([0, 1, 2], channels, torch.stack([heads] * 3), torch.stack([neurons] * 3))
    )
    x = torch.zeros(2, 4, 12)
    x[..., channels] = torch.randn(2, 4, 8)
    with torch.no_grad():
        attn, mlp = teacher.blocks[1].attn, teacher.blocks[1].mlp
        attn.proj.weight[:, 4:8] = 0  # the head that goes
        torch.testing.assert_close(small.blocks[1].attn(x[..., channels]), attn(x)[..., channels])
        mask = torch.zeros(48)
        mask[neurons] = 1
        mlp.fc2.weight.mul_(mask)
        torch.testing.assert_close(small.blocks[1].mlp(x[..., channels]), mlp(x)[..., channels])


def test_narrower_heads_keep_the_scale_of_attention() -> None:
    """Channels of q and k that are zero in the teacher can be removed without any change of the output."""
    teacher, small = vit(1, dim=12), vit(2, dim=6)  # three heads of 4, of 2
    channels, heads = torch.arange(6), torch.tensor([0, 1, 4, 5, 8, 9])
    gone = [2, 3, 6, 7, 10, 11]
    with torch.no_grad():
        for part in (0, 12, 24):
            teacher.blocks[0].attn.qkv.weight[[part + i for i in gone]] = 0
            teacher.blocks[0].attn.qkv.bias[[part + i for i in gone]] = 0
    kept = Kept([0, 1, 2], channels, torch.stack([heads] * 3), torch.stack([torch.arange(24)] * 3))
    slice_teacher(teacher, small, kept)
    x = torch.zeros(2, 4, 12)
    x[..., :6] = torch.randn(2, 4, 6)
    with torch.no_grad():
        want = teacher.blocks[0].attn(x)[..., :6]
        torch.testing.assert_close(small.blocks[0].attn(x[..., :6]), want)
