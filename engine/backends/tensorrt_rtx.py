"""TensorRT-RTX: engines for GeForce RTX and the like, built without a GPU, finished when they are opened."""

from __future__ import annotations

from ..nvinfer import FLAVOURS
from .tensorrt import TensorRTBackend

backend = TensorRTBackend(FLAVOURS["tensorrt-rtx"])
