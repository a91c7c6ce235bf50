"""The registry of backends, and what all sessions say about arrays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from derain_engine.base.errors import InputError
from derain_engine.engine import backends
from derain_engine.engine.backends.batches import output_for


def test_every_name_gives_a_backend_of_that_name() -> None:
    assert backends.default_name() in backends.names()
    for name in backends.names():
        backend = backends.get(name)
        assert backend.name == name
        assert "fp32" in backend.precisions


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InputError,
        match=r"no backend 'openvinoo'; known backends: openvino, fused, tensorrt, tensorrt-rtx, reference",
    ):
        backends.get("openvinoo")


def test_asking_for_backends_loads_no_library() -> None:
    code = (
        "import sys; from derain_engine.engine import backends\n"
        "[backends.get(name) for name in backends.names()]\n"
        "assert not set('torch onnx openvino safetensors triton cuda tensorrt tensorrt_rtx'.split()) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


BATCH = np.zeros((2, 4, 5, 3), np.uint8)


def test_output_for() -> None:
    fresh = output_for(BATCH, None)
    assert fresh.shape == BATCH.shape and fresh.dtype == BATCH.dtype and not np.may_share_memory(fresh, BATCH)
    assert output_for(BATCH, fresh) is fresh


def read_only() -> np.ndarray:
    array = np.zeros_like(BATCH)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("batch", "out", "message"),
    [
        (BATCH.astype(np.float64), None, "uint8 or float32, not float64"),
        (BATCH[0], None, "N x H x W x 3, not 4 x 5 x 3"),
        (BATCH[..., :2].copy(), None, "not 2 x 4 x 5 x 2"),
        (BATCH[:0], None, "not 0 x 4 x 5 x 3"),
        (BATCH[:, ::2], None, "C-contiguous"),
        (BATCH, BATCH[:1].copy(), "1 x 4 x 5 x 3 uint8; it must be 2 x 4 x 5 x 3 uint8"),
        (BATCH, BATCH.astype(np.float32), "float32; it must be"),
        (BATCH, read_only(), "writable"),
        (BATCH, BATCH, "share memory"),
    ],
)
def test_output_for_refuses(batch: np.ndarray, out: np.ndarray | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        output_for(batch, out)
