"""The box maximum behind the dark channel, eq. 9 and 10 of the SSID-KD paper, with its gradient.

The dark channel of a picture I is D(i, j) = min over c and a P x P patch of I(c, y, x). The paper takes it as one
minus a maximum,

    D = 1 - M,    M(i, j) = max over c, y in [i - p, i - p + P), x in [j - p, j - p + P) of (1 - I)(c, y, x)

and this is M: what ``nn.MaxPool3d((3, P, P), stride=1, padding=(0, p, p))`` gives for N x 1 x 3 x H x W, with the same
gradient among equal values. That module reads 3 P^2 values a pixel; the maximum is separable and takes O(log P)
steps here. ``by_torch`` holds it in PyTorch's operators, ``by_triton`` for GPUs.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import by_torch


def dark_channel_maximum(x: Tensor, window: int, padding: int) -> Tensor:
    """Return the maximum over the three channels and P x P pixels around each pixel, differentiable once.

    On CUDA it runs in Triton's kernels (float64, or without Triton: in PyTorch's operators), elsewhere in PyTorch's
    operators.

    Args:
        x: N x 3 x H x W, any floating dtype, strides and range.
        window: P, in pixels.
        padding: p, of minus infinity, on all four sides, in pixels; 0 to P // 2.

    Returns:
        N x 1 x (H + 2p - P + 1) x (W + 2p - P + 1) in x's dtype. Of equal maxima the one with the lowest (channel, row,
        column) gets the gradient, of several NaN the one with the highest.

    Raises:
        InputError: other than three channels or floats, 2^31 values or more, or a window that does not fit.
    """
    return _BoxMaximum.apply(x, window, padding)


def _runs_in_triton(x: Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and importlib.util.find_spec("triton") is not None


class _BoxMaximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: int, padding: int) -> Tensor:
        ctx.box = (*x.shape[-2:], window, padding)
        ctx.triton = _runs_in_triton(x)
        if ctx.triton:
            from . import by_triton

            maxima, index = by_triton.box_maximum(x, window, padding)
        else:
            maxima, index = by_torch.box_maximum(x, window, padding)
        ctx.save_for_backward(index)
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        if ctx.triton:
            from . import by_triton

            return by_triton.box_maximum_backward(grad, index, *ctx.box), None, None
        height, width = ctx.box[:2]
        return by_torch.box_maximum_backward(grad, index, height, width), None, None
