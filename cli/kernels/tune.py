"""``kernels tune``: the fastest way to cut every kernel, found on a GPU."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..progress import progress_bar
from ..tables import show_columns
from ..terminal import note, show_table
from ..values import Sides, frame_size

if TYPE_CHECKING:
    from ...bench.kernels.tune import Tuned

EXAMPLES = """Examples:

\b
derain-engine kernels tune
derain-engine kernels tune --model sid --kernel mffb.stage2 --budget 300
derain-engine kernels tune --model model.pt --shape 1088x1920 --precision bf16 -o tuned.json
"""


def kernels_tune(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model file, or the name of shipped weights or of a preset; may be repeated.",
            show_default="the presets of SSID-KD",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp16", "bf16"], typer.Option(help="Of maps and weights; sums are in fp32.")
    ] = "fp16",
    shape: Annotated[
        Sides | None,
        typer.Option(
            parser=frame_size,
            metavar="HxW",
            help="Of the picture that is tuned for; multiples of 32.",
            show_default="512x512",
        ),
    ] = None,
    kernels: Annotated[
        list[str] | None,
        typer.Option("--kernel", help="Only this one, such as mffb.stage2; may be repeated."),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="After these, no other kernel is begun.")
    ] = 900,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where configurations go; those in it of other GPUs stay.",
            show_default="the package's own",
        ),
    ] = None,
) -> None:
    """Find the fastest configuration of every kernel on this machine's GPU, and write those that gain.

    What is found is written kernel by kernel, so that an interrupted run keeps what it has.
    """
    from ...base.errors import BackendUnavailable
    from ...bench.kernels.rig import unavailable
    from ...kernels.aot.pool import require_compiler

    require_compiler()
    if (reason := unavailable()) is not None:
        raise BackendUnavailable(reason)
    from ...bench.kernels.tune import TuningRequest, tune_here

    with progress_bar() as progress:
        request = TuningRequest(
            models=tuple(models or ()),
            precision=precision,
            shape=shape or (512, 512),
            kernels=tuple(kernels or ()),
            budget=budget,
            output=output,
            command=shlex.join(["derain-engine", *sys.argv[1:]]),
        )
        found = tune_here(request, progress)
    _show(found.results)
    show_table(
        [
            ("GPU", f"{found.run.gpu} ({found.run.target})"),
            ("Precision", found.run.precision),
            ("Picture", f"{found.run.height}x{found.run.width}"),
            ("Driver", f"{found.run.driver}, CUDA {found.run.cuda}"),
            ("Triton", found.run.triton),
            ("Date", found.run.date),
            ("Command", found.run.command),
            ("Written", f"{len(found.run.entries)} to {found.path}" if found.run.entries else "nothing"),
        ]
    )
    for each in found.results:
        for config in each.wrong:
            note(f"{each.key[0]} of {each.key[1]} channels is wrong in {config}, which is left out.")
    if late := sum(each.tried == 1 and not each.failed for each in found.results):
        note(
            f"{late} of {len(found.results)} kernels were not tried for want of time; give a larger --budget."
        )


def _show(results: Sequence[Tuned]) -> None:
    heads = [
        "Kernel",
        "C",
        "Level",
        "A frame",
        "Heuristic ms",
        "Tuned ms",
        "Tried",
        "Failed",
        "Configuration",
    ]
    rows = [
        [
            each.key[0],
            str(each.key[1]),
            str(each.key[2]),
            str(each.launches),
            f"{each.heuristic_ms:.4f}",
            f"{each.tuned_ms:.4f}",
            str(each.tried),
            str(each.failed),
            _described(each),
        ]
        for each in results
    ]
    show_columns(heads, rows)


def _described(result: Tuned) -> str:
    config = result.config
    if config is None:
        return "heuristic"
    tile = f"{config.tile_h}x{config.tile_w}x{config.block_k}"
    return f"{tile}, {config.warps} warps, {config.stages} stages"
