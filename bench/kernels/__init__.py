"""Kernels beside what PyTorch does for the same."""
