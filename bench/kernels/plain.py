"""What a plan's launches compute, as plain PyTorch operators on NCHW maps in memory order channels_last.

The rivals of the kernels: weights are unpacked before the clock runs, and maps are the plan's own memory, seen as NCHW.
Concatenations are made where a network in PyTorch makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from ...kernels.launch import Call

#: A pure function of tensors, and the tensors.
Plain: TypeAlias = tuple[Callable[..., tuple["Tensor", ...]], list["Tensor"]]


def plain(call: Call, pointers: Sequence[Tensor], sizes: Sequence[int]) -> Plain:
    """One launch. pointers: as ``Memory.flat`` gives them. The function gives the launch's results as 1 x C x H x W, in
    the order of the kernel's outputs."""
    make = {
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
    }[call.kernel]
    return make(call, list(pointers), list(sizes))


def _map(flat: Tensor, height: int, width: int, channels: int) -> Tensor:
    """1 x C x H x W over NHWC memory: channels_last."""
    return flat[: height * width * channels].view(1, height, width, channels).permute(0, 3, 1, 2)


def _slabs(flat: Tensor, slabs: int, height: int, width: int, channels: int) -> list[Tensor]:
    size = height * width * channels
    return [_map(flat[i * size :], height, width, channels) for i in range(slabs)]


def _weight(rows: Tensor, channels: int, columns: int, side: int) -> Tensor:
    """Packed rows as a convolution's weight, N x C x side x side."""
    import torch

    unpacked = rows[: side * side * channels, :columns].reshape(side, side, channels, columns)
    return unpacked.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


def _branch_weights(inner: Tensor, outer: Tensor, bias: Tensor, channels: int) -> list[Tensor]:
    """Weight and bias of an MFFB's 3x3 and 5x5 branch."""
    import torch

    columns = bias.shape[0] // 2
    inner = inner.view(-1, 2, columns)[: 9 * channels]
    around = outer.view(-1, columns)[: 16 * channels].view(16, channels, columns)
    large = around.new_zeros(5, 5, channels, columns)
    large[1:4, 1:4] = inner[:, 1].reshape(3, 3, channels, columns)
    large[0], large[4] = around[:5], around[5:10]
    large[1:4, 0], large[1:4, 4] = around[10::2], around[11::2]
    wide = large.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    bias = bias.to(inner.dtype)
    return [_weight(inner[:, 0], channels, columns, 3), bias[:columns], wide, bias[columns:]]


def _branches(image: Tensor, w3: Tensor, b3: Tensor, w5: Tensor, b5: Tensor, slope: float) -> Tensor:
    import torch
    import torch.nn.functional as F

    small = F.leaky_relu(F.conv2d(image, w3, b3, padding=1), slope)
    large = F.leaky_relu(F.conv2d(image, w5, b5, padding=2), slope)
    return torch.cat([small, large], 1)


