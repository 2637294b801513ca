"""Benchmarks of Vision Transformers at the edge: accuracy, latency, energy and memory on equal terms."""

from harness.quiet import be_quiet

__version__ = "0.1.0"

be_quiet()
