"""The cost of a precision that changes the result (``int8``), measured against the truth that rain was laid over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import metrics

#: What may be lost where a network takes rain out: of PSNR in dB on any picture, of SSIM on the mean.
MAX_PSNR_LOSS = 0.1
MAX_SSIM_LOSS = 1e-3
#: How close an output has to be to fp32, in dB, where the network takes none out and a loss would say nothing; and how
#: many dB more are as good as no difference.
MIN_PSNR, _AMPLE = 40.0, 10.0


@dataclass(frozen=True)
class Quality:
    """One picture: PSNR in dB and SSIM against the truth, of the rainy picture and of the clamped outputs of the
    reference in fp32 and of the engine; psnr_to_reference: of the engine's output against the reference's."""

    rainy_psnr: float
    reference_psnr: float
    reference_ssim: float
    engine_psnr: float
    engine_ssim: float
    psnr_to_reference: float


def judge(rainy: np.ndarray, truth: np.ndarray, reference: np.ndarray, engine: np.ndarray) -> Quality:
    """Judge one picture. All are H x W x 3 float32; rainy and truth in [0, 1], sides of 11 pixels or more."""
    reference, engine = (np.clip(each, 0, 1) for each in (reference, engine))
    return Quality(
        rainy_psnr=metrics.psnr(rainy, truth),
        reference_psnr=metrics.psnr(reference, truth),
        reference_ssim=metrics.ssim(reference, truth),
        engine_psnr=metrics.psnr(engine, truth),
        engine_ssim=metrics.ssim(engine, truth),
        psnr_to_reference=metrics.psnr(engine, reference),
    )


@dataclass(frozen=True)
class Cost:
    """The cost over some pictures.

    derains: whether the reference takes rain out of any. Of those, or of all where there are
    none: largest and mean loss of PSNR in dB, and mean loss of SSIM, against the truth. psnr_to_reference: the least.
    """

    psnr_loss: float
    mean_psnr_loss: float
    ssim_loss: float
    psnr_to_reference: float
    derains: bool

    @property
    def margin(self) -> float:
        """The share of the allowance that the mean leaves; negative where it is overdrawn. For crops, one of
        which tells little."""
        if not self.derains:
            return (self.psnr_to_reference - MIN_PSNR) / _AMPLE
        return 1 - max(self.mean_psnr_loss / MAX_PSNR_LOSS, self.ssim_loss / MAX_SSIM_LOSS)

    def missed(self) -> str | None:
        """Tell what is missed and by how much, in words."""
        # Of what must hold, so that NaN is missed too.
        if not self.derains:
            if self.psnr_to_reference >= MIN_PSNR:
                return None
            return (
                f"{self.psnr_to_reference:.1f} dB to fp32, at least {MIN_PSNR:.0f} "
                "for a network that takes no rain out"
            )
        if self.psnr_loss <= MAX_PSNR_LOSS and self.ssim_loss <= MAX_SSIM_LOSS:
            return None
        return (
            f"{self.psnr_loss:.2f} dB and {self.ssim_loss:.4f} SSIM lost against the truth, "
            f"at most {MAX_PSNR_LOSS} and {MAX_SSIM_LOSS}"
        )


def cost(pictures: Sequence[Quality]) -> Cost:
    """Sum up the cost over at least one picture."""
    # Where the reference itself does harm, being farther from it may by chance be closer to the truth.
    cleaned = [each for each in pictures if each.reference_psnr > each.rainy_psnr]
    judged = cleaned or pictures
    losses = [each.reference_psnr - each.engine_psnr for each in judged]
    return Cost(
        psnr_loss=float(np.max(losses)),
        mean_psnr_loss=float(np.mean(losses)),
        ssim_loss=float(np.mean([each.reference_ssim - each.engine_ssim for each in judged])),
        psnr_to_reference=min(each.psnr_to_reference for each in pictures),
        derains=bool(cleaned),
    )
