from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from derain_engine.base.errors import InputError
from derain_engine.kernels import dark_channel
from derain_engine.kernels.dark_channel import by_torch, by_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = (torch.float16, torch.bfloat16)
#: Height, width, P, p: odd and even, with and without padding, larger than the picture, a single output.
BOXES = [
    (1, 1, 1, 0),
    (1, 1, 2, 1),
    (7, 13, 1, 0),
    (7, 13, 3, 1),
    (7, 13, 4, 2),
    (7, 13, 5, 1),
    (7, 13, 7, 0),
    (7, 13, 16, 8),
    (6, 5, 35, 17),
    (33, 65, 8, 3),
    (33, 65, 35, 17),
    (16, 16, 16, 0),
]
BOX = ("height", "width", "window", "padding")


def pictures(kind: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(shape, generator=generator) * 2 - 1
    if kind == "smooth":
        return x.to(dtype)
    if kind == "zeros":
        return torch.where(x < 0, -0.0, 0.0).to(dtype)
    levels = torch.arange(8) / 7 - 3 / 7  # a zero among them
    x = levels[torch.randint(8, shape, generator=generator)]
    x[(x == 0) & (torch.rand(shape, generator=generator) < 0.5)] = -0.0
    if kind == "special":
        x[torch.rand(shape, generator=generator) < 0.6] = -torch.inf
        for value in (torch.inf, torch.nan, -torch.nan):
            x[torch.rand(shape, generator=generator) < 0.02] = value
    return x.to(dtype)


def max_pool(x: torch.Tensor, window: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maxima and indices as PyTorch gives them."""
    maxima, index = F.max_pool3d_with_indices(
        x[:, None], (3, window, window), (1, 1, 1), (0, padding, padding)
    )
    return maxima[:, 0], index[:, 0]


def assert_same_maxima(found, x: torch.Tensor, window: int, padding: int) -> None:
    maxima, index = max_pool(x.cpu(), window, padding)
    # Bits, so that zeros have their sign; NaN only has to be one.
    assert found[0].dtype == x.dtype
    torch.testing.assert_close(found[0].cpu(), maxima, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found[0].cpu().signbit()[~maxima.isnan()], maxima.signbit()[~maxima.isnan()])
    assert torch.equal(found[1].cpu().long(), index)


def whole_numbers(shape: torch.Size) -> torch.Tensor:
    """Gradients whose sums are exact in float32, in whatever order they are added up."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(3)).float()


def gradient(f, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x), x, grad)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("kind", ["smooth", "tied", "special", "zeros"])
@pytest.mark.parametrize(BOX, BOXES)
def test_separable_maximum_is_that_of_maxpool3d(height, width, window, padding, kind, dtype):
    x = pictures(kind, 2, 3, height, width, dtype=dtype)
    assert_same_maxima(by_torch.box_maximum(x, window, padding), x, window, padding)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), window=st.integers(1, 24), batch=st.integers(0, 3))
