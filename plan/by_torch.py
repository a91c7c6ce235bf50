"""A plan run step by step with PyTorch's operators, from the packed weights and through the plan's own memory.

It needs no GPU and no Triton, and proves the lowering: buffers, views, packing and the memory's arrangement. Every step
computes what its kernel computes: sums in fp32, and maps rounded to the plan's dtype wherever the kernel rounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.launch import Call
from .memory import Memory
from .program import Plan


def run_by_torch(plan: Plan, image: Tensor) -> Memory:
    """Every step in order. image: H x W x 3 in [0, 1]; sides are multiples of the plan's granularity. The rain layer is
    ``memory.map(plan.rain)[0]``.

    Raises:
        InputError: other sides.
    """
    memory = Memory(plan, image.shape[0], image.shape[1], str(image.device))
    memory.fill(image)
    for step in plan.steps:
        run_call(step.call, [memory.flat(p) for p in step.pointers], memory.sizes(step))
    return memory


def run_call(call: Call, pointers: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """One launch: read and write what its kernel does. pointers: as ``Memory.flat`` gives them; in another precision,
    that of the maps is computed in."""
    _STEPS[call.kernel](call, list(pointers), list(sizes))


def _nchw(flat: Tensor, height: int, width: int, channels: int) -> Tensor:
    return flat[: height * width * channels].view(1, height, width, channels).permute(0, 3, 1, 2).float()


def _put(to: Tensor, image: Tensor, pixel: int) -> None:
    """Write 1 x C x H x W to pixels of ``pixel`` elements."""
    _, channels, height, width = image.shape
    to.as_strided((height, width, channels), (width * pixel, pixel, 1)).copy_(image[0].permute(1, 2, 0))


def _conv(image: Tensor, rows: Tensor, bias: Tensor | None, columns: int, side: int = 1) -> Tensor:
    """A packed convolution of side x side taps: its first columns, without the padding of k."""
    channels = image.shape[1]
    weight = rows[: side * side * channels, :columns].reshape(side, side, channels, columns)
    bias = None if bias is None else bias[:columns]
    return F.conv2d(image, weight.permute(3, 2, 0, 1).float().contiguous(), bias, padding=side // 2)


def _branches(image: Tensor, inner: Tensor, outer: Tensor, bias: Tensor, slope: float) -> Tensor:
    """[act(conv3x3), act(conv5x5)] of an MFFB's stage."""
    channels, columns = image.shape[1], bias.shape[0] // 2
    inner = inner.float().view(-1, 2 * columns)[: 9 * channels].view(3, 3, channels, 2, columns)
    outer = outer.float().view(-1, columns)[: 16 * channels].view(16, channels, columns)
    large = outer.new_zeros(5, 5, channels, columns)
    large[1:4, 1:4] = inner[:, :, :, 1]
    large[0], large[4] = outer[:5], outer[5:10]
    large[1:4, 0], large[1:4, 4] = outer[10::2], outer[11::2]
    small = F.conv2d(image, inner[:, :, :, 0].permute(3, 2, 0, 1), bias[:columns], padding=1)
    wide = F.conv2d(image, large.permute(3, 2, 0, 1), bias[columns:], padding=2)
    return F.leaky_relu(torch.cat([small, wide], 1), slope)


