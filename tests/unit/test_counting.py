"""Tests of counts against literals, against fvcore, and against arithmetic by hand."""

from __future__ import annotations

import logging
import warnings

import pytest
import timm
import torch
from timm.layers import set_fused_attn, use_fused_attn
from torch import nn

from harness.errors import CellError
from harness.train.counting.count import count
from harness.types import TensorSpec

IMAGE = [TensorSpec(shape=(3, 224, 224))]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unfused():
    """timm's models without fused attention; its setting goes back to the default afterwards."""
    set_fused_attn(False)
    yield
    set_fused_attn(True)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("vit_base_patch16_224", 17.56e9, 86_567_656),
        ("vit_small_patch16_224", 4.60e9, 22_050_664),
        ("resnet50", 4.09e9, 25_557_032),
    ],
)
def test_published_figures(name, macs, params):
    counts = count(on_meta(name), IMAGE)
    assert counts.macs == pytest.approx(macs, rel=0.01)
    assert counts.params == params


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "resnet50"])
def test_fvcore_agrees(name, unfused):
    from fvcore.nn import FlopCountAnalysis

    model = on_meta(name).to_empty(device="cpu").eval()  # fvcore traces, which needs storage, not values
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(model, torch.zeros(1, 3, 224, 224))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        theirs = analysis.total()
    assert count(model, IMAGE).macs == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(
    ("name", "linear"), [("vit_base_patch16_224", 16.864e9), ("vit_small_patch16_224", 4.249e9)]
)
def test_the_papers_count(name, linear):
    assert count(on_meta(name), IMAGE).macs_linear == pytest.approx(linear, abs=1e6)


def test_fused_attention_changes_no_mac():
    counted = {}
    try:
        for fused in (True, False):
            set_fused_attn(fused)
            assert bool(use_fused_attn()) is fused
            model = timm.create_model("vit_tiny_patch16_224", depth=2)
            assert {block.attn.fused_attn for block in model.blocks} == {fused}
            counted[fused] = count(model, IMAGE)
    finally:
        set_fused_attn(True)
    assert counted[True].macs == counted[False].macs
    assert counted[True].macs_linear == counted[False].macs_linear
    assert counted[True].activation_bytes < counted[False].activation_bytes  # the 197 x 197 scores


@pytest.mark.parametrize(("name", "mib"), [("vit_tiny_patch16_224", 1.7), ("vit_base_patch16_224", 6.9)])
def test_activations_of_vits(name, mib):
    """The peak is in a block's MLP, for 2 blocks as for 12: two hidden states, each four times as wide as the block."""
    model = timm.create_model(name, depth=2)
    assert count(model, IMAGE).activation_bytes / 2**20 == pytest.approx(mib, rel=0.05)


def test_activations_by_hand():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    # The hidden state and its GELU live together. The input and the weights are not counted.
    assert count(model, [TensorSpec(shape=(4,))]).activation_bytes == 2 * 8 * 4


def test_activations_do_not_grow_with_layers_that_free():
    spec = [TensorSpec(shape=(64,))]
    few, many = (
        count(nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers))), spec).activation_bytes
        for layers in (3, 9)
    )
    assert few == many == 2 * 64 * 4


def test_layers_by_hand():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),  # 8 x 6 x 6 outputs, 2 x 3 x 3 products each, a bias each
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 2, 2, stride=2, bias=False),  # 8 x 6 x 6 inputs, 2 x 2 x 2 products each
        nn.Flatten(),
        nn.Linear(2 * 12 * 12, 5),
    )
    counts = count(model, [TensorSpec(shape=(4, 6, 6))])
    products = 8 * 36 * 18 + 8 * 36 * 8 + 288 * 5
    assert counts.macs == products
    assert counts.macs_linear == products + 8 * 36 + 5
    assert counts.params == 8 * 18 + 8 + 16 + 8 * 8 + 288 * 5 + 5
    assert counts.weight_bytes == 4 * counts.params + 4 * 16 + 8  # running mean and variance, int64 counter


def test_linear_on_a_transposed_input_keeps_its_bias():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Linear(5, 7)

        def forward(self, x):
            return self.tokens(x.transpose(1, 2))

    assert count(Mixer(), [TensorSpec(shape=(5, 3))]).macs_linear == 3 * 7 * 5 + 3 * 7


def test_multihead_attention_is_not_lost():
    attention = nn.MultiheadAttention(32, 4, batch_first=True)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    fast = torch.backends.mha.get_fastpath_enabled()
    counts = count(Block(), [TensorSpec(shape=(10, 32))])
    assert counts.macs == 10 * 32 * (3 * 32 + 32) + 2 * 10 * 10 * 32
    assert counts.macs_linear == 10 * 32 * (3 * 32 + 32) + 10 * (3 * 32 + 32)
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_products_with_vectors():
    class Vectors(nn.Module):
        def forward(self, matrix, vector):
            product = torch.mv(matrix[0], vector[0])
            return torch.addmv(product, matrix[0], vector[0]).dot(product)

    counts = count(Vectors(), [TensorSpec(shape=(4, 6)), TensorSpec(shape=(6,))])
    assert counts.macs == 4 * 6 + 4 * 6 + 4


def test_uncountable_operator_is_refused():
    class Recurrent(nn.Module):
        def forward(self, x):
            return torch.ops.aten._trilinear(x, x, x, [], [], [], [0])

    with pytest.raises(CellError, match=r"cannot count the MACs of aten\._trilinear") as caught:
        count(Recurrent(), [TensorSpec(shape=(3,))])
    assert caught.value.stage == "count"


def test_resizing_is_no_product():
    model = nn.Upsample(scale_factor=2, mode="bilinear")
    assert count(model, [TensorSpec(shape=(3, 4, 4))]).macs == 0


def test_the_module_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = count(model, [TensorSpec(shape=(1, 5, 5))])
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert count(model, [TensorSpec(shape=(1, 5, 5))]) == first
    model(torch.randn(2, 1, 5, 5)).sum().backward()  # no inference tensor was left behind


def test_a_parameter_as_an_argument_is_counted_and_still_trains():
    class Inner(nn.Module):
        def forward(self, x, token):
            return x @ token

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.token = Inner(), nn.Parameter(torch.ones(4, 5))
            self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)

        def forward(self, x):
            return self.inner(x, self.token)

    model = Outer()
    assert count(model, [TensorSpec(shape=(4,))]).macs == 4 * 5
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False]


def test_a_transformer_that_pools_its_class_token_is_counted():
    """timm's pit: torch's counter failed on the parameter that it gives to a submodule."""
    with torch.device("meta"):
        model = timm.create_model("pit_ti_224")
    counts = count(model, IMAGE)
    assert (round(counts.params / 1e6, 2), round(counts.macs / 1e9, 1)) == (4.85, 0.7)  # Heo et al. 2021
