"""The box maximum over (3, P, P) in PyTorch's ops: plain, and separable for CPUs.

A box maximum is the maximum over the channels, then over a row of P, then over a column of P, and a maximum over
P neighbours takes floor(log2 P) doublings and at most one step more. To agree with ``MaxPool3d`` about ties, what
is compared is not the value but a 64-bit key, unique to its pixel,

    key = order * 2^31 + (2^31 - 1 - index)

where ``order`` rises with the value and ``index`` is the pixel's linear index, (channel * H + row) * W + column:
of equal values the lowest index has the largest key. NaN is above everything, and of several NaN PyTorch takes
the highest index, so that their order is 2^31 + index. One maximum a step carries value and index together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...base.errors import InputError

INDEX_BITS = 31
#: Below the key of every value: minus infinity has the order 2^23 - 1 - 2^31.
NO_KEY = -(1 << 62)
_INDEX_MASK = (1 << INDEX_BITS) - 1


def output_size(x: Tensor, window: int, padding: int) -> tuple[int, int]:
    """Return height and width of the box maximum of ``x``.

    Args:
        x: N x 3 x H x W.
        window: P, in pixels.
        padding: on all four sides, in pixels.

    Raises:
        InputError: what ``MaxPool3d`` refuses, other than three channels or floats, or 2^31 values or more.
    """
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
        raise InputError(f"A dark channel needs N x 3 x H x W pictures; these are {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise InputError(f"A dark channel needs floating-point pictures; these are {x.dtype}.")
    if x.numel() > _INDEX_MASK:
        raise InputError(f"{x.numel()} values are too many for one dark channel; split the batch.")
    if window < 1 or not 0 <= padding <= window // 2:
        raise InputError(
            f"A window of {window} px with a padding of {padding} px: the window must be at least 1 px, "
            "the padding at most half of it."
        )
    height, width = (side + 2 * padding - window + 1 for side in x.shape[2:])
    if height < 1 or width < 1:
        raise InputError(
            f"A window of {window} px does not fit into {x.shape[2]}x{x.shape[3]} px padded by {padding} px."
        )
    return height, width


def box_maximum_reference(x: Tensor, window: int, padding: int) -> Tensor:
    """Return the maxima by the plain version, 3 P^2 reads a pixel: N x 3 x H x W -> N x 1 x H' x W'."""
    return F.max_pool3d(x[:, None], (3, window, window), 1, (0, padding, padding))[:, 0]


def box_maximum(x: Tensor, window: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return the maxima by the separable version, and where they came from.

    Args:
        x: N x 3 x H x W, any floating dtype and strides.

    Returns:
        The maxima, N x 1 x H' x W' in x's dtype, and the linear indices (int64, into one picture's 3 x H x W) of the
        pixels they came from.

    Raises:
        InputError: as ``output_size``.
    """
    output_size(x, window, padding)
    keys = _running_maximum(_channel_keys(x), -1, window, padding)
    keys = _running_maximum(keys, -2, window, padding)
    index = (~keys).bitwise_and_(_INDEX_MASK)
    maxima = x.reshape(len(x), x.shape[1:].numel()).gather(1, index.flatten(1))
    return maxima.view(index.shape)[:, None], index[:, None]


def box_maximum_backward(grad: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """Return the gradients of the maxima, added up where the maxima came from.

    Args:
        grad: N x 1 x H' x W'.
        index: of ``box_maximum``.

    Returns:
        N x 3 x ``height`` x ``width`` in grad's dtype; half precision is added up in float32.
    """
    sums = grad.flatten(1)
    if sums.dtype.itemsize < 4:
        sums = sums.float()
    out = sums.new_zeros(len(grad), 3 * height * width).scatter_add_(1, index.flatten(1), sums)
    return out.view(len(grad), 3, height, width).to(grad.dtype)


def _channel_keys(x: Tensor) -> Tensor:
    """Return the largest key of the three at each pixel: N x H x W, int64."""
    index = torch.arange(x.shape[1:].numel(), device=x.device).view(x.shape[1:])
    if x.dtype == torch.float64:
        # Too wide for the upper half of a key; the rank among the values present is not.
        order = torch.unique(x, return_inverse=True)[1]
    else:
        # Adding zero makes -0 the +0 that it equals.
        bits = x.float().add(0.0).view(torch.int32)
        order = ((bits >> 31).bitwise_and_(0x7FFFFFFF)).bitwise_xor_(bits).long()
    order = torch.where(x.isnan(), index + (1 << INDEX_BITS), order)
    return (order << INDEX_BITS).sub_(index - _INDEX_MASK).amax(1)


def _running_maximum(keys: Tensor, dim: int, window: int, padding: int) -> Tensor:
    """Return the maximum over ``window`` neighbours along ``dim``, -1 or -2."""
    if padding:
        keys = F.pad(keys, (padding, padding) if dim == -1 else (0, 0, padding, padding), value=NO_KEY)
    reach = 1
    while reach < window:
        step = min(reach, window - reach)
        count = keys.shape[dim] - step
        keys = torch.maximum(keys.narrow(dim, 0, count), keys.narrow(dim, step, count))
        reach += step
    return keys
