"""A TensorRT engine on a CPU, for its comparison with the reference where its GPU is not at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ....base.errors import BundleError, InputError
from ...frames import quantise, to_float
from ..batches import output_for

if TYPE_CHECKING:
    from onnx import ModelProto


class TensorRTEmulation:
    """A session that runs the graph which the plan was built from, in ONNX Runtime, rounding to fp16 where that says.

    What it shows is that the graph and its precision are right; TensorRT's kernels do not run.

    Raises:
        BundleError: the payload is no such graph.
    """

    parallelism = 1
    available_memory = None

    def __init__(self, graph: bytes | memoryview, precision: str) -> None:
        import onnx
        from google.protobuf.message import DecodeError

        from ....export.emulation import CpuGraph, fp32_emulation

        try:
            model: ModelProto = onnx.load_model_from_string(bytes(graph))
            rounded = fp32_emulation(model)
        except (DecodeError, onnx.shape_inference.InferenceError) as error:
            raise BundleError(f"The engine's graph cannot be read ({error}); build it again.") from error
        self.precision = precision
        self._graph: Any = CpuGraph(rounded)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run a batch, as :meth:`Session.run` says."""
        if self._graph is None:
            raise InputError("This session is closed; open the engine again.")
        out = output_for(batch, out)
        for picture, place in zip(batch, out, strict=True):
            planes = np.ascontiguousarray(to_float(picture).transpose(2, 0, 1)[None])
            clean = self._clean(planes)[0].transpose(1, 2, 0)
            # NaN has no uint8 value; it becomes 0 without a word, as in every backend.
            place[...] = quantise(np.nan_to_num(clean), np.uint8) if batch.dtype == np.uint8 else clean
        return out

    def close(self) -> None:
        self._graph = self._last = None

    def _clean(self, planes: np.ndarray) -> np.ndarray:
        # A comparison asks for every frame twice, as floats and as bytes, and it takes seconds.
        if self._last is None or not np.array_equal(self._last[0], planes):
            self._last = planes, self._graph.run(planes)[0]
        return self._last[1]
