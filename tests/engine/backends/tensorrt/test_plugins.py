"""The option ``--plugins``: what TensorRT is given to build, with stand-ins for it and for the driver."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from derain_engine.base.errors import InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.engine.backends.base import CompileOptions
from derain_engine.engine.backends.tensorrt.backend import TensorRTBackend
from derain_engine.engine.options import BuildOptions
from derain_engine.export import onnx as exporter
from derain_engine.export.half import to_half
from derain_engine.export.nvinfer import Flavour
from derain_engine.export.tensorrt import blocks
from derain_engine.export.tensorrt import build as tensorrt
from derain_engine.export.tensorrt.plugin import NAMESPACE

from ....device.conftest import StandIn
from ....export.tensorrt.test_plugin import compile_nothing, network, trt

__all__ = ["trt"]

SIZES = FrameSizes((32, 32), ((64, 64),), (96, 96))


@pytest.fixture
def asked(cuda: StandIn, trt: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the graphs that plans were built of."""
    found: list[Any] = []

    def build_plan(model: onnx.ModelProto, *rest: Any) -> tensorrt.BuiltPlan:
        for node in model.graph.node:
            # TensorRT's parser looks for them.
            assert node.domain != NAMESPACE or node.op_type in trt.plugin.known
        found.append(model)
        return tensorrt.BuiltPlan(b"plan", {}, {"fp16": 1}, 1.0)

    monkeypatch.setattr(tensorrt, "build_plan", build_plan)
    monkeypatch.setattr(exporter, "export_onnx", lambda *_, **__: network())
    monkeypatch.setattr(blocks, "compile_calls", compile_nothing)
    monkeypatch.setattr(Flavour, "bindings", lambda self: trt)
    monkeypatch.setattr(TensorRTBackend, "_timing_cache", lambda *_: None)
    return found


def build(**options: Any) -> Any:
    backend = TensorRTBackend(Flavour("tensorrt", "tensorrt", "TensorRT", ("tensorrt",)))
    return backend.compile(None, None, CompileOptions(sizes=SIZES, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("plugins", [False, True])
def test_plans_are_built_with_plugins_where_that_is_asked_for(asked: list[Any], plugins: bool) -> None:
    artefact = build(plugins=plugins)
    (graph,) = asked
    ours = [node.op_type for node in graph.graph.node if node.domain == NAMESPACE]
    assert len(ours) == (4 if plugins else 0)
    assert artefact.notes.get("plugins", []) == ours[:2]
    assert artefact.payloads["tensorrt/model.onnx"] == to_half(network()).model.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp32"}, "Plugins compute in fp16, not in fp32"),
        ({"hardware_compatibility": "ampere_plus"}, "compiled for this GPU alone"),
        ({"version_compatible": True}, "compiled for this GPU alone"),
    ],
)
def test_engines_that_plugins_cannot_be_part_of_are_refused(
    asked: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(plugins=True, **options)
    assert not asked


def test_gpus_and_backends_without_plugins_are_refused(asked: list[Any], cuda: StandIn) -> None:
    cuda.capability = (7, 5)
    with pytest.raises(InputError, match=r"plugins for sm_80.*not for sm_75; leave --plugins out"):
        build(plugins=True)
    with pytest.raises(InputError, match="tensorrt-rtx backend does not take --plugins"):
        BuildOptions(backend="tensorrt-rtx", plugins=True)
