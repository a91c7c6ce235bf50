"""The network in this project's own GPU kernels, one CUDA graph for every size of frame."""
