"""The options of training runs: one dataclass a recipe, shared by Python, the command line and settings files.

It loads no torch: the command line's help is made from it. What needs torch is looked up when a run is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..base.errors import InputError
from ..base.options import meaning, option

#: How pairs lie in their folder, see :func:`training.pairs.find_pairs`.
Layout = Literal["auto", "folders", "clean-left", "rain-left"]
#: What the divergence of codes is divided by, see :func:`training.losses.kl_divergence`.
KLReduction = Literal["mean", "batchmean", "pixel"]
#: A layer of VGG-16, see :mod:`training.perceptual`.
Layer = Literal["conv2_2", "relu2_2", "relu3_3"]

#: Sides in pixels: of the smallest picture that SSID-KD's networks take (``models.ssid_kd`` has the same number and
#: torch), and of the smallest patch that leaves Semi-DerainGAN's discriminators a last map.
SMALLEST_SIDE, SMALLEST_GAN_PATCH = 32, 61
#: What may be another when a run is resumed: places, and what speeds a run up without changing what it computes.
MAY_DIFFER = frozenset(
    "output photos exclude pairs layout real validation start teacher vgg16 workers device compile "
    "samples_every".split()
)

_FIRST = {"epochs": 520, "patch": 120, "batch": 12, "milestones": (0.6, 0.8), "l1_weight": 0.0}
_SECOND = {"epochs": 10, "patch": 128, "batch": 2, "learning_rate": 1e-4, "milestones": (), "decay": 1.0}
#: What stage and recipe of SSID-KD decide where a run does not. The paper's Rain200 schedule: milestones are the epochs
#: 312 and 416 of 520; the published code halves at them, the paper divides by ten.
SSID_KD_DEFAULTS: Mapping[tuple[int, str], Mapping[str, Any]] = MappingProxyType(
    {
        (1, "official"): _FIRST | {"learning_rate": 5e-4, "decay": 0.5},
        (1, "paper"): _FIRST | {"learning_rate": 5e-3, "decay": 0.1},
        (2, "official"): _SECOND | {"l1_weight": 20.0},
        (2, "paper"): _SECOND | {"l1_weight": 0.0},
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
        """Read ``STEPS:PATCH:BATCH``.

        Raises:
            InputError: the text is another, or such a phase cannot be trained.
        """
        try:
            steps, patch, batch = (int(part) for part in text.split(":"))
        except ValueError:
            raise InputError(f"phase {text!r} is not STEPS:PATCH:BATCH, such as 12000:64:8.") from None
        return cls(steps, patch, batch)

    def __str__(self) -> str:
        return f"{self.steps}:{self.patch}:{self.batch}"


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Everything that decides what a run computes, as far as all recipes share it.

    What is no option of the command line is a setting of a file:

    preset: a name of :meth:`presets`.
    layout: how ``pairs`` lie in their folder. Where photos and pairs are given, scenes are drawn from both alike.
    validation: folder of pairs to choose the best weights by; without it ``validation_photos`` scenes are kept apart
        from photos and pairs.
    ema_decay: of the moving average of the weights that is validated and kept; 0 keeps the weights themselves.
    clip_norm: largest norm of the gradients; 0 for no limit.
    """

    preset: str
    output: Path = option(
        help="Folder for best.safetensors, final.safetensors, last.pt, log.csv, run.toml and samples; made if missing.",
        flags=("--out", "-o"),
    )
    photos: Path | None = option(None, help="Folder of clean photographs, searched with its subfolders.")
    exclude: Path | None = option(
        None,
        help="Table of photographs to leave out: file names in its first column, relative to the table.",
        metavar="CSV",
    )
    pairs: Path | None = option(
        None,
        help="Folder of rainy and clean pictures, laid out as Rain100, Rain200, Rain1200, Rain1400 or SPA are, or a "
        "list of them.",
    )
    layout: Layout = "auto"
    validation: Path | None = None
    validation_photos: int = option(
        16, help="Photographs or pairs kept apart to choose the best weights by.", least=1
    )
    start: Path | None = option(
        None,
        help="Weights to begin with, also shipped ones; random ones without.",
        flags=("--from",),
        metavar="FILE|NAME",
    )
    accumulate: int = option(1, help="Parts that a batch is computed in, for less memory.", least=1)
    ema_decay: float = 0.999
    clip_norm: float = 0.0
    seed: int = option(66, help="Of weights, patches and rain.", least=0)
    validate_every: int = option(1000, help="Steps between validations; the state is saved then.", least=1)
    samples_every: int = option(1000, help="Steps between pictures of samples; 0 for none.", least=0)
    workers: int = option(1, help="Processes that prepare patches.", least=0)
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", help="auto takes bf16 where the device computes in it."
    )
    device: str = option(
        "auto", help="auto takes a CUDA GPU where there is one.", metavar="<auto|cpu|cuda|cuda:N>"
    )
    compile: bool = option(False, help="Put the network's blocks through torch.compile; the start is slower.")

    @staticmethod
    def presets() -> Mapping[str, Any]:
        """Return the networks that the recipe trains, by name."""
        from ..models.ssid_kd import PRESETS

        return PRESETS

    def __post_init__(self) -> None:
        if self.preset not in self.presets():
            raise InputError(f"preset {self.preset!r} is not known; take one of {', '.join(self.presets())}.")
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, known, about = getattr(self, field.name), get_args(hints[field.name]), meaning(field)
            if get_origin(hints[field.name]) is Literal and value not in known:
                raise InputError(
                    f"{field.name} {value!r} is not known; take one of {', '.join(map(str, known))}."
                )
            if about is not None and about.least is not None and value is not None:
                self._at_least(about.least, field.name)
        self._at_least(0, "clip_norm")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; it starts at 0 and stays below 1.")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise InputError(f"device {self.device!r} is not known; take auto, cpu, cuda or cuda:N.")

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {least} or more.")

    def texts(self) -> dict[str, str]:
        """Return every setting as text, to compare runs by."""
        return {field.name: _text(getattr(self, field.name)) for field in fields(self)}


