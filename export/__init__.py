"""A network in other people's formats. Everything here but :mod:`.nvinfer` may import torch and onnx; nothing that only
runs engine files imports the rest."""
