"""The runtimes ONNX Runtime and PyTorch."""
