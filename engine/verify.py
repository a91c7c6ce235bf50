"""The comparison with the reference network that every build has to pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import VerificationError
from ..base.progress import Progress, no_progress
from ..models.spec import ModelSpec, clean_image
from . import frames, quality
from .quality import Cost, Quality

if TYPE_CHECKING:
    from torch import nn

    from .backends.base import Session

#: Maximum absolute error of fp32 paths, relative to max(1, max|reference|).
FP32_MAX_ABS = 1e-5
#: The same of networks that remember where maxima were, of which a few values may differ by more than rounding.
PICKING_FP32_MAX_ABS = 1e-3
#: Least PSNR in dB (data range 1) and largest absolute error of 16-bit paths.
HALF_PSNR = 50.0
HALF_MAX_ABS = 2e-2

#: Precisions that change what a network computes; their engines are judged by the truth under the rain.
LOSSY = ("int8",)


@dataclass(frozen=True)
class Comparison:
    """One picture: engine against fp32 reference on the same padded frame, values in [0, 1] before clamping.

    psnr: dB, infinite for equal outputs. max_abs: largest absolute error. largest: max|reference|.
    uint8_levels: largest difference between 8-bit outputs, in steps of 1/255. quality: of precisions in ``LOSSY``.
    """

    picture: str
    psnr: float
    max_abs: float
    largest: float
    uint8_levels: int
    quality: Quality | None = None


@dataclass(frozen=True)
class Report:
    """The outcome for an engine: the worst of every figure over the pictures, and which checks were missed.

    emulated: the machine could not run the engine; what it computes was run on the CPU instead. picks_maxima: as in
    ``models.spec.ModelSpec``.
    """

    precision: str
    comparisons: tuple[Comparison, ...]
    emulated: bool = False
    picks_maxima: bool = False

    @property
    def psnr(self) -> float:
        return min(c.psnr for c in self.comparisons)

    @property
    def max_abs(self) -> float:
        return max(c.max_abs for c in self.comparisons)

    @property
    def uint8_levels(self) -> int:
        return max(c.uint8_levels for c in self.comparisons)

    @property
    def cost(self) -> Cost | None:
        """The cost of a precision in ``LOSSY``."""
        judged = [c.quality for c in self.comparisons if c.quality is not None]
        return quality.cost(judged) if judged else None

    def missed(self) -> list[str]:
        """Return names out of ``options.CHECKS``, each with its figure and bound: ``"psnr: 43.1 dB, at least 50"``."""
        if self.precision in LOSSY:
            missed = None if self.cost is None else self.cost.missed()
            return [] if missed is None else [f"quality: {missed}"]
        out = []
        if self.precision == "fp32":
            worst = max(c.max_abs / max(1.0, c.largest) for c in self.comparisons)
            bound = PICKING_FP32_MAX_ABS if self.picks_maxima else FP32_MAX_ABS
            if not worst <= bound:
                out.append(f"max-abs: {worst:.2e} of max(1, max|reference|), at most {bound:.0e}")
            levels = 1
        else:
            if not self.psnr >= HALF_PSNR:
                out.append(f"psnr: {self.psnr:.1f} dB, at least {HALF_PSNR:.0f}")
            if not self.max_abs <= HALF_MAX_ABS:
                out.append(f"max-abs: {self.max_abs:.2e}, at most {HALF_MAX_ABS:.0e}")
            levels = 1 + int(np.ceil(255 * HALF_MAX_ABS))
        if self.uint8_levels > levels:
            out.append(f"uint8: {self.uint8_levels} levels, at most {levels}")
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the record for a manifest: figures to three digits, so that they repeat."""
        lost = {}
        if self.cost is not None:
            lost = {
                "psnr_loss_db": round(self.cost.psnr_loss, 3),
                "ssim_loss": round(self.cost.ssim_loss, 5),
                "derains": self.cost.derains,
            }
        return lost | {
            "precision": self.precision,
            "emulated": self.emulated,
            "psnr_db": None if np.isinf(self.psnr) else float(f"{self.psnr:.3g}"),
            "max_abs": float(f"{self.max_abs:.3g}"),
            "uint8_levels": self.uint8_levels,
            "pictures": [c.picture for c in self.comparisons],
        }


def reference_output(network: nn.Module, batch: np.ndarray) -> np.ndarray:
    """Return the fp32 reference's clean output for a padded batch: N x H x W x 3 float32 in and out, not clamped."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        clean = clean_image(network(x))
    return np.ascontiguousarray(clean.numpy().transpose(0, 2, 3, 1))


def compare(name: str, output: np.ndarray, output_uint8: np.ndarray, reference: np.ndarray) -> Comparison:
    """Compare one picture.

    Args:
        output, reference: float32 of one shape.
        output_uint8: the session's answer to the same frame in 8 bits.

    Raises:
        VerificationError: NaN or infinity in the output or the reference.
    """
    for what, values in (("The engine", output), ("The reference network", reference)):
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            raise VerificationError(
                f"{what} gave {bad} values that are NaN or infinite on {name!r}; such a network is not built. "
                "Try --precision fp32, or check the weights."
            )
    error = np.abs(output.astype(np.float64) - reference)
    mse = float(np.mean(error**2))
    levels = np.abs(output_uint8.astype(int) - frames.quantise(reference, np.uint8).astype(int)).max()
    return Comparison(
        picture=name,
        psnr=float("inf") if mse == 0 else float(-10 * np.log10(mse)),
        max_abs=float(error.max()),
        largest=float(np.abs(reference).max()),
        uint8_levels=int(levels),
    )


def verify(
    session: Session,
    network: nn.Module,
    spec: ModelSpec,
    precision: str,
    pictures: Mapping[str, tuple[np.ndarray, np.ndarray]],
    progress: Progress = no_progress,
) -> Report:
    """Run the session and the reference on pictures, in float and in 8 bits.

    Args:
        pictures: (rainy, truth) by name, of a size that the session takes.

    Raises:
        VerificationError: NaN or infinity came out. A miss of another kind is in the report.
    """
    comparisons: list[Comparison] = []
    for name, (picture, truth) in pictures.items():
        progress(f"Comparing {name}", len(comparisons) / len(pictures))
        # Steps of 1/255, so that the float and the 8-bit path see the same frame.
        levels = frames.pad_to(
            frames.quantise(picture[None], np.uint8), spec.sizes.padded(*picture.shape[:2])
        )
        batch = frames.to_float(levels)
        output = session.run(batch)
        reference = reference_output(network, batch)
        comparison = compare(name, output, session.run(levels), reference)
        if precision in LOSSY:
            height, width = picture.shape[:2]
            shown, ours, theirs = (each[0, :height, :width] for each in (batch, reference, output))
            comparison = replace(comparison, quality=quality.judge(shown, truth, ours, theirs))
        comparisons.append(comparison)
    progress("Comparing", 1.0)
    return Report(precision, tuple(comparisons), picks_maxima=spec.picks_maxima)


def check(report: Report, subject: str, accept: Sequence[str] = ()) -> None:
    """Raise VerificationError naming every missed check that is not accepted by name."""
    if missed := [each for each in report.missed() if each.split(":")[0] not in accept]:
        other = "" if report.precision == "fp32" else "Try --precision fp32, or "
        raise VerificationError(
            f"{subject} in {report.precision} is not close enough to its fp32 reference: {'; '.join(missed)}. "
            f"{other}{'a' if other else 'A'}ccept a check by its name."
        )