def _stage1(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width = sizes
    channels = int(c["C"])
    m = _branches(_nchw(p[0], height, width, channels), p[1], p[2], p[3], float(c["SLOPE"]))
    _put(p[4], m, 2 * channels)


def _stage2(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width = sizes
    channels = int(c["C"])
    n = _branches(_nchw(p[0], height, width, 2 * channels), p[2], p[3], p[4], float(c["SLOPE"]))
    y = _conv(n.to(p[7].dtype).float(), p[5].view(-1, channels), p[6], channels)
    _put(p[7], y + _nchw(p[1], height, width, channels), channels)


def _pyramid(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width = sizes
    channels, rows = int(c["C"]), int(c["ROWS"])
    image = _nchw(p[0], height, width, channels)
    weights, bias = p[1].view(3, rows, channels), p[2].view(3, channels)
    for i, to in enumerate(p[3:6]):
        pooled = image if i == 0 else F.max_pool2d(image, 2**i)
        _put(to, _conv(pooled, weights[i], bias[i], channels), channels)
    _put(p[6], F.max_pool2d(image, 8), channels)


def _chain(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width = sizes
    channels, columns, rows = int(c["C"]), int(c["K"]), int(c["ROWS"])
    slope = float(c["SLOPE"])
    source, shares, weights, bias, _, ending, ending_bias, s2, s4, s8, x, out = p

    def coarse(flat: Tensor, by: int, half: int) -> Tensor:
        pair = _nchw(flat, height // by, width // by, 2 * channels)
        return F.interpolate(pair[:, half * channels :][:, :channels], size=(height, width), mode="nearest")

    image = _nchw(source, height, width, channels)
    if c["READ"] == 1:
        image = F.leaky_relu(image + coarse(shares, 2, 0), slope).to(out.dtype).float()
    for i in range(int(c["LENGTH"])):
        matrix = weights[i * rows * columns : (i + 1) * rows * columns].view(rows, columns)
        image = F.leaky_relu(_conv(image, matrix, bias[i * columns :], channels, 3), slope)
        image = image.to(out.dtype).float()
    if c["WRITE"] == 0:
        _put(out, image, channels)
    elif c["WRITE"] == 1:
        _put(out, _conv(image, ending.view(-1, 2 * channels), None, 2 * channels), 2 * channels)
    else:
        y = _conv(image, ending.view(-1, channels), ending_bias, channels)
        y = y + coarse(s2, 2, 1) + coarse(s4, 4, 1) + coarse(s8, 8, 1)
        _put(out, F.leaky_relu(y, slope) + _nchw(x, height, width, channels), channels)


def _conv3x3(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width = sizes
    channels, slabs, columns = int(c["C"]), int(c["SLABS"]), int(c["N"])
    stack = p[0][: slabs * height * width * channels].view(slabs, height, width, channels).float()
    image = stack.permute(0, 3, 1, 2).flatten(0, 1)[None]
    rows = p[1].view(-1, int(c["N0"]) + int(c["N1"]))
    y = F.leaky_relu(_conv(image, rows, p[2], columns, 3), float(c["SLOPE"]))
    _put(p[3], y, columns)
    if c["ADD"]:
        _put(p[5], y + _nchw(p[4], height, width, columns), columns)


def _rows(rows: Tensor, first: int, channels: int) -> Tensor:
    """A map's part of packed rows as a convolution's weight."""
    return rows[first : first + 9 * channels].view(3, 3, channels, -1).permute(3, 2, 0, 1).float()


def _two_maps(c: dict, p: list[Tensor], sizes: list[int], columns: int, second: int) -> Tensor:
    """The sum over the taps of one or two maps, all columns, with the bias."""
    height, width = sizes
    channels, rows = int(c["C"]), p[2].view(-1, columns)
    y = F.conv2d(_nchw(p[0], height, width, channels), _rows(rows, 0, channels), p[3], padding=1)
    if second:
        image = _nchw(p[1], height, width, second)
        y = y + F.conv2d(image, _rows(rows, int(c["ROWS"]), second), padding=1)
    return y


def _recurrent_conv(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = dict(call.constants)
    height, width = sizes
    pixel, added = int(c["PIXEL"]), int(c["ADDED"])
    y = _two_maps(c, p, sizes, int(c["N0"]) + int(c["N1"]), int(c["C1"]))[:, :pixel]
    y = y.relu() if c["BEFORE"] else y
    if c["ADD"]:
        y = y + _nchw(p[4], height, width, added)[:, :pixel]
    _put(p[5], y.relu() if c["AFTER"] else y, pixel)


def _recurrent_lstm(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = dict(call.constants)
    height, width = sizes
    channels, start = int(c["C"]), bool(c["START"])
    y = _two_maps(c, p, sizes, 4 * channels, 0 if start else channels)
    i, g, o, f = y.split(channels, 1)
    cell = i.sigmoid() * g.tanh()
    if not start:
        cell = cell + f.sigmoid() * _nchw(p[4], height, width, channels)
    _put(p[4], cell, channels)
    _put(p[5], o.sigmoid() * cell.tanh(), channels)


def _dense1x1(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width, slabs = sizes
    channels = int(c["C"])
    stack = p[0][: slabs * height * width * channels].view(slabs, height, width, channels).float()
    image = stack.permute(0, 3, 1, 2).flatten(0, 1)[None]
    y = F.leaky_relu(_conv(image, p[1].view(-1, channels), p[2], channels), float(c["SLOPE"]))
    if c["ADD"]:
        y = y + _nchw(p[3], height, width, channels)
    _put(p[4], y, int(c["PIXEL"]))


def _bilinear(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width, from_height, from_width = sizes
    channels, pixel = int(c["C"]), int(c["PIXEL"])
    for i in range(call.planes):
        image = _nchw(p[0][i * from_height * from_width * channels :], from_height, from_width, channels)
        resized = F.interpolate(image, (height, width), mode="bilinear", align_corners=False)
        _put(p[1][i * height * width * pixel :], resized, pixel)


def _maximum(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    height, width = sizes
    channels = int(call.constants["C"])
    _put(p[1], F.max_pool2d(_nchw(p[0], 2 * height, 2 * width, channels), 2), channels)


def _transposed(call: Call, p: list[Tensor], sizes: list[int]) -> None:
    c = call.constants
    height, width = sizes
    channels, columns = int(c["C"]), int(c["N0"]) + int(c["N1"])
    weight = p[1].view(2, 2, int(c["ROWS"]), columns)[:, :, :channels].permute(2, 3, 0, 1).float()
    image = _nchw(p[0], height, width, channels)
    _put(p[3], F.conv_transpose2d(image, weight, p[2], stride=2), int(c["PIXEL"]))


_STEPS: dict[str, Callable[[Call, list[Tensor], list[int]], None]] = {
    "mffb.stage1": _stage1,
    "mffb.stage2": _stage2,
    "pffb.pyramid": _pyramid,
    "chain.chain": _chain,
    "conv.conv3x3": _conv3x3,
    "dense.dense1x1": _dense1x1,
    "resample.bilinear": _bilinear,
    "recurrent.conv": _recurrent_conv,
    "recurrent.lstm": _recurrent_lstm,
    "pool.maximum": _maximum,
    "transposed.conv": _transposed,
}
