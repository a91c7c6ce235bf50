"""From an ONNX graph to a plan of TensorRT or TensorRT-RTX."""
