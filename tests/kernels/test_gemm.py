from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from derain_engine.base.errors import InputError
from derain_engine.kernels.gemm import (
    inner_taps,
    outer_taps,
    pack_matrix,
    padded_k,
    power_of_two,
    split_columns,
    taps_first,
)


@triton.jit
def taps_kernel(inner, outer):
    tap = tl.arange(0, 16)
    dy, dx = inner_taps(tap)
    tl.store(inner + 2 * tap, dy, mask=tap < 9)
    tl.store(inner + 2 * tap + 1, dx, mask=tap < 9)
    dy, dx = outer_taps(tap)
    tl.store(outer + 2 * tap, dy)
    tl.store(outer + 2 * tap + 1, dx)


def test_taps_of_both_windows_come_in_the_order_of_the_packed_weights(device):
    inner = torch.zeros(9, 2, dtype=torch.int32, device=device)
    outer = torch.zeros(16, 2, dtype=torch.int32, device=device)
    taps_kernel[(1,)](inner, outer)
    assert inner.tolist() == [[dy, dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    rows = [[dy, dx] for dy in (-2, 2) for dx in (-2, -1, 0, 1, 2)]
    assert outer.tolist() == rows + [[dy, dx] for dy in (-1, 0, 1) for dx in (-2, 2)]


@pytest.mark.parametrize(
    ("columns", "split"),
    [(8, (8, 0)), (16, (16, 0)), (24, (16, 8)), (32, (32, 0)), (48, (32, 16)), (64, (64, 0)), (96, (64, 32))],
)
def test_columns_are_cut_exactly(columns, split):
    assert split_columns(columns) == split


@pytest.mark.parametrize("columns", [0, 1, 4, 7, 9, 12, 20, 28, 31, 36, 56, 100])
def test_columns_without_such_a_cut_are_refused(columns):
    with pytest.raises(InputError, match=rf"cannot tile {columns} channels.*another backend"):
        split_columns(columns)


def test_sizes_are_rounded_up():
    assert [power_of_two(count) for count in (1, 2, 3, 24, 32, 33)] == [1, 2, 4, 32, 32, 64]
    assert [padded_k(rows) for rows in (1, 63, 64, 65, 9 * 24)] == [64, 64, 64, 128, 256]


@pytest.mark.parametrize(("k", "n", "columns"), [(1, 1, None), (64, 8, None), (65, 24, 32), (16, 3, 8)])
def test_matrices_are_padded_with_zeros(k, n, columns):
    rows = torch.rand(k, n) + 1
    packed = pack_matrix(rows, columns)
    assert packed.shape == (-(-k // 64) * 64, columns or n)
    assert torch.equal(packed[:k, :n], rows)
    assert packed.count_nonzero() == k * n


def test_packed_rows_times_patches_are_the_convolution():
    weight, image = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(3, 6, 7, dtype=torch.float64)
    patches = F.unfold(image[None], 3)[0].view(3, 9, -1).transpose(0, 1).reshape(27, -1)
    found = pack_matrix(taps_first(weight).flatten(0, 1))[:27].T @ patches
    torch.testing.assert_close(found.view(5, 4, 5), F.conv2d(image, weight))