def test_separable_maximum_and_gradient_for_any_box(data, window, batch):
    padding = data.draw(st.integers(0, window // 2))
    smallest = max(1, window - 2 * padding)
    height, width = (data.draw(st.integers(smallest, smallest + 12)) for _ in range(2))
    x = pictures("special", 3, 3, height, width)[:batch]
    found = by_torch.box_maximum(x, window, padding)
    assert_same_maxima(found, x, window, padding)
    grad = whole_numbers(found[0].shape)
    expected = gradient(lambda x: by_torch.box_maximum_reference(x, window, padding), x, grad)
    assert torch.equal(
        gradient(lambda x: dark_channel.dark_channel_maximum(x, window, padding), x, grad), expected
    )


@pytest.mark.parametrize(("window", "padding"), [(35, 17), (128, 64)])
def test_gradient_of_tied_patches_is_that_of_maxpool3d(window, padding):
    x = pictures("tied", 1, 3, 128, 128)
    grad = whole_numbers(dark_channel.dark_channel_maximum(x, window, padding).shape)
    expected = gradient(lambda x: by_torch.box_maximum_reference(x, window, padding), x, grad)
    assert torch.equal(
        gradient(lambda x: dark_channel.dark_channel_maximum(x, window, padding), x, grad), expected
    )


@pytest.mark.parametrize(("window", "padding"), [(1, 0), (3, 1), (4, 2), (5, 0)])
def test_gradient_is_the_derivative(window, padding):
    x = torch.randperm(2 * 3 * 5 * 7).double().view(2, 3, 5, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dark_channel.dark_channel_maximum(x, window, padding), x)


def assert_kernels_are_maxpool3d(height, width, window, padding, dtype, kind) -> None:
    x = pictures(kind, 2, 3, height, width, dtype=dtype).to(DEVICE)
    maxima, index = by_triton.box_maximum(x, window, padding)
    assert_same_maxima((maxima, index), x, window, padding)
    grad = whole_numbers(maxima.shape)
    expected = gradient(lambda x: by_torch.box_maximum_reference(x, window, padding), x.cpu().float(), grad)
    out = by_triton.box_maximum_backward(grad.to(DEVICE), index, height, width, window, padding)
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize(
    (*BOX, "dtype", "kind"),
    [
        (1, 1, 1, 0, torch.float32, "special"),
        (1, 1, 2, 1, torch.float16, "tied"),
        (3, 5, 1, 0, torch.bfloat16, "special"),
        (7, 13, 3, 1, torch.float32, "special"),
        (5, 6, 4, 2, torch.float16, "special"),
        (5, 6, 5, 0, torch.bfloat16, "tied"),
        (4, 7, 2, 1, torch.float32, "zeros"),
        (7, 9, 8, 4, torch.float32, "tied"),
        (6, 5, 35, 17, torch.float32, "special"),
    ],
)
def test_kernels_are_maxpool3d(height, width, window, padding, dtype, kind):
    assert_kernels_are_maxpool3d(height, width, window, padding, dtype, kind)


@pytest.mark.slow
@pytest.mark.parametrize(BOX, BOXES)
def test_kernels_are_maxpool3d_everywhere(height, width, window, padding):
    assert_kernels_are_maxpool3d(height, width, window, padding, torch.float32, "special")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("path", ["torch", "triton"])
def test_half_precision_gradients_are_added_up_in_float32(path, dtype, monkeypatch):
    monkeypatch.setattr(dark_channel, "_runs_in_triton", lambda x: path == "triton")
    device = DEVICE if path == "triton" else "cpu"
    x = pictures("tied", 1, 3, 12, 9, dtype=dtype)
    # One pixel is the maximum of all windows; beside 512 one tenth is lost in half precision, 107 are not.
    grad = torch.full((1, 1, 12, 9), 0.1, dtype=dtype)
    grad[0, 0, 0, 0] = 512

    def plain(x):
        return by_torch.box_maximum_reference(x, 35, 17)

    exact = gradient(plain, x.float(), grad.float())
    out = gradient(lambda x: dark_channel.dark_channel_maximum(x, 35, 17), x.to(device), grad.to(device))
    assert out.dtype == dtype
    # One rounding to half precision; MaxPool3d rounds after every addition.
    allowed = torch.finfo(dtype).eps * exact.abs()
    assert torch.all((out.cpu().float() - exact).abs() <= allowed)
    assert torch.any((gradient(plain, x, grad).float() - exact).abs() > allowed)


@pytest.mark.parametrize("path", ["torch", "triton"])
@pytest.mark.parametrize("layout", ["channels_last", "cropped", "grey", "expanded gradient"])
def test_any_strides(layout, path, monkeypatch):
    monkeypatch.setattr(dark_channel, "_runs_in_triton", lambda x: path == "triton")
    x = pictures("tied", 2, 3, 7, 10).to(DEVICE if path == "triton" else "cpu")
    grad = whole_numbers(torch.Size((2, 1, 8, 11))).to(x.device)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "cropped":
        x = pictures("tied", 2, 4, 20, 30).to(x.device)[:, 1:, 1:15:2, 3:13]
    elif layout == "grey":
        x = x[:, :1].expand_as(x)
    else:
        grad = torch.ones((), device=x.device).expand_as(grad)
    expected = gradient(lambda x: by_torch.box_maximum_reference(x, 4, 2), x.cpu(), grad.cpu())
    out = gradient(lambda x: dark_channel.dark_channel_maximum(x, 4, 2), x, grad)
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("path", ["torch", "triton"])
def test_no_pictures_have_no_maxima(path, monkeypatch):
    monkeypatch.setattr(dark_channel, "_runs_in_triton", lambda x: path == "triton")
    x = torch.empty(0, 3, 4, 5, device=DEVICE if path == "triton" else "cpu", requires_grad=True)
    y = dark_channel.dark_channel_maximum(x, 4, 2)
    assert y.shape == (0, 1, 5, 6)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_second_derivatives_are_refused():
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    y = dark_channel.dark_channel_maximum(x, 3, 1)
    (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("x", "window", "padding", "message"),
    [
        (torch.zeros(3, 4, 4), 1, 0, r"N x 3 x H x W pictures; these are \(3, 4, 4\)"),
        (torch.zeros(1, 1, 4, 4), 1, 0, "N x 3 x H x W"),
        (torch.zeros(1, 3, 0, 4), 1, 0, "N x 3 x H x W"),
        (
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            1,
            0,
            r"floating-point pictures; these are torch\.uint8",
        ),
        (torch.zeros(1, 3, 4, 4), 0, 0, "window of 0 px"),
        (torch.zeros(1, 3, 4, 4), 3, -1, "padding of -1 px"),
        (torch.zeros(1, 3, 4, 4), 3, 2, "at most half"),
        (torch.zeros(1, 3, 4, 9), 8, 1, "8 px does not fit into 4x9 px padded by 1 px"),
        (torch.zeros(1).expand(1, 3, 2**15, 2**15), 3, 1, "too many"),
    ],
)
def test_what_cannot_be_is_refused(x, window, padding, message):
    with pytest.raises(InputError, match=message):
        dark_channel.dark_channel_maximum(x, window, padding)


def test_kernels_refuse_what_they_cannot_read():
    x = torch.zeros(1, 3, 4, 4, device=DEVICE)
    with pytest.raises(InputError, match=r"not torch\.float64"):
        by_triton.box_maximum(x.double(), 3, 1)
    maxima, index = by_triton.box_maximum(x, 3, 1)
    with pytest.raises(InputError, match=r"\(1, 1, 4, 2\) on .* indices of \(1, 1, 4, 4\)"):
        by_triton.box_maximum_backward(maxima[..., :2], index, 4, 4, 3, 1)


_WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from derain_engine.kernels.dark_channel import dark_channel_maximum
x = torch.rand(1, 3, 8, 8, requires_grad=True)
dark_channel_maximum(x, 3, 1).sum().backward()
assert x.grad.sum() == 64
"""


def test_a_cpu_needs_no_triton():
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TRITON], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
