"""What a precision that changes the result (``int8``) may cost, measured against the truth that rain was laid over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import metrics

#: What may be lost, on the mean over the pictures, by a network that takes rain out.
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
    """All H x W x 3 float32; rainy and truth in [0, 1], sides of 11 pixels or more."""
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
    """Over some pictures: mean loss of PSNR in dB and of SSIM against the truth, least PSNR to the reference, and
    whether the reference takes rain out at all."""

    psnr_loss: float
    ssim_loss: float
    psnr_to_reference: float
    derains: bool

    @property
    def margin(self) -> float:
        """What is left of the allowance, as a share of it; negative where it is overdrawn."""
        if not self.derains:
            return (self.psnr_to_reference - MIN_PSNR) / _AMPLE
        return 1 - max(self.psnr_loss / MAX_PSNR_LOSS, self.ssim_loss / MAX_SSIM_LOSS)

    def missed(self) -> str | None:
        """What is missed and by how much, in words."""
        # Negated, so that NaN fails too.
        if self.margin >= 0:
            return None
        if not self.derains:
            return (
                f"{self.psnr_to_reference:.1f} dB to fp32, at least {MIN_PSNR:.0f} "
                "for a network that takes no rain out"
            )
        return (
            f"{self.psnr_loss:.2f} dB and {self.ssim_loss:.4f} SSIM lost against the truth, "
            f"at most {MAX_PSNR_LOSS} and {MAX_SSIM_LOSS}"
        )


def cost(pictures: Sequence[Quality]) -> Cost:
    """Of at least one picture."""
    means = {
        name: float(np.mean([getattr(each, name) for each in pictures]))
        for name in ("rainy_psnr", "reference_psnr", "reference_ssim", "engine_psnr", "engine_ssim")
    }
    return Cost(
        psnr_loss=means["reference_psnr"] - means["engine_psnr"],
        ssim_loss=means["reference_ssim"] - means["engine_ssim"],
        psnr_to_reference=min(each.psnr_to_reference for each in pictures),
        derains=means["reference_psnr"] > means["rainy_psnr"],
    )