def _text(value: Any) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"({', '.join(map(_text, value))})"
    return str(value)


@dataclass(frozen=True, kw_only=True)
class SidRun(TrainingRun):
    """A run of the supervised recipe. Beside its options:

    l1_weight: of the mean absolute error beside the negative SSIM (eq. 6).
    """

    preset: str = option("sid-lite", help="Size of the network: sid or sid-lite.")
    phases: tuple[Phase, ...] = option(
        (Phase(12000, 64, 8), Phase(6000, 128, 8)),
        help="A stretch of training with square patches of PATCH pixels, BATCH at a time; repeat it for several, one "
        "after the other.",
        flags=("--phase",),
        metavar="STEPS:PATCH:BATCH",
        parse=Phase.parse,
        shown="12000:64:8, then 6000:128:8",
    )
    learning_rate: float = option(1e-3, help="Highest rate of the schedule: a warm-up, then half a cosine.")
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    l1_weight: float = 5.0
    clip_norm: float = 1.0
    teacher: Path | None = option(
        None,
        help="Weights of a trained network, mostly a larger one, that supervises beside the truth (distillation).",
        metavar="FILE|NAME",
    )
    teacher_weight: float = option(
        5.0, help="Of the difference to the teacher's clean pictures.", least=0, shown="5"
    )
    code_weight: float = option(0.1, help="Of the distance to the teacher's codes.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.phases:
            raise InputError("phases are empty; give one STEPS:PATCH:BATCH or more.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        self._at_least(0, "final_learning_rate", "warmup_steps", "l1_weight")

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True, kw_only=True)
class SsidKdRun(TrainingRun):
    """A run of one stage. What is None becomes the recipe's own, see :data:`SSID_KD_DEFAULTS`.

    stage: 1 trains on pairs or photographs; 2 goes on from its weights (``start``) with ``real`` pictures beside them.
    milestones: fractions of the training after which the rate is multiplied by ``decay``.
    l1_weight: of the mean absolute error to the truth; in stage 1 beside the negative SSIM.
    kl_weight, dark_channel_weight, tv_weight: lambda 1 to 3 of eq. 7. With the ``kl_reduction`` mean and 1e-6 the
        divergence is numerically inert, about seven orders below the L1 loss.
    """

    preset: str = option("sid", help="Size of the network: sid or sid-lite.")
    stage: Literal[1, 2] = option(
        1, help="1: on pairs or photographs (eq. 6). 2: from there, with real rain beside them (eq. 7 to 11)."
    )
    recipe: Literal["official", "paper"] = option(
        "official", help="What the published code does, or what the paper prints."
    )
    real: Path | None = option(None, help="Stage 2: folder of pictures in real rain, without a truth.")
    epochs: int | None = option(
        None, help="Each as many steps as the pictures fill batches.", least=1, shown="520 or 10"
    )
    steps: int | None = option(None, help="Steps in all, instead of epochs.", least=1)
    patch: int | None = option(None, help="Side of the patches in pixels.", shown="120 or 128")
    batch: int | None = option(None, help="Patches of a step.", least=1, shown="12 or 2")
    learning_rate: float | None = option(None, help="Of the beginning.", shown="of stage and recipe")
    milestones: tuple[float, ...] | None = None
    decay: float | None = None
    l1_weight: float | None = None
    kl_weight: float = option(1e-6, help="Of the divergence of the codes, eq. 8.", least=0)
    kl_reduction: KLReduction = option(
        "mean", help="What its sum is divided by: all values, pictures or pixels."
    )
    dark_channel_weight: float = 1e-6
    tv_weight: float = 1e-6
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in SSID_KD_DEFAULTS[self.stage, self.recipe].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._at_least(0, "l1_weight", "dark_channel_weight", "tv_weight")
        Phase(1, self.patch or 0, self.batch or 0)
        if not (self.learning_rate or 0) > 0 or not (self.decay or 0) > 0:
            raise InputError(
                f"learning_rate {self.learning_rate} and decay {self.decay} must both be above 0."
            )
        if self.stage == 2 and (self.start is None or self.real is None):
            lacks = "start, the weights of stage 1," if self.start is None else "real, pictures in real rain,"
            raise InputError(f"Stage 2 needs {lacks} which the run does not name.")
        if self.stage == 1 and self.real is not None:
            raise InputError("Stage 1 knows no real rain; leave out real, or set stage to 2.")


@dataclass(frozen=True, kw_only=True)
class SemiDerainGanRun(TrainingRun):
    """A run of both processes. Settings and weights are the paper's where it has them.

    patches_per_picture: counted for an epoch; 15 is what a stride of 80 cuts from 481x321 pixels.
    adv_super_weight, per_super_weight, ssim_weight: of eq. 6; pair_weight: of D_p within the first.
    unsup_weight: of eq. 13. adv_unsup_weight, cc_weight, per_unsup_weight, tv_weight: of eq. 9.
    perceptual_layer: of VGG-16, see :mod:`training.perceptual`.
    discriminator_width: maps of the discriminators' first layers.
    mask_start: published raindrop-removal weights to begin the mask learner with. mask_weight: of
        :func:`training.semi_derain_gan.losses.mask_loss`, which the paper does not have; mask_threshold: of it.
    """

    preset: str = option(
        "semi-derain-gan", help="Size of the networks: semi-derain-gan or semi-derain-gan-small."
    )
    real: Path | None = option(None, help="Folder of pictures in real rain, without a truth.")
    epochs: int = option(200, help="Each as many steps as 15 patches a picture fill batches.", least=1)
    patches_per_picture: int = 15
    steps: int | None = option(None, help="Steps in all, instead of epochs.", least=1)
    patch: int = option(100, help=f"Side of the patches in pixels, {SMALLEST_GAN_PATCH} at least.")
    batch: int = option(4, help="Patches of a step, as many again of real rain.", least=1)
    learning_rate: float = option(1e-4, help="Of the supervised process at the beginning.")
    unsupervised_learning_rate: float = option(1e-3, help="Of the unsupervised process at the beginning.")
    adv_super_weight: float = 1.0
    pair_weight: float = 1.0
    per_super_weight: float = 1.0
    ssim_weight: float = 1.0
    unsup_weight: float = 1.0
    adv_unsup_weight: float = 1.5e-5
    cc_weight: float = 10.0
    per_unsup_weight: float = 1.0
    tv_weight: float = 100.0
    vgg16: Path | None = option(
        None,
        help="Weights of VGG-16 with torchvision's names, for the perceptual losses; layers with random weights "
        "without.",
        metavar="FILE",
    )
    perceptual_layer: Layer = "relu2_2"
    discriminator_width: int = 64
    mask_start: Path | None = None
    mask_weight: float = 0.0
    mask_threshold: float = 30 / 255
    ema_decay: float = 0.0

    @staticmethod
    def presets() -> Mapping[str, Any]:
        from ..models.semi_derain_gan import PRESETS

        return PRESETS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real is None:
            raise InputError(
                "The unsupervised process needs real, pictures in real rain, which the run does not name."
            )
        self._at_least(1, "patches_per_picture", "discriminator_width")
        weights = [field.name for field in fields(self) if field.name.endswith("_weight")]
        self._at_least(0, *weights, "mask_threshold")
        self._at_least(SMALLEST_GAN_PATCH, "patch")
        if not self.learning_rate > 0 or not self.unsupervised_learning_rate > 0:
            raise InputError("learning_rate and unsupervised_learning_rate must be above 0.")
        if self.start is not None and self.mask_start is not None:
            raise InputError("start holds a mask learner already; give start or mask_start, not both.")
