"""The PyTorch runtimes, eager and compiled. An artifact is a state dict, and the spec that rebuilds its module."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model

from harness.devices import on_gpu
from harness.errors import DeviceError, first_line
from harness.types import Artifact, ModuleSpec
from harness_runtimes.rebuild import file_name, rebuild

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from harness.types import Part, SessionOptions

__all__ = ["TorchSession", "export", "gpu_memory", "warm"]


def export(part: Part, folder: Path, *, runtime: str, precision: str, mode: str | None = None) -> Artifact:
    """Write the part's weights, cast to ``precision``, into ``folder``. The same part gives the same bytes.

    Raises:
        ValueError: the spec does not rebuild the part's module.
    """
    module = rebuild(part).to(getattr(torch, precision))
    file = file_name(part, ".safetensors")
    save_model(module, str(folder / file))
    return Artifact(
        path=folder,
        runtime=runtime,
        precision=precision,
        weight_bytes=sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers())),
        inputs=tuple(edge.tensor for edge in part.inputs),
        output=part.output,
        meta={
            "file": file,
            "factory": part.spec.factory,
            "params": dict(part.spec.params),
            "precision": precision,
            "mode": mode,
            "batch_dependent": False,
        },
    )


def warm(threads: int) -> None:
    """Run a block of attention and MLP on the CPU, so that torch allocates what it allocates at first use."""
    torch.set_num_threads(threads)
    block = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    with torch.inference_mode():
        block(torch.zeros(1, 16, 64))


class TorchSession:
    """A module rebuilt from its artifact (:class:`harness.types.Session`).

    The thread count is set for the whole process. So is TF32, which is off. Casting inputs to the precision and
    outputs to float32 is part of a run. A compiled module has one graph for each batch size, made at its first run.
    Nothing falls back to eager execution.

    Raises:
        DeviceError: the device, or the compiler that the runtime needs, is absent.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        self._device = _device(options.device)
        self._dtype = getattr(torch, artifact.meta["precision"])
        torch.set_num_threads(options.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        spec = ModuleSpec(factory=artifact.meta["factory"], params=artifact.meta["params"])
        module = spec.build().to(self._dtype).eval().requires_grad_(False)
        load_model(module, artifact.path / artifact.meta["file"])
        self._module: Any = module.to(self._device)
        mode = artifact.meta["mode"]
        if mode is not None:
            _check_compiler(self._device)
            # The limit counts graphs per function: all parts of one class and all batch sizes. The default is 8.
            torch._dynamo.config.recompile_limit = 256
            self._module = torch.compile(self._module, mode=mode, fullgraph=True, dynamic=False)
        self.facts: Mapping[str, Any] = {
            "runtime": artifact.runtime,
            "version": torch.__version__,
            "precision": artifact.meta["precision"],
            "provider": str(self._device),
            "device": options.device,
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "compile_mode": mode,
        }

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the output [n, ...] as float32. Raises ``DeviceError`` if the device lacks an operation or memory."""
        try:
            with torch.inference_mode():
                output = self._module(*(self._tensor(array) for array in inputs)).float().cpu()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        except RuntimeError as error:  # an operation that this device lacks in this precision, or no memory
            what = f"{self.facts['runtime']}, {self.facts['precision']} on {self._device}"
            raise DeviceError(f"{what}: {first_line(error)}") from error
        return output.numpy()  # type: ignore[no-any-return]

    def device_memory(self) -> dict[str, int]:
        """Return this process's bytes on the GPU (:func:`gpu_memory`), or nothing on a CPU."""
        return gpu_memory(self._device) if self._device.type == "cuda" else {}

    def close(self) -> None:
        """Free the weights."""
        self._module = None

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)


def gpu_memory(device: torch.device) -> dict[str, int]:
    """Return this process's bytes on a GPU.

    torch gives the peaks of live tensors and of the allocator's blocks, and the driver gives
    :func:`harness.devices.on_gpu`.
    """
    return {
        "allocated_peak": torch.cuda.max_memory_allocated(device),
        "reserved_peak": torch.cuda.max_memory_reserved(device),
        **on_gpu(integrated=bool(torch.cuda.get_device_properties(device).is_integrated)),
    }


def _device(name: str) -> torch.device:
    """Return torch's device. Raises ``DeviceError`` if torch does not know it."""
    kind, _, index = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or not index.isdecimal():
        raise DeviceError(f"torch: unknown device {name!r}; allowed: cpu, cuda:N")
    if int(index) >= torch.cuda.device_count():
        raise DeviceError(f"{name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def _check_compiler(device: torch.device) -> None:
    """Check that Inductor's compiler exists. Inductor would look for it in the first run, inside the measurement.

    Raises:
        DeviceError: it does not exist.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise DeviceError("torch-compile on CUDA needs Triton: pip install triton")
        return
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted.split()[0]) is None:
        raise DeviceError(
            f"torch-compile needs a C++ compiler and finds no {wanted}: install one, or set CXX"
        )
