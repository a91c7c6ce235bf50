"""Plans of TensorRT or TensorRT-RTX, built from ONNX graphs."""