def _stage1(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    channels, slope = int(call.constants["C"]), float(call.constants["SLOPE"])
    height, width = sizes

    def run(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return (_branches(x, *weights, slope=slope),)

    return run, [_map(p[0], height, width, channels), *_branch_weights(p[1], p[2], p[3], channels)]


def _stage2(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch.nn.functional as F

    channels, slope = int(call.constants["C"]), float(call.constants["SLOPE"])
    height, width = sizes

    def run(m: Tensor, x: Tensor, last: Tensor, bias: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return (F.conv2d(_branches(m, *weights, slope=slope), last, bias) + x,)

    last = _weight(p[5].view(-1, channels), 4 * channels, channels, 1)
    maps = [_map(p[0], height, width, 2 * channels), _map(p[1], height, width, channels)]
    weights = _branch_weights(p[2], p[3], p[4], 2 * channels)
    return run, [*maps, last, p[6][:channels].to(last.dtype), *weights]


def _pyramid(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch.nn.functional as F

    channels, rows = int(call.constants["C"]), int(call.constants["ROWS"])
    height, width = sizes

    def run(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        pooled = [x, F.max_pool2d(x, 2), F.max_pool2d(x, 4)]
        pairs = zip(pooled, weights[::2], weights[1::2], strict=True)
        return (*(F.conv2d(image, weight, bias) for image, weight, bias in pairs), F.max_pool2d(x, 8))

    weights: list[Tensor] = []
    for rows_of, bias in zip(p[1].view(3, rows, channels), p[2].view(3, channels), strict=True):
        weights += [_weight(rows_of, channels, channels, 1), bias.to(p[0].dtype)]
    return run, [_map(p[0], height, width, channels), *weights]


def _chain(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch.nn.functional as F

    c = call.constants
    channels, columns, rows, length = (int(c[name]) for name in ("C", "K", "ROWS", "LENGTH"))
    slope, reads, writes = float(c["SLOPE"]), c["READ"], c["WRITE"]
    source, shares, weights, bias, _, ending, ending_bias, *coarse, x, _ = p
    height, width = sizes

    def up(pair: Tensor, half: int) -> Tensor:
        return F.interpolate(pair[:, half * channels :][:, :channels], size=(height, width), mode="nearest")

    def run(image: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = iter(rest)
        if reads == 1:
            image = F.leaky_relu(image + up(next(given), 0), slope)
        for _ in range(length):
            image = F.leaky_relu(F.conv2d(image, next(given), next(given), padding=1), slope)
        if writes == 1:
            image = F.conv2d(image, next(given))
        elif writes == 2:
            image = F.conv2d(image, next(given), next(given))
            for _ in range(3):
                image = image + up(next(given), 1)
            image = F.leaky_relu(image, slope) + next(given)
        return (image,)

    def pair(flat: Tensor, by: int) -> Tensor:
        return _map(flat, height // by, width // by, 2 * channels)

    given = [_map(source, height, width, channels)]
    given += [pair(shares, 2)] if reads == 1 else []
    for i in range(length):
        matrix = weights[i * rows * columns : (i + 1) * rows * columns].view(rows, columns)
        given += [_weight(matrix, channels, channels, 3), bias[i * columns :][:channels].to(source.dtype)]
    if writes == 1:
        given.append(_weight(ending.view(-1, 2 * channels), channels, 2 * channels, 1))
    elif writes == 2:
        given += [_weight(ending.view(-1, channels), channels, channels, 1)]
        given += [ending_bias[:channels].to(source.dtype)]
        given += [pair(flat, by) for flat, by in zip(coarse, (2, 4, 8), strict=True)]
        given.append(_map(x, height, width, channels))
    return run, given


def _conv3x3(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch
    import torch.nn.functional as F

    c = call.constants
    channels, slabs, columns = int(c["C"]), int(c["SLABS"]), int(c["N"])
    slope, add = float(c["SLOPE"]), bool(c["ADD"])
    height, width = sizes
    rows = p[1].view(-1, int(c["N0"]) + int(c["N1"]))
    weight = _weight(rows, channels * slabs, columns, 3)

    def run(weight: Tensor, bias: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        stack = maps[:slabs]
        image = stack[0] if slabs == 1 else torch.cat(stack, 1)
        y = F.leaky_relu(F.conv2d(image, weight, bias, padding=1), slope)
        return (y, y + maps[slabs]) if add else (y,)

    maps = _slabs(p[0], slabs, height, width, channels)
    maps += [_map(p[4], height, width, columns)] if add else []
    return run, [weight, p[2][:columns].to(weight.dtype), *maps]


def _dense1x1(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch
    import torch.nn.functional as F

    c = call.constants
    channels, slope, add = int(c["C"]), float(c["SLOPE"]), bool(c["ADD"])
    height, width, slabs = sizes
    weight = _weight(p[1].view(-1, channels), channels * slabs, channels, 1)

    def run(weight: Tensor, bias: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        y = F.leaky_relu(F.conv2d(torch.cat(maps[:slabs], 1), weight, bias), slope)
        return (y + maps[slabs] if add else y,)

    maps = _slabs(p[0], slabs, height, width, channels)
    maps += [_map(p[3], height, width, channels)] if add else []
    return run, [weight, p[2][:channels].to(weight.dtype), *maps]


def _bilinear(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch.nn.functional as F

    height, width, from_height, from_width = sizes

    def run(*maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.interpolate(image, (height, width), mode="bilinear") for image in maps)

    return run, _slabs(p[0], call.planes, from_height, from_width, int(call.constants["C"]))


def _two_maps(
    call: Call, p: list[Tensor], sizes: list[int], columns: int, second: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The maps, weight and bias of a convolution over one or two of them."""
    import torch

    height, width = sizes
    channels = int(call.constants["C"])
    rows = p[2].view(-1, columns)
    maps, weights = [_map(p[0], height, width, channels)], [_weight(rows, channels, columns, 3)]
    if second:
        maps.append(_map(p[1], height, width, second))
        weights.append(_weight(rows[int(call.constants["ROWS"]) :], second, columns, 3))
    weight = torch.cat(weights, 1).contiguous(memory_format=torch.channels_last)
    return maps, weight, p[3].to(p[0].dtype)


def _recurrent_conv(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch
    import torch.nn.functional as F

    c = call.constants
    pixel = int(c["PIXEL"])
    maps, weight, bias = _two_maps(call, p, sizes, int(c["N0"]) + int(c["N1"]), int(c["C1"]))
    height, width = sizes
    added = [_map(p[4], height, width, int(c["ADDED"]))[:, :pixel]] if c["ADD"] else []
    added = [each.contiguous(memory_format=torch.channels_last) for each in added]
    inputs = len(maps)

    def run(weight: Tensor, bias: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        y = F.conv2d(torch.cat(rest[:inputs], 1), weight, bias, padding=1)
        y = y.relu() if c["BEFORE"] else y
        y = y + rest[inputs] if added else y
        return (y.relu() if c["AFTER"] else y,)

    return run, [weight[:pixel].contiguous(memory_format=torch.channels_last), bias[:pixel], *maps, *added]


def _recurrent_lstm(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch
    import torch.nn.functional as F

    channels, start = int(call.constants["C"]), bool(call.constants["START"])
    maps, weight, bias = _two_maps(call, p, sizes, 4 * channels, 0 if start else channels)
    # The kernel works in place: what it reads has to stay as it was.
    height, width = sizes
    before = [] if start else [_map(p[4], height, width, channels).clone()]
    inputs = len(maps)

    def run(weight: Tensor, bias: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        i, g, o, f = F.conv2d(torch.cat(rest[:inputs], 1), weight, bias, padding=1).chunk(4, 1)
        cell = i.sigmoid() * g.tanh()
        if before:
            cell = cell + f.sigmoid() * rest[inputs]
        return cell, o.sigmoid() * cell.tanh()

    return run, [weight, bias, *maps, *before]


def _maximum(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch.nn.functional as F

    height, width = sizes
    image = _map(p[0], 2 * height, 2 * width, int(call.constants["C"]))
    return lambda image: (F.max_pool2d(image, 2),), [image]


def _transposed(call: Call, p: list[Tensor], sizes: list[int]) -> Plain:
    import torch
    import torch.nn.functional as F

    c = call.constants
    channels, columns = int(c["C"]), int(c["N0"]) + int(c["N1"])
    places = p[1].view(2, 2, int(c["ROWS"]), columns)[:, :, :channels]
    weight = places.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)
    image = _map(p[0], sizes[0], sizes[1], channels)
    return lambda weight, bias, image: (F.conv_transpose2d(image, weight, bias, stride=2),), [
        weight,
        p[2].to(p[0].dtype),
        image,
    ]
