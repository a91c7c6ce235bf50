from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derain_engine.base.errors import InputError
from derain_engine.base.sizes import padded_side
from derain_engine.engine.frames import accept, quantise, to_float

from ..helpers import pad_frame

SIZES = [(1, 1), (7, 13), (33, 65), (321, 481)]
DTYPES = ["uint8", "uint16", "float16", "float32", "float64"]


def noise(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(sum(shape)).random(shape)
    if np.dtype(dtype).kind == "u":
        return np.round(values * np.iinfo(dtype).max).astype(dtype)
    return values.astype(dtype)


def mirrored(index: int, side: int) -> int:
    """Return the pixel that `reflect` puts at an index beyond the end: the last one is not repeated."""
    return index if index < side else 2 * (side - 1) - index


@pytest.mark.parametrize("size", SIZES)
def test_padding_follows_the_rule_of_each_axis(size):
    height, width = size
    batch = noise((2, height, width, 3))
    padded, crop = pad_frame(batch, 32, 32)
    assert crop == size
    rows, columns = padded_side(height, 32), padded_side(width, 32)
    assert padded.shape == (2, rows, columns, 3)
    assert padded.dtype == batch.dtype and padded.flags.c_contiguous

    def sources(side, total):
        if side > total - side:
            return [mirrored(i, side) for i in range(total)]
        return [min(i, side - 1) for i in range(total)]

    expected = batch[:, sources(height, rows)][:, :, sources(width, columns)]
    np.testing.assert_array_equal(padded, expected)


def test_axes_choose_between_mirror_and_edge_on_their_own():
    batch = noise((1, 30, 5, 3))
    padded, _ = pad_frame(batch, 32, 1)
    np.testing.assert_array_equal(padded[:, 30:, :5], batch[:, 28:26:-1])
    np.testing.assert_array_equal(padded[:, :30, 5:], np.repeat(batch[:, :, 4:], 27, axis=2))


@pytest.mark.parametrize(("side", "mode"), [(16, "edge"), (17, "reflect")])
def test_a_side_as_long_as_its_padding_takes_the_edge(side, mode):
    batch = noise((1, side, 32, 3))
    padded, _ = pad_frame(batch, 32, 32)
    np.testing.assert_array_equal(padded, np.pad(batch, [(0, 0), (0, 32 - side), (0, 0), (0, 0)], mode=mode))


def test_nothing_is_copied_where_nothing_is_missing():
    batch = noise((1, 32, 64, 3))
    assert pad_frame(batch, 32, 32)[0] is batch


@pytest.mark.parametrize(
    ("side", "granularity", "smallest", "padded"),
    [(1, 32, 32, 32), (32, 32, 32, 32), (33, 32, 32, 64), (5, 16, 40, 48), (7, 1, 1, 7), (0, 32, 0, 0)],
)
def test_padded_side(side, granularity, smallest, padded):
    assert padded_side(side, granularity, smallest) == padded


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 4, 16, 32]), st.integers(1, 40))
def test_padded_frames_keep_the_picture_and_fit_the_network(height, width, granularity, smallest):
    batch = noise((1, height, width, 3))
    padded, (h, w) = pad_frame(batch, granularity, smallest)
    np.testing.assert_array_equal(padded[:, :h, :w], batch)
    for side, original in zip(padded.shape[1:3], (height, width), strict=True):
        assert side % granularity == 0 and side >= smallest
        assert side - granularity < max(original, smallest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "nhwc"),
    [
        ((7, 13, 3), (1, 7, 13, 3)),
        ((2, 7, 13, 3), (2, 7, 13, 3)),
        ((2, 3, 7, 13), (2, 7, 13, 3)),
        ((1, 1, 3), (1, 1, 1, 3)),
        ((2, 3, 5, 3), (2, 3, 5, 3)),  # either layout fits: channels last wins
    ],
)
def test_every_kind_comes_back_as_it_went_in(shape, nhwc, dtype):
    image = noise(shape, dtype)
    before = image.copy()
    frame = accept(image)
    assert frame.batch.shape == nhwc and frame.batch.flags.c_contiguous
    assert frame.batch.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    restored = frame.restore(frame.batch.copy())
    assert restored.dtype == image.dtype and restored.flags.c_contiguous
    if dtype == "float64":
        np.testing.assert_allclose(restored, image, rtol=1e-6)
    else:
        np.testing.assert_array_equal(restored, image)
    np.testing.assert_array_equal(image, before)


