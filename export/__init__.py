"""A network in other people's formats. Everything here may import torch and onnx; nothing that only runs
engine files imports it."""
