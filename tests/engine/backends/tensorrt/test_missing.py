"""TensorRT's backends where the library is not installed, or not whole."""

from __future__ import annotations

import pytest
from torch import nn

from derain_engine.base.errors import BackendUnavailable
from derain_engine.base.sizes import FrameSizes
from derain_engine.engine import backends
from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.export import nvinfer
from derain_engine.export.nvinfer import FLAVOURS
from derain_engine.models.spec import ModelSpec

from ....device.conftest import StandIn


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_the_library_it_is_said_how_to_get_it(
    cuda: StandIn, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvinfer.importlib.util, "find_spec", lambda module: None)
    backend = backends.get(name)
    wanted = rf"is not installed; install it with: pip install 'derain-engine\[{name}\]'"
    with pytest.raises(BackendUnavailable, match=wanted):
        backend.open(Artefact(name, "1.0", "fp16", {}), RunOptions())
    with pytest.raises(BackendUnavailable, match=wanted):
        backend.compile(nn.Identity(), ModelSpec("tiny"), CompileOptions(sizes=FrameSizes.only((8, 8))))


def test_bindings_without_their_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(nvinfer.importlib.util, "find_spec", lambda module: module)
    monkeypatch.setattr(nvinfer.importlib, "import_module", load)
    with pytest.raises(
        BackendUnavailable, match=r"does not load \(libnvinfer.so.11: cannot open.*pip install"
    ):
        FLAVOURS["tensorrt"].bindings()
