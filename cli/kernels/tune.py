"""``kernels tune``: the fastest way to cut every kernel, found on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import progress_bar
from ..terminal import command_line, note, show_rows, show_table
from ..values import KernelModels, KernelPrecision, Sides, sized

if TYPE_CHECKING:
    from ...bench.kernels.tune import Tuned

EXAMPLES = """
derain-engine kernels tune
derain-engine kernels tune --model sid --kernel mffb.stage2 --budget 300
derain-engine kernels tune --model model.pt --shape 1088x1920 --precision bf16 -o tuned.json
"""


def kernels_tune(
    models: KernelModels = None,
    precision: KernelPrecision = "fp16",
    shape: Annotated[
        Sides | None, sized("Of the picture that is tuned for; multiples of 32.", "512x512")
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
            command=command_line(),
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
    rows = [
        {
            "Kernel": each.key[0],
            "C": str(each.key[1]),
            "Level": str(each.key[2]),
            "A frame": str(each.launches),
            "Heuristic ms": f"{each.heuristic_ms:.4f}",
            "Tuned ms": f"{each.tuned_ms:.4f}",
            "Tried": str(each.tried),
            "Failed": str(each.failed),
            "Configuration": _described(each),
        }
        for each in results
    ]
    show_rows(rows)


def _described(result: Tuned) -> str:
    config = result.config
    if config is None:
        return "heuristic"
    tile = f"{config.tile_h}x{config.tile_w}x{config.block_k}"
    return f"{tile}, {config.warps} warps, {config.stages} stages"
