"""A stranger's ONNX model in the place of a PyTorch network: its reference is ONNX Runtime in fp32."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """Image N x 3 x H x W, RGB in [0, 1], to the same, on the CPU.

    Args:
        model: from an input ``rainy`` to an output ``clean`` of that form.

    Raises:
        ImportError: ONNX Runtime is not installed.
        RuntimeError: ONNX Runtime does not take the model. ``forward`` raises it for a size that the model does not.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        import onnxruntime

        self.model = model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Its idle threads spin.
        options.intra_op_num_threads = max(1, torch.get_num_threads())
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of its own many kinds
            raise RuntimeError(str(error)) from error

    def forward(self, rainy: Tensor) -> Tensor:
        try:
            (clean,) = self._session.run(["clean"], {"rainy": rainy.detach().cpu().contiguous().numpy()})
        except Exception as error:
            raise RuntimeError(str(error)) from error
        return torch.from_numpy(clean)
