"""PyTorch reference networks, one file each, and the registry that recognises a state dict.

Importing this package imports nothing heavy; ``spec`` is free of torch, ``registry`` and the networks are not.
"""
