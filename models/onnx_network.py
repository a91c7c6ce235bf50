"""A stranger's ONNX model in the place of a PyTorch network: its reference is ONNX Runtime in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import torch
from torch import Tensor, nn


def open_model(model: onnx.ModelProto, entries: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """Open a model in ONNX Runtime on the CPU, and return the session. Nothing but what ends the process is logged.

    Args:
        entries: of the session's configuration. settings: attributes of its SessionOptions.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in {"log_severity_level": 4, **settings}.items():
        setattr(options, name, value)
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


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
        self.model = model
        try:
            # Its idle threads spin.
            self._session = open_model(model, intra_op_num_threads=max(1, torch.get_num_threads()))
        except ImportError:
            raise
        except Exception as error:  # of its own many kinds
            raise RuntimeError(str(error)) from error

    def forward(self, rainy: Tensor) -> Tensor:
        try:
            (clean,) = self._session.run(["clean"], {"rainy": rainy.detach().cpu().contiguous().numpy()})
        except Exception as error:
            raise RuntimeError(str(error)) from error
        return torch.from_numpy(clean)
