"""Fused GPU kernels in Triton, one file a fused path, and what compiles them ahead of time."""
