"""The types that the layers of a TensorRT network compute in: as it was parsed, and as it was built."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..nvinfer import Flavour, logger

#: Layers whose type makes an engine's precision.
_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}
#: What the inspector calls types ("Half", "Row major linear FP16 format"), and the layers that multiply.
_WORDS = ((re.compile(r"\b(half|fp16)\b", re.I), "fp16"), (re.compile(r"\b(float|fp32)\b", re.I), "fp32"))
_MULTIPLIES = re.compile(r"conv|gemm|matrixmultiply|matmul", re.I)

#: How many layers there are of each type, and how many of those that multiply.
Types = tuple[dict[str, int], dict[str, int]]


def typed(trt: Any, network: Any) -> Types:
    """Count the layers of a strongly typed network, where the type of its result is what a layer computes in."""
    kinds = [getattr(trt.LayerType, name) for name in _PRODUCTS]
    found = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        name = str(layer.get_output(0).dtype.name)
        found.append((_NAMES.get(name, name.lower()), layer.type in kinds))
    return _counted(found)


def inspected(trt: Any, flavour: Flavour, plan: bytes) -> Types | None:
    """Count the layers of a plan on this machine's GPU, from the engine's inspector.

    Returns:
        None where that does not tell: a plan for other GPUs, or layers whose formats depend on the size of a frame.
    """
    runtime = trt.Runtime(logger(flavour))
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    try:
        report = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    except ValueError:
        return None
    found = [
        (kind, bool(_MULTIPLIES.search(f"{layer.get('LayerType', '')} {layer.get('Name', '')}")))
        for layer in report.get("Layers", ())
        if isinstance(layer, Mapping) and (kind := _kind(layer)) is not None
    ]
    layers, products = _counted(found)
    return (layers, products) if products else None


def _counted(found: Sequence[tuple[str, bool]]) -> Types:
    """Count types, and the types of what multiplies."""
    return dict(Counter(kind for kind, _ in found)), dict(
        Counter(kind for kind, multiplies in found if multiplies)
    )


def _kind(layer: Mapping[str, Any]) -> str | None:
    # The first thing that it reads: of a layer that ends in a sum in fp32, what it multiplies.
    for value in layer.get("Inputs", ()):
        text = str(value.get("Format/Datatype", "")) if isinstance(value, Mapping) else ""
        for pattern, kind in _WORDS:
            if pattern.search(text):
                return kind
    return None
