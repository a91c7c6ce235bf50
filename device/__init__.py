"""CUDA without PyTorch: what a deployed engine needs of the driver, through cuda-python alone."""
