"""The speed and size of deraining networks as the SSID-KD paper prints them, and what can be said of those figures.

Cui et al., "Semi-supervised Image Deraining Using Knowledge Distillation", IEEE Transactions on Circuits and Systems
for Video Technology, 2022, Tables III and IV.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = (
    'Cui et al., "Semi-supervised Image Deraining Using Knowledge Distillation", IEEE Transactions on Circuits and '
    "Systems for Video Technology, 2022, Tables III (running time on an NVIDIA GeForce RTX 2080 Ti) and IV "
    "(multiply-adds and parameters)"
)
#: Nominal fp32 rate of a GeForce RTX 2080 Ti: 4352 cores, two operations a cycle, 1.545 GHz boost clock.
NOMINAL_2080_TI_TFLOP_S = 4352 * 2 * 1.545e9 / 1e12
SIZES = ((512, 512), (1024, 1024))


@dataclass(frozen=True)
class PublishedSpeed:
    """One method.

    seconds_512, seconds_1024: Table III, at 512x512 and 1024x1024. gmacs (10^9 multiply-adds), mparams (10^6
    parameters): Table IV, which names no picture size. side: of the square picture at which counting the convolutions
    of the authors' public code gives ``gmacs`` within 4 %, in pixels; None where no such size was found.
    semi_supervised: as the paper groups them.
    """

    method: str
    seconds_512: float
    seconds_1024: float
    gmacs: float
    mparams: float
    side: int | None
    semi_supervised: bool = False

    @property
    def macs_per_pixel(self) -> float | None:
        return None if self.side is None else 1e9 * self.gmacs / self.side**2

    def tflop_s(self, side: int) -> float | None:
        """Compute the 10^12 operations a second, a multiply-add counted as two, that Table III implies at ``side`` (512
        or 1024)."""
        if self.macs_per_pixel is None:
            return None
        seconds = {512: self.seconds_512, 1024: self.seconds_1024}[side]
        return 2 * self.macs_per_pixel * side**2 / seconds / 1e12


#: In the tables' order. Table IV spells PReNet "PRNet".
TABLE: tuple[PublishedSpeed, ...] = (
    PublishedSpeed("NLEDN", 0.094, 0.259, 22.18, 1.01, 256),
    PublishedSpeed("RESCAN", 0.026, 0.070, 32.32, 0.15, 256),
    PublishedSpeed("ReHEN", 0.016, 0.064, 22.49, 1.07, None),
    PublishedSpeed("PReNet", 0.104, 0.400, 66.58, 0.17, 256),
    PublishedSpeed("SIRR", 0.442, 0.855, 32.37, 2.58, None, semi_supervised=True),
    PublishedSpeed("SID", 0.299, 0.572, 64.66, 4.43, 128),
    PublishedSpeed("DCSFN", 0.362, 0.971, 34.89, 2.11, None),
    PublishedSpeed("MSPFN", 0.831, 2.310, 59.71, 3.47, None),
    PublishedSpeed("RCDNet", 0.817, 1.748, 79.71, 3.17, None),
    PublishedSpeed("VRGNet", 0.102, 0.394, 91.51, 0.17, None),
    PublishedSpeed("Syn2Real", 0.028, 0.032, 21.10, 2.62, 256, semi_supervised=True),
    PublishedSpeed("SSID-KD", 0.301, 0.575, 64.66, 4.43, 128, semi_supervised=True),
)


def cells() -> list[dict[str, str]]:
    """Put the table in words, by the columns' heads; what is computed stands behind what is printed."""
    return [
        {
            "Method": each.method,
            "512x512 s": f"{each.seconds_512:.3f}",
            "1024x1024 s": f"{each.seconds_1024:.3f}",
            "x for 4x pixels": f"{each.seconds_1024 / each.seconds_512:.2f}x",
            "GMAC": f"{each.gmacs:.2f}",
            "at": "" if each.side is None else f"{each.side}x{each.side}",
            "MAC/pixel": "" if each.macs_per_pixel is None else f"{each.macs_per_pixel:,.0f}",
            "M parameters": f"{each.mparams:.2f}",
            "TFLOP/s at 512": "" if (rate := each.tflop_s(512)) is None else f"{rate:.1f}",
            "TFLOP/s at 1024": "" if (rate := each.tflop_s(1024)) is None else f"{rate:.1f}",
        }
        for each in TABLE
    ]


def notes() -> list[str]:
    """Write what a reader has to know of the tables, with the figures computed."""
    rates = {each.method: rate for each in TABLE if (rate := each.tflop_s(1024)) is not None}
    fast = {name: rate for name, rate in rates.items() if rate > NOMINAL_2080_TI_TFLOP_S}
    return [
        f"Source: {SOURCE}.",
        f"The times at 1024x1024 of {', '.join(fast)} imply {', '.join(f'{rate:.1f}' for rate in fast.values())} "
        f"TFLOP/s, more than the 2080 Ti's nominal fp32 rate of {NOMINAL_2080_TI_TFLOP_S:.1f}; they are shown as "
        "printed.",
        "Table IV names no picture size and mixes several, so multiply-adds a pixel are computed from the size under "
        "'at'. For SID and SSID-KD it is where counting the network here gives the printed figure; for NLEDN, RESCAN, "
        "PReNet and Syn2Real where counts of their authors' code do, which is not part of this package. No size was "
        "found for the others.",
        "Seconds of other machines are not for ratios with measurements here.",
    ]
