"""The CPU and the CUDA GPUs of this machine."""
