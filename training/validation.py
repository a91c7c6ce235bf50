"""The validation of a network on held-out pairs, in figures and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..media.pictures.images import Picture, write_picture
from .losses import ssim

_SIDE, _GAP, _ROWS = 192, 4, 4


def _untuned() -> AbstractContextManager[None]:
    # On a GPU training lets cuDNN try its ways for each size; pictures have many sizes and come once.
    return torch.backends.cudnn.flags(enabled=True, benchmark=False)


@torch.inference_mode()
def validate(
    derain: Callable[[Tensor], Tensor], pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[float, float]:
    """Compute the mean PSNR (dB) and SSIM, as ``engine.metrics`` does, of the clamped fp32 output over the pairs."""
    psnrs, ssims = [], []
    for rainy, clean in pairs:
        with _untuned():
            output = derain(rainy[None].to(device)).clamp(0, 1).double()
        truth = clean[None].to(device).double()
        psnrs.append(float(-10 * torch.log10((output - truth).square().mean())))
        ssims.append(float(ssim(output, truth, padded=False)))
    return float(np.mean(psnrs)), float(np.mean(ssims))


@torch.inference_mode()
def write_samples(
    path: Path,
    derain: Callable[[Tensor], Tensor],
    pairs: Sequence[tuple[Tensor, Tensor]],
    derain_real: Callable[[Tensor], Tensor],
    real: Sequence[Tensor],
    device: torch.device,
) -> None:
    """Write a PNG with a row for each of the first few pictures: rainy, output, truth; for real rain, what was taken
    away in place of the truth. The middle of each is shown, 192 pixels a side at most."""
    rows = [(rainy, clean) for rainy, clean in pairs[:_ROWS]] + [(rainy, None) for rainy in real[:_ROWS]]
    sheet = np.full((len(rows) * (_SIDE + _GAP) - _GAP, 3 * (_SIDE + _GAP) - _GAP, 3), 255, np.uint8)
    for i, (rainy, truth) in enumerate(rows):
        with _untuned():
            output = (derain_real if truth is None else derain)(rainy[None].to(device))[0].cpu()
        last = rainy - output if truth is None else truth
        for j, picture in enumerate((rainy, output, last)):
            cell = _middle(picture)
            y, x = i * (_SIDE + _GAP), j * (_SIDE + _GAP)
            sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    write_picture(path, Picture(sheet))


def _middle(picture: Tensor) -> np.ndarray:
    image = picture.permute(1, 2, 0).clamp(0, 1).numpy()
    y, x = (max(0, side - _SIDE) // 2 for side in image.shape[:2])
    return np.round(image[y : y + _SIDE, x : x + _SIDE] * 255).astype(np.uint8)
