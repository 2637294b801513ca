"""Benchmarks of Vision Transformers at the edge: accuracy, latency, energy and memory on equal terms."""

__version__ = "0.1.0"
