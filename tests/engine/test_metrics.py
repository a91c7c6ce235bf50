from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from derain_engine.base.errors import BackendUnavailable, InputError
from derain_engine.engine.metrics import dark_channel_mean, luma, psnr, ssim


def pair(height: int = 24, width: int = 31, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    a = random.random((height, width, channels))
    return a, np.clip(a + random.normal(0, 0.1, a.shape), 0, 1)


def test_psnr_of_a_known_error():
    black = np.zeros((5, 4, 3))
    assert psnr(black, black + 0.1) == pytest.approx(20.0)
    assert psnr(black, np.full_like(black, 0.5), data_range=2.0) == pytest.approx(10 * math.log10(4 / 0.25))
    assert psnr(black, black) == math.inf


def test_psnr_does_not_lose_small_errors_in_float32():
    a = np.full((64, 64, 3), 0.9, np.float32)
    b = a.copy()
    b[0, 0, 0] += np.float32(2**-20)
    expected = -10 * math.log10(float(np.float64(b[0, 0, 0]) - np.float64(a[0, 0, 0])) ** 2 / a.size)
    assert psnr(a, b) == pytest.approx(expected)


def windows_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of one channel written out window by window."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            covariance = (window * (p - mp) * (q - mq)).sum()
            structure = (2 * mp * mq + 1e-4) * (2 * covariance + 9e-4)
            values.append(structure / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_the_papers_formula():
    a, b = pair()
    channels = [windows_ssim(a[..., c], b[..., c]) for c in range(3)]
    assert ssim(a, b) == pytest.approx(np.mean(channels), abs=1e-9)
    assert ssim(a[..., 0], b[..., 0]) == pytest.approx(channels[0], abs=1e-9)
    assert ssim(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(np.mean(channels), abs=1e-6)
    assert ssim(a, a) == pytest.approx(1.0)


def test_ssim_of_the_smallest_picture():
    a, b = pair(11, 11)
    assert -1 < ssim(a, b) < 1
    with pytest.raises(InputError, match="10x11 is too small"):
        ssim(a[:10], b[:10])


def test_luma_is_studio_range_bt601():
    colours = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    expected = np.array([16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]) / 255
    np.testing.assert_allclose(luma(colours), expected, rtol=1e-12)
    assert luma(np.zeros((4, 6, 3))).shape == (4, 6)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_what_cannot_be_compared_is_refused(measure):
    a, b = pair()
    with pytest.raises(InputError, match=r"different shapes.*24, 31, 3.*24, 30, 3"):
        measure(a, b[:, :30])
    for bad in (np.nan, np.inf):
        spoiled = b.copy()
        spoiled[3, 4, 1] = bad
        with pytest.raises(InputError, match="NaN or infinite"):
            measure(a, spoiled)
        with pytest.raises(InputError, match="NaN or infinite"):
            measure(spoiled, a)
    with pytest.raises(InputError, match="not uint8"):
        measure(a, np.zeros(a.shape, np.uint8))
    with pytest.raises(InputError, match="height x width"):
        measure(a[None], b[None])
    with pytest.raises(InputError, match="height x width"):
        measure(a[:0], b[:0])


def test_ranges_and_channels_are_checked():
    a, b = pair()
    with pytest.raises(InputError, match="positive data range"):
        psnr(a, b, data_range=0.0)
    with pytest.raises(InputError, match="three channels"):
        luma(a[..., :2])
    with pytest.raises(InputError, match="not uint8"):
        luma(np.zeros((4, 4, 3), np.uint8))


def test_a_missing_scikit_image_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(BackendUnavailable, match=r"scikit-image.*derain-engine\[build\]"):
        ssim(*pair())


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 65), (40, 20)])
@pytest.mark.parametrize("window", [1, 3, 15])
def test_the_dark_channel_is_the_one_that_training_uses(size, window):
    import torch

    from derain_engine.kernels.dark_channel import dark_channel_maximum

    image = np.random.default_rng(4).random((*size, 3)) ** 0.2
    x = torch.from_numpy(1 - image.transpose(2, 0, 1)[None])
    if min(size) > window // 2:
        expected = 1 - dark_channel_maximum(x, window, window // 2).mean()
        assert dark_channel_mean(image, window) == pytest.approx(float(expected), abs=1e-12)
    least = [
        image[
            max(0, y - window // 2) : y + window // 2 + 1, max(0, x - window // 2) : x + window // 2 + 1
        ].min()
        for y in range(size[0])
        for x in range(size[1])
    ]
    assert dark_channel_mean(image.astype(np.float32), window) == pytest.approx(np.mean(least), abs=1e-6)


@pytest.mark.parametrize(
    ("image", "window"),
    [
        (np.zeros((4, 4)), 15),
        (np.zeros((4, 4, 3), np.uint8), 15),
        (np.zeros((0, 4, 3)), 15),
        (np.full((4, 4, 3), np.nan), 15),
        (np.zeros((4, 4, 3)), 4),
    ],
)
def test_the_dark_channel_of_something_else_is_refused(image, window):
    with pytest.raises(InputError):
        dark_channel_mean(image, window)


def test_psnr_and_ssim_are_scikit_images():
    """Compare on luma and on RGB, of pictures with 8-bit levels."""
    from skimage import color, data, metrics

    truth = data.chelsea()[:97, :131]
    noisy = np.clip(truth + np.random.default_rng(6).normal(0, 12, truth.shape), 0, 255).astype(np.uint8)
    a, b = (each.astype(np.float64) / 255 for each in (noisy, truth))
    for x, y, axis in ((a, b, 2), (luma(a), luma(b), None)):
        assert psnr(x, y) == pytest.approx(metrics.peak_signal_noise_ratio(y, x, data_range=1), abs=1e-9)
        expected = metrics.structural_similarity(
            x,
            y,
            channel_axis=axis,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(x, y) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(luma(b), color.rgb2ycbcr(truth)[..., 0] / 255, atol=1e-12)
