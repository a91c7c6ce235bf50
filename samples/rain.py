"""Synthetic rain: layers of single streaks or of motion-blurred noise, laid over a clean picture.

The layers follow the usual model of the deraining literature, O = B + R (eq. 1 of the SSID-KD paper), with two
variants that cameras and data sets show: the sum saturates at white, and screen blending, 1 - (1 - B)(1 - R).
No data set's streaks were measured or copied; kinds and ranges are set by eye and by the loss in dB they cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..base.errors import InputError

Blend = Literal["additive", "saturate", "screen"]
Kind = Literal["clean", "drizzle", "light", "heavy", "downpour", "noise", "near"]

#: From none to five directions at once; then rain as photographs are retouched with it, and drops near the lens.
KINDS: tuple[Kind, ...] = ("clean", "drizzle", "light", "heavy", "downpour", "noise", "near")

#: Relative length, angle offset in units of ``spread`` and share of the streaks of a layer's three groups.
_GROUPS = ((1.0, 0.0, 0.5), (0.65, -1.0, 0.25), (1.35, 1.0, 0.25))


@dataclass(frozen=True)
class Streaks:
    """One layer of nearly parallel streaks.

    length: of a streak, in pixels. width: full width at half maximum, in pixels.
    angle: direction of fall in degrees, 0 straight down, positive leaning to the right.
    density: streaks per 1000 pixels. brightness: of the brightest streak, 1 is white.
    spread: degrees by which groups of streaks lean off ``angle``.
    """

    length: float
    width: float
    angle: float
    density: float
    brightness: float
    spread: float = 2.0


@dataclass(frozen=True)
class BlurredNoise:
    """One layer of rain as image editors make it, and with them the data sets that were made by hand (Rain1400 and
    others): Gaussian noise, enlarged, blurred along a line, its contrast stretched.

    length: of the blur, in pixels. grain: side of a grain of noise, in pixels. angle: as in :class:`Streaks`.
    coverage: share of the pixels that get rain, in (0.01, 1). brightness: of the brightest hundredth, 1 is white.
    """

    length: float
    grain: float
    angle: float
    coverage: float
    brightness: float


@dataclass(frozen=True)
class Rain:
    """Layers, how they are blended with the picture, and the colour of the rain (RGB factors about 1).

    unevenness: share of the strength that comes and goes over the picture, as gusts and light make it, in [0, 1].
    """

    layers: tuple[Streaks | BlurredNoise, ...] = ()
    blend: Blend = "saturate"
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unevenness: float = 0.0


def _streak_kernel(length: float, width: float, angle: float) -> np.ndarray:
    """Intensity of one streak: a segment with Gaussian cross-section and soft ends, peak 1, odd square float32."""
    sigma = max(width, 0.3) / 2.355
    half = length / 2
    radius = int(np.ceil(half + 3 * sigma))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    a = np.deg2rad(angle)
    along = x * np.sin(a) + y * np.cos(a)
    across = x * np.cos(a) - y * np.sin(a)
    beyond = np.maximum(np.abs(along) - half, 0)
    return np.exp(-(across**2 + beyond**2) / (2 * sigma**2)).astype(np.float32)


def render_streaks(streaks: Streaks, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Render a rain layer, height x width float32 in [0, about brightness]; overlapping streaks keep the brighter sum
    bounded by twice the brightness."""
    import cv2

    total = np.zeros((height, width), np.float32)
    for relative, lean, share in _GROUPS:
        kernel = _streak_kernel(
            streaks.length * relative, streaks.width, streaks.angle + lean * streaks.spread
        )
        # Seeds also fall outside the picture, so that the streaks do not thin out at its border.
        margin = kernel.shape[0] // 2
        h, w = height + 2 * margin, width + 2 * margin
        seeds = np.zeros(h * w, np.float32)
        count = rng.poisson(streaks.density * share / 1000 * h * w)
        seeds[rng.integers(0, h * w, count)] = rng.uniform(0.35, 1.0, count)
        layer = cv2.filter2D(seeds.reshape(h, w), -1, kernel, borderType=cv2.BORDER_CONSTANT)
        total += layer[margin : margin + height, margin : margin + width]
    return np.clip(total, 0, 2, out=total) * np.float32(streaks.brightness)


