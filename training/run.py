"""What every training run states, whatever its recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ..base.errors import InputError
from ..models.ssid_kd import PRESETS, SMALLEST_SIDE
from .pairs import Layout

#: What may be another when a run is resumed: places, and what speeds a run up without changing what it computes.
MAY_DIFFER = frozenset(
    {
        *(
            "output",
            "photos",
            "exclude",
            "pairs",
            "layout",
            "real",
            "validation",
            "start",
            "teacher",
            "vgg16",
        ),
        *("workers", "device", "compile", "samples_every"),
    }
)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with patches of one size (pixels) and one batch size, over all processes."""

    steps: int
    patch: int
    batch: int

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.patch < SMALLEST_SIDE:
            raise InputError(
                f"A phase of {self.steps} steps with {self.batch} patches of {self.patch} pixels cannot be trained; "
                f"steps and batch start at 1, patches at {SMALLEST_SIDE}."
            )

    @classmethod
    def parse(cls, text: str) -> Phase:
        """From ``STEPS:PATCH:BATCH``. Raises InputError."""
        try:
            steps, patch, batch = (int(part) for part in text.split(":"))
        except ValueError:
            raise InputError(f"phase {text!r} is not STEPS:PATCH:BATCH, such as 12000:64:8.") from None
        return cls(steps, patch, batch)

    def __str__(self) -> str:
        return f"{self.steps}:{self.patch}:{self.batch}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides what a run computes, as far as all recipes share it.

    preset: a name of :meth:`presets`.
    output: the folder that gets everything.
    photos: folder of clean photographs, rained on as they are drawn. exclude: table of photographs to leave out.
    pairs: folder of rainy and clean pictures. layout: how they lie there, see :func:`training.pairs.find_pairs`.
        Where both are given, scenes are drawn from both alike.
    validation: folder of pairs to choose the best weights by; without it ``validation_photos`` scenes are kept apart
        from photos and pairs.
    start: weights to begin with instead of random ones, a file of the preset's network or a shipped name; a run that
        is resumed has its own.
    accumulate: parts that a batch is computed in, for less memory.
    ema_decay: of the moving average of the weights that is validated and kept; 0 keeps the weights themselves.
    clip_norm: largest norm of the gradients; 0 for no limit.
    validate_every, samples_every: steps between validations and between pictures of samples (0 for none).
    precision: ``fp32``, or ``bf16`` autocast, or ``auto``: bf16 where the device computes in it.
    compile: the network's blocks go through ``torch.compile``.
    """

    preset: str
    output: Path
    photos: Path | None = None
    exclude: Path | None = None
    pairs: Path | None = None
    layout: Layout = "auto"
    validation: Path | None = None
    validation_photos: int = 16
    start: Path | None = None
    accumulate: int = 1
    ema_decay: float = 0.999
    clip_norm: float = 0.0
    seed: int = 66
    validate_every: int = 1000
    samples_every: int = 1000
    workers: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    compile: bool = False

    @staticmethod
    def presets() -> Mapping[str, Any]:
        """The networks that the recipe trains, by name."""
        return PRESETS

    def __post_init__(self) -> None:
        if self.preset not in self.presets():
            raise InputError(f"preset {self.preset!r} is not known; take one of {', '.join(self.presets())}.")
        for name, hint in get_type_hints(type(self)).items():
            known = get_args(hint)
            if getattr(hint, "__origin__", None) is Literal and getattr(self, name) not in known:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is not known; take one of {', '.join(map(str, known))}."
                )
        self._at_least(1, "accumulate", "validation_photos", "validate_every")
        self._at_least(0, "clip_norm", "samples_every", "seed", "workers")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; it starts at 0 and stays below 1.")

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {least} or more.")

    def texts(self) -> dict[str, str]:
        """Every setting as text, to compare runs by."""
        return {field.name: _text(getattr(self, field.name)) for field in fields(self)}


def _text(value: Any) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"({', '.join(map(_text, value))})"
    return str(value)
