"""Count the parameters, MACs and bytes of a module, and the MACs that it does for one sample.

docs/measuring.md explains the conventions, and why there are two counts of MACs.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import CellError
from harness.train.counting.modes import evaluating, frozen
from harness.types import Counts, TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["count"]

_PRODUCT = re.compile(
    r"(?:^|_)(?:\w*mm|mv|addmv|v?dot|matmul|linear|trilinear|conv\w*|attention|lstm|gru|rnn|encoder_layer)(?:_|$)"
)
"""Parts of the names of operators that multiply and accumulate. ``upsample_bilinear2d`` and similar ones do not."""


def count(module: torch.nn.Module, inputs: Sequence[TensorSpec]) -> Counts:
    """Count one eager forward pass ``module(*inputs)`` at batch 1, in evaluation mode, on zeros.

    - ``params``: elements of all parameters, frozen ones included. Shared parameters count once.
    - ``macs``: half of what ``torch.utils.flop_counter.FlopCounterMode`` reports. It counts products of matrices and
      convolutions, with the two products of attention, fused or not. It counts no bias additions, norms, softmax or
      pooling.
    - ``macs_linear``: the MACs of every linear and convolution layer, plus one per bias addition. It does not count
      products of two activations. This is the count of the EdgeViT and ED-ViT papers: ViT-B/16 at 224 px has 16.864
      G.
    - ``weight_bytes``: parameters and buffers in their element types. Shared ones count once.
    - ``activation_bytes``: largest sum of tensor storage that the forward pass had allocated and not yet freed. It
      contains neither the weights and inputs nor the scratch memory inside the kernel of one operator.

    The module runs on its own device and is unchanged afterwards. On ``meta`` nothing is computed. Attention is never
    fused there, which changes only ``activation_bytes``.

    Raises:
        CellError: an operator that multiplies matrices has no known count. Its count is never taken as zero.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next((tensor.device for tensor in _weights(module)), torch.device("cpu"))
    tensors = [
        torch.zeros(1, *spec.shape, dtype=getattr(torch, spec.dtype), device=device) for spec in inputs
    ]
    flops = FlopCounterMode(display=False, custom_mapping=_more_formulas())
    watch = _watcher(flops, [*_weights(module), *tensors])
    # Inference mode, not no_grad: the watch then sees a linear layer before it becomes a product. Frozen: torch's counter
    # hooks the gradient of each argument of a module, which a parameter that is an argument has not in this mode.
    with evaluating(module), frozen(module), _no_opaque_attention(), torch.inference_mode(), flops, watch:
        module(*tensors)

    return Counts(
        params=sum(parameter.numel() for parameter in module.parameters()),
        macs=flops.get_total_flops() // 2,
        macs_linear=watch.macs_linear,
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _weights(module)),
        activation_bytes=watch.peak,
    )


def _weights(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _watcher(flops: Any, known: Sequence[torch.Tensor]) -> Any:
    """Return a dispatch mode that sees every operator before the FLOP counter does."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    aten = torch.ops.aten
    convolutions = {aten.convolution.default, aten._convolution.default}

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.macs_linear = 0
            self.peak = 0
            self.live = 0
            self.storages: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in known}

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            with self:
                out = func.decompose(*args, **kwargs)
            if out is NotImplemented:
                packet = func._overloadpacket
                if packet not in flops.flop_registry and _PRODUCT.search(packet.__name__):
                    raise CellError(f"cannot count the MACs of {packet} (no formula)", stage="count")
                out = func(*args, **kwargs)
                for tensor in tree_iter(out):
                    if isinstance(tensor, torch.Tensor):
                        self.allocated(tensor.untyped_storage())
            if func is aten.linear.default:
                bias = args[2] if len(args) > 2 else kwargs.get("bias")
                self.layer(out, args[1].shape[1] * out.numel(), bias)
            elif func in convolutions:
                image, weight, bias, transposed = args[0], args[1], args[2], args[6]
                # Every output element (input element, where transposed) meets weight[channel] once.
                self.layer(out, weight[0].numel() * (image if transposed else out).numel(), bias)
            return out

        def layer(self, out: torch.Tensor, macs: int, bias: torch.Tensor | None) -> None:
            self.macs_linear += macs + (0 if bias is None else out.numel())

        def allocated(self, storage: torch.UntypedStorage) -> None:
            key = storage._cdata
            if key in self.storages:
                return
            size = storage.nbytes()

            def freed(_: Any) -> None:
                del self.storages[key]
                self.live -= size

            self.storages[key] = weakref.ref(storage, freed)
            self.live += size
            self.peak = max(self.peak, self.live)

    return Watch()


def _more_formulas() -> dict[Any, Any]:
    """Return formulas of FLOPs (2 per MAC) that torch's counter lacks.

    They are for products with a vector, and for attention on CPUs.
    """
    import torch

    aten = torch.ops.aten

    def matrix_vector(matrix: Any, *_: Any, **__: Any) -> int:
        return 2 * int(matrix[0]) * int(matrix[1])

    def added_matrix_vector(_: Any, matrix: Any, *__: Any, **___: Any) -> int:
        return matrix_vector(matrix)

    def vectors(left: Any, *_: Any, **__: Any) -> int:
        return 2 * int(left[0])

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        batch, heads, n, dim = (int(size) for size in query)
        return 2 * batch * heads * n * int(key[2]) * (dim + int(value[3]))

    return {
        aten.mv: matrix_vector,
        aten.addmv: added_matrix_vector,
        aten.dot: vectors,
        aten.vdot: vectors,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,  # torch itself has it only since 2.15
    }


@contextmanager
def _no_opaque_attention() -> Iterator[None]:
    """Disable the fused kernel of ``nn.MultiheadAttention`` and transformer layers, which hides its products."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
