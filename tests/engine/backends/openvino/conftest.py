"""A small network of the published kind, exported and compiled once for all tests."""

from __future__ import annotations

import pytest
from onnx import ModelProto
from torch import nn

from derain_engine.engine.backends.base import Artefact, CompileOptions
from derain_engine.engine.backends.openvino.backend import backend
from derain_engine.export import onnx as exporter
from derain_engine.models.registry import spec_of
from derain_engine.models.ssid_kd import SSIDKDConfig

from ....helpers import strong

#: Two units at full scale, so that there are weights to share.
SPEC = spec_of("ssid-kd", SSIDKDConfig((4, 4, 4), (2, 1, 1)))


@pytest.fixture(scope="session")
def network() -> nn.Module:
    return strong(SPEC, seed=0)


@pytest.fixture(scope="session")
def exported(network: nn.Module) -> ModelProto:
    return exporter.export_onnx(network, SPEC)


@pytest.fixture(scope="session")
def artefact(network: nn.Module, exported: ModelProto) -> Artefact:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "export_onnx", lambda *_, **__: exported)
        return backend.compile(network, SPEC, CompileOptions("fp32"))
