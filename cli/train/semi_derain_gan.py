"""``train semi-derain-gan``: the second network family, on pairs and real rain at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Accumulate,
    Compile,
    Config,
    Device,
    Exclude,
    Out,
    Pairs,
    Photos,
    Precision,
    Resume,
    SamplesEvery,
    Seed,
    Start,
    StopAfter,
    Threads,
    ValidateEvery,
    ValidationPhotos,
    Workers,
)
from .run import require_training, run_training

EXAMPLES = """Examples:

\b
derain-engine train semi-derain-gan --pairs Rain100L/train --real real/ -o runs/gan
derain-engine train semi-derain-gan --pairs Rain100L/train --real real/ -o runs/gan --vgg16 vgg16.pth
derain-engine train semi-derain-gan --config run.toml
derain-engine train semi-derain-gan --config run.toml --resume --stop-after 420
derain-engine build runs/gan/best.safetensors -o gan.derain --option domain=synthetic
"""


def train_semi_derain_gan(
    config: Config = None,
    pairs: Pairs = None,
    photos: Photos = None,
    real: Annotated[
        Path | None, typer.Option(help="Folder of pictures in real rain, without a truth.")
    ] = None,
    output: Out = None,
    exclude: Exclude = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size of the networks: semi-derain-gan or semi-derain-gan-small.",
            show_default="semi-derain-gan",
        ),
    ] = None,
    start: Start = None,
    vgg16: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights of VGG-16 with torchvision's names, for the perceptual losses; layers with random weights "
            "without.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Each as many steps as 15 patches a picture fill batches.", show_default="200"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all, instead of epochs.")] = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of the patches in pixels, 61 at least.", show_default="100")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Patches of a step, as many again of real rain.", show_default="4"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the supervised process at the beginning.", show_default="0.0001")
    ] = None,
    unsupervised_learning_rate: Annotated[
        float | None, typer.Option(help="Of the unsupervised process at the beginning.", show_default="0.001")
    ] = None,
    accumulate: Accumulate = None,
    validation_photos: ValidationPhotos = None,
    validate_every: ValidateEvery = None,
    samples_every: SamplesEvery = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    compile: Compile = False,
    workers: Workers = None,
    threads: Threads = None,
    resume: Resume = False,
    stop_after: StopAfter = None,
) -> None:
    """Train Semi-DerainGAN's networks on pairs (or photographs under synthetic rain) and on real rain at once.

    The weights hold a network for each domain: build, and eval of the weights' file, take the one for real rain unless
    they are told --option domain=synthetic.
    """
    given = locals()
    require_training()
    from ...training.semi_derain_gan.recipe import SemiDerainGanRun, train_semi_derain_gan

    run_training(SemiDerainGanRun, train_semi_derain_gan, given)
