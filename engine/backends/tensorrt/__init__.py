"""The network through TensorRT or TensorRT-RTX."""