def test_channels_stay_with_their_pixels():
    image = np.zeros((1, 3, 4, 5), np.float32)
    image[0, 1, 2, 3] = 1.0
    batch = accept(image).batch
    assert batch[0, 2, 3, 1] == 1.0 and batch.sum() == 1.0


def test_views_byte_orders_and_read_only_arrays():
    image = noise((10, 12, 3), "uint16")
    foreign = image.astype(image.dtype.newbyteorder())
    frame = accept(foreign)
    assert frame.restore(frame.batch).dtype == foreign.dtype
    np.testing.assert_array_equal(frame.restore(frame.batch), image)

    view = noise((20, 12, 6))[::-2, :, ::2]
    view.flags.writeable = False
    assert accept(view).batch.flags.c_contiguous
    np.testing.assert_array_equal(accept(view).batch[0], view)


def test_floats_are_not_clamped_and_integers_are():
    clean = np.array([[[[-0.25, 0.5, 1.25]]]], np.float32)
    np.testing.assert_array_equal(
        accept(noise((1, 1, 3), "float64")).restore(clean)[0, 0], [-0.25, 0.5, 1.25]
    )
    np.testing.assert_array_equal(accept(noise((1, 1, 3), "uint16")).restore(clean)[0, 0], [0, 32768, 65535])


def test_every_integer_survives_the_way_through_float():
    for dtype in (np.uint8, np.uint16):
        values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
        np.testing.assert_array_equal(quantise(to_float(values), dtype), values)
        assert to_float(values).dtype == np.float32 and to_float(values)[-1] == 1.0


def test_torch_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.rand(2, 3, 8, 6).permute(0, 1, 3, 2)
    restored = accept(tensor).restore(accept(tensor).batch.copy())
    assert isinstance(restored, torch.Tensor) and torch.equal(restored, tensor)
    for unfit in (tensor.bfloat16(), tensor.requires_grad_()):
        with pytest.raises(InputError, match=r"torch\.Tensor cannot be read"):
            accept(unfit)


class OnADevice:
    """An array of another library in GPU memory."""

    def __dlpack__(self, **_):
        raise AssertionError("must not be read")

    def __dlpack_device__(self):
        return 2, 0


def test_arrays_in_gpu_memory_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(OnADevice, "__module__", "numpy.elsewhere")  # a module that has from_dlpack
    with pytest.raises(InputError, match=r"OnADevice is not in CPU memory.*\.cpu\(\)"):
        accept(OnADevice())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise((8, 8)), r"grey.*stack"),
        (noise((8, 8, 1)), r"grey.*repeat"),
        (noise((8, 8, 4)), "RGBA"),
        (noise((2, 8, 8, 4)), "RGBA"),
        (noise((3, 8, 8)), "channels come first"),
        (noise((8, 8, 5)), r"shape \(8, 8, 5\), which is not RGB"),
        (noise((3,)), "not RGB"),
        (noise((1, 1, 8, 8, 3)), "not RGB"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.zeros((0, 8, 8, 3), np.float32), "empty"),
        (np.zeros((2, 3, 8, 0), np.float32), "empty"),
        (np.zeros((8, 8, 3), bool), "dtype bool.*convert"),
        (np.zeros((8, 8, 3), np.int64), "dtype int64.*convert"),
        (np.zeros((8, 8, 3), np.uint32), "dtype uint32.*convert"),
        (np.zeros((8, 8, 3), np.complex64), "dtype complex64.*convert"),
        (np.zeros((8, 8, 3), np.longdouble), "dtype .*convert"),
        (np.full((8, 8, 3), 255.0), r"0, 1.*image / 255"),
        (np.full((8, 8, 3), -1.0, np.float32), r"0, 1"),
        (np.where(np.arange(192).reshape(8, 8, 3) == 5, np.nan, 0.5), "NaN"),
        (np.where(np.arange(192).reshape(8, 8, 3) == 5, np.inf, 0.5).astype(np.float16), "infinite"),
        (None, "not builtins.NoneType"),
        ([[[1, 2, 3]]], "numpy.asarray"),
        ("rain.jpg", "not builtins.str"),
    ],
)
def test_what_cannot_be_cleaned_is_refused_with_advice(image, message):
    with pytest.raises(InputError, match=message):
        accept(image)


def test_a_little_overshoot_is_no_other_range():
    image = np.array([[[-0.1, 0.5, 1.1]]], np.float32)
    np.testing.assert_array_equal(accept(image).batch[0], image)
