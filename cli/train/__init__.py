"""The verb ``train``: weights from photographs, one verb a recipe, with the options of the recipe's runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from ...training.options import SemiDerainGanRun, SidRun, SsidKdRun
from ..verbs import add_group, add_verb
from .run import training_verb

_SID_EXAMPLES = """
derain-engine train sid --photos photos/ -o runs/lite
derain-engine train sid --photos photos/ -o runs/lite --resume
derain-engine train sid --photos photos/ -o runs/finer --from sid-lite \\
    --learning-rate 2e-4 --phase 4000:128:8
derain-engine train sid --photos photos/ -o runs/distilled --teacher runs/sid/best.safetensors
derain-engine train sid --photos bsds500/ --exclude overlap.csv -o runs/sid --preset sid \\
    --phase 20000:64:16 --phase 10000:128:16 --device cuda --workers 12 --stop-after 420
torchrun --nproc-per-node 2 --no-python derain-engine train sid --photos photos/ -o runs/two
"""

_SSID_KD_EXAMPLES = """
derain-engine train ssid-kd --pairs Rain200H/train -o runs/teacher
derain-engine train ssid-kd --stage 2 --pairs Rain200H/train --real real/ \\
    --from runs/teacher/final.safetensors -o runs/student
derain-engine train ssid-kd --config run.toml
derain-engine train ssid-kd --config run.toml --kl-reduction pixel --kl-weight 1 -o runs/rescaled
derain-engine train ssid-kd --config runs/rescaled/run.toml --resume
"""

_SEMI_DERAIN_GAN_EXAMPLES = """
derain-engine train semi-derain-gan --pairs Rain100L/train --real real/ -o runs/gan
derain-engine train semi-derain-gan --pairs Rain100L/train --real real/ -o runs/gan --vgg16 vgg16.pth
derain-engine train semi-derain-gan --config run.toml
derain-engine train semi-derain-gan --config run.toml --resume --stop-after 420
derain-engine build runs/gan/best.safetensors -o gan.derain --option domain=synthetic
"""


def register(app: typer.Typer) -> None:
    group = add_group(app, "train", "Train a network by one of the recipes.")
    add_verb(group, "sid", _sid, _SID_EXAMPLES)
    add_verb(group, "ssid-kd", _ssid_kd, _SSID_KD_EXAMPLES)
    add_verb(group, "semi-derain-gan", _semi_derain_gan, _SEMI_DERAIN_GAN_EXAMPLES)


@training_verb(SidRun)
def _sid() -> Callable[..., Any]:
    """Train a SID network on clean photographs under synthetic rain, or on pairs.

    The best weights by PSNR on held-out pictures are kept as best.safetensors, which build and eval take.
    """
    from ...training.sid import train_sid

    return train_sid


@training_verb(SsidKdRun)
def _ssid_kd() -> Callable[..., Any]:
    """Train by the two stages of the SSID-KD paper, one stage a run."""
    from ...training.ssid_kd import train_ssid_kd

    return train_ssid_kd


@training_verb(SemiDerainGanRun)
def _semi_derain_gan() -> Callable[..., Any]:
    """Train Semi-DerainGAN's networks on pairs (or photographs under synthetic rain) and on real rain at once.

    The weights hold a network for each domain: build, and eval of the weights' file, take the one for real rain unless
    they are told --option domain=synthetic.
    """
    from ...training.semi_derain_gan.recipe import train_semi_derain_gan

    return train_semi_derain_gan
