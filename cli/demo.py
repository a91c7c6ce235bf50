"""``make demo``: an engine file, a rainy photograph, and what the engine makes of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import BackendUnavailable
from .app import answer
from .progress import progress_bar
from .terminal import say

_MODEL = "sid-lite"
_SEED = 3


def _demo(
    out: Annotated[Path, typer.Option(help="Folder for the files; made where it is missing.")] = Path(
        "demo-out"
    ),
) -> None:
    """Build the shipped engine, and take synthetic rain out of a photograph with it."""
    from ..engine.build import build
    from ..engine.metrics import psnr
    from ..engine.runtime import load
    from ..media.pictures.clean import clean_pictures
    from ..media.pictures.images import Picture, read_picture, side_by_side, write_picture
    from ..media.pictures.jobs import Job

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    engine_file = out / f"{_MODEL}.derain"
    with progress_bar() as progress:
        built = build(_MODEL, engine_file, progress=progress)
    say(
        f"{engine_file}: {built.parameters:,} parameters for {built.manifest.backend} in "
        f"{built.manifest.precision}, built and compared with its reference in {built.seconds:.1f} s"
    )

    photo, rainy = _photograph_in_rain()
    rainy_file, clean_file = out / "rainy.png", out / "clean.png"
    write_picture(rainy_file, Picture(rainy))
    say(f"{rainy_file}: a photograph (CC0, from scikit-image) under synthetic rain")

    with load(engine_file) as engine:
        for failure in clean_pictures(engine, [Job(rainy_file, clean_file)]):
            raise failure.error
        warm = time.perf_counter()
        engine(rainy)
        warm = time.perf_counter() - warm
    clean = read_picture(clean_file)
    before, after = (psnr(photo / 255, pixels / 255) for pixels in (rainy, clean.pixels))
    say(
        f"{clean_file}: the rain taken out, {1000 * warm:.0f} ms for {rainy.shape[1]}x{rainy.shape[0]} pixels; "
        f"PSNR {before:.1f} dB before, {after:.1f} dB after"
    )
    both = out / "before-after.png"
    write_picture(both, side_by_side(Picture(rainy), clean))
    say(f"{both}: the two side by side")
    say(f"Done in {time.monotonic() - started:.1f} s.")


def _photograph_in_rain():
    """Return (dry, rainy): uint8 RGB pictures, the same at every run."""
    import numpy as np

    from ..engine.frames import quantise
    from ..samples.rain import add_rain, sample_rain

    try:
        from skimage import data
    except ImportError as error:
        raise BackendUnavailable(
            "The demonstration needs scikit-image; install it with: pip install 'derain-engine[build]'"
        ) from error
    rng = np.random.default_rng(_SEED)
    rainy, photo = add_rain(data.chelsea().astype(np.float32) / 255, sample_rain("heavy", rng), rng)
    return quantise(photo, np.uint8), quantise(rainy, np.uint8)


def _main() -> int:
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command()(_demo)
    return answer(app, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_main())