def render_noise(noise: BlurredNoise, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Render a rain layer, height x width float32 in [0, brightness]."""
    import cv2

    kernel = _streak_kernel(noise.length, 1.0, noise.angle)
    margin = kernel.shape[0] // 2
    h, w = height + 2 * margin, width + 2 * margin
    grains = rng.standard_normal((int(np.ceil(h / noise.grain)), int(np.ceil(w / noise.grain))), np.float32)
    # Clipped as an editor's noise on black is: half of the grains are dark.
    field = cv2.resize(np.maximum(grains, 0), (w, h), interpolation=cv2.INTER_CUBIC)
    field = cv2.filter2D(field, -1, kernel, borderType=cv2.BORDER_REFLECT)
    field = field[margin : margin + height, margin : margin + width]
    black, white = np.quantile(field, (1 - noise.coverage, 0.99))
    return np.clip((field - black) / max(white - black, 1e-6), 0, 1) * np.float32(noise.brightness)


def render_rain(
    layers: Sequence[Streaks | BlurredNoise], height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Sum of the layers, height x width float32, at least 0."""
    total = np.zeros((height, width), np.float32)
    for layer in layers:
        if isinstance(layer, Streaks):
            total += render_streaks(layer, height, width, rng)
        else:
            total += render_noise(layer, height, width, rng)
    return total


def _gusts(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random field, height x width float32 in [0, 1], that changes over some 80 pixels."""
    import cv2

    knots = rng.random((height // 80 + 2, width // 80 + 2), np.float32)
    return cv2.resize(knots, (width, height), interpolation=cv2.INTER_LINEAR)


def add_rain(clean: np.ndarray, rain: Rain, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lay rain over a clean picture, H x W x 3 float32 RGB in [0, 1]. Returns (rainy, clean), both like it.

    The returned clean picture is the given one but for ``additive`` blending, where it is darkened first as far
    as eq. 1 needs to hold without saturating.

    Raises:
        InputError: clean is not H x W x 3.
    """
    if clean.ndim != 3 or clean.shape[2] != 3:
        raise InputError(f"rain is laid over an H x W x 3 picture, got shape {clean.shape}.")
    clean = np.asarray(clean, np.float32)
    if not rain.layers:
        return clean.copy(), clean
    height, width = clean.shape[:2]
    layer = render_rain(rain.layers, height, width, rng)
    if rain.unevenness:
        layer *= 1 - np.float32(rain.unevenness) * _gusts(height, width, rng)
    layer = layer[..., None] * np.asarray(rain.tint, np.float32)
    if rain.blend == "screen":
        return 1 - (1 - clean) * (1 - np.minimum(layer, 1)), clean
    if rain.blend == "additive":
        layer = np.minimum(layer, 0.5)
        clean = clean * min(1.0, float(1 - layer.max()))
    return np.clip(clean + layer, 0, 1), clean


def sample_rain(kind: Kind, rng: np.random.Generator) -> Rain:
    """Draw a random rain of one kind, from drizzle (single faint direction) to downpour (up to five directions)."""

    def layer(length, width, density, brightness, angle) -> Streaks:
        return Streaks(
            length=rng.uniform(*length),
            width=rng.uniform(*width),
            angle=angle,
            # Log-uniform: densities matter by their ratio.
            density=float(np.exp(rng.uniform(*np.log(density)))),
            brightness=rng.uniform(*brightness),
            spread=rng.uniform(0, 4),
        )

    wind = float(np.clip(rng.normal(0, 16), -50, 50))
    layers: list[Streaks | BlurredNoise] = []
    if kind == "drizzle":
        layers.append(layer((5, 18), (0.7, 1.5), (0.6, 5), (0.1, 0.4), wind))
    elif kind == "light":
        for _ in range(rng.integers(1, 3)):
            layers.append(layer((10, 45), (0.7, 2.2), (0.6, 6), (0.2, 0.8), wind + rng.normal(0, 3)))
    elif kind == "heavy":
        for _ in range(rng.integers(2, 4)):
            layers.append(layer((12, 60), (0.8, 2.5), (0.6, 5), (0.2, 0.8), wind + rng.normal(0, 8)))
    elif kind == "downpour":
        directions = rng.permutation(np.linspace(-1, 1, 5))[: rng.integers(3, 6)] * rng.uniform(15, 60)
        for direction in directions:
            angle = wind / 2 + direction + rng.normal(0, 4)
            layers.append(layer((10, 60), (0.7, 2.2), (0.7, 4), (0.25, 0.9), angle))
    elif kind == "noise":
        # Editors' blur lies at any angle.
        angle = float(np.clip(rng.normal(0, 28), -70, 70))
        for _ in range(rng.integers(1, 3)):
            coverage = float(np.exp(rng.uniform(*np.log((0.04, 0.85)))))
            layers.append(
                BlurredNoise(
                    length=float(np.exp(rng.uniform(*np.log((6, 100))))),
                    grain=float(np.exp(rng.uniform(*np.log((1, 4))))),
                    angle=angle + rng.normal(0, 4),
                    coverage=coverage,
                    # A curtain of rain lets the scene through.
                    brightness=rng.uniform(0.15, 1.0) * (1 - 0.6 * coverage),
                )
            )
    elif kind == "near":
        # Out of focus, so wide, soft and translucent; some finer rain behind.
        for _ in range(rng.integers(1, 3)):
            layers.append(layer((25, 150), (2, 8), (0.04, 0.4), (0.1, 0.6), wind + rng.normal(0, 4)))
        if rng.random() < 0.6:
            layers.append(layer((8, 45), (0.7, 2.2), (0.6, 6), (0.1, 0.6), wind + rng.normal(0, 4)))
    if kind in ("heavy", "downpour", "near") and rng.random() < 0.5:
        # Far rain: too many fine streaks to tell apart.
        layers.append(layer((8, 25), (0.7, 1.1), (15, 60), (0.02, 0.1), wind))
    # Editors screen layers over a picture.
    shares = (0.4, 0.1, 0.5) if kind in ("noise", "near") else (0.7, 0.1, 0.2)
    blend: Blend = ("saturate", "additive", "screen")[int(rng.choice(3, p=shares))]
    tint = np.clip(rng.normal(1, 0.02, 3), 0.9, 1.1)
    unevenness = float(rng.uniform(0.2, 1)) if kind in ("noise", "near") and rng.random() < 0.4 else 0.0
    return Rain(tuple(layers), blend, (float(tint[0]), float(tint[1]), float(tint[2])), unevenness)
