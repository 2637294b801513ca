"""The session of ONNX Runtime, for a worker. This module never imports torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from harness.devices import on_gpu
from harness.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from harness.types import Artifact, SessionOptions

__all__ = ["OnnxSession"]


class OnnxSession:
    """An ONNX file loaded into ONNX Runtime (:class:`harness.types.Session`).

    Raises:
        DeviceError: the device is unknown, or this ONNX Runtime cannot use it.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        providers = _providers(options.device)
        config = ort.SessionOptions()
        config.intra_op_num_threads = options.threads
        config.inter_op_num_threads = 1
        config.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        config.log_severity_level = 3  # errors only, because warnings disturb the progress display
        spinning = bool(artifact.meta["spinning"])
        config.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        session = ort.InferenceSession(
            str(artifact.path / artifact.meta["file"]), config, providers=providers
        )
        used, provider = session.get_providers()[0], providers[0][0]
        if used != provider:  # onnxruntime falls back to the CPU and only warns
            raise DeviceError(
                f"{options.device}: onnxruntime {ort.__version__} could not start {provider}, only {used}"
            )
        self._session: Any = session
        self._inputs = tuple(item.name for item in session.get_inputs())
        self._output = [session.get_outputs()[0].name]
        self.facts: Mapping[str, Any] = {
            "runtime": artifact.runtime,
            "version": ort.__version__,
            "precision": artifact.meta["precision"],
            "quantised": artifact.meta["quantised"],
            "provider": used,
            "device": options.device,
            "threads": options.threads,
            "spinning": spinning,
            "opset": artifact.meta["opset"],
        }

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the output [n, ...] for ``inputs`` in the order of the part's edges."""
        feed = dict(zip(self._inputs, inputs, strict=True))
        return self._session.run(self._output, feed)[0]  # type: ignore[no-any-return]

    def device_memory(self) -> dict[str, int]:
        """Return the driver's figure (:func:`harness.devices.on_gpu`), or nothing on a CPU.

        ONNX Runtime has no figure of its own.
        """
        return {} if self.facts["provider"] == "CPUExecutionProvider" else on_gpu()

    def close(self) -> None:
        """Free the weights."""
        self._session = None


def _providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's execution providers. CUDA runs what TensorRT lacks. TensorRT was not tried.

    Raises:
        DeviceError: the device is unknown, or this ONNX Runtime cannot use it.
    """
    kind, _, index = device.partition(":")
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    wanted = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}.get(kind)
    if wanted is None or not index.isdecimal():
        raise DeviceError(f"onnxruntime: unknown device {device!r}; allowed: cpu, cuda:N, tensorrt:N")
    if wanted not in ort.get_available_providers():
        name = {"cuda": "CUDA", "tensorrt": "TensorRT"}[kind]
        raise DeviceError(
            f"{device}: this onnxruntime {ort.__version__} has no {name}: install onnxruntime-gpu"
        )
    cuda = ("CUDAExecutionProvider", {"device_id": index, "use_tf32": "0"})  # full float32 precision
    if kind == "cuda":
        return [cuda]
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return [(wanted, {"device_id": index}), cuda]
