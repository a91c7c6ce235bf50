"""The verbs of ``kernels``: the GPU kernels, prepared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import progress_bar
from ..terminal import file_size, say_json, show_rows, show_table
from ..values import KernelModels, KernelPrecision
from ..verbs import add_group, add_verb
from .tune import EXAMPLES, kernels_tune

if TYPE_CHECKING:
    from ...kernels.aot import Compiled
    from ...kernels.launch import Call, Configure

_EXAMPLES = """
derain-engine kernels compile --gpu all
derain-engine kernels compile --model model.pt --gpu sm_80,sm_90 -o cubins
derain-engine kernels compile --gpu sm_89 --precision bf16 --json > kernels.json
"""

#: Constants that follow from others.
_DERIVED = {"N0", "N1", "O0", "O1", "K", "ROWS", "BLOCK_M", "TILE_H", "TILE_W", "BLOCK_K"}
#: Of the kernels at fault, so many are named.
_NAMED = 3


def register(app: typer.Typer) -> None:
    group = add_group(app, "kernels", "Prepare the GPU kernels.")
    add_verb(group, "compile", _compile, _EXAMPLES)
    add_verb(group, "tune", kernels_tune, EXAMPLES)


def _compile(
    models: KernelModels = None,
    gpu: Annotated[
        str, typer.Option(metavar="all|current|LIST", help="The GPUs, such as sm_80,sm_90.")
    ] = "all",
    precision: KernelPrecision = "fp16",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Compilers at a time.", show_default="one for every CPU")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Also write the cubins and kernels.json here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a kernel and GPU.")] = False,
) -> None:
    """Compile every kernel that the networks need, without a GPU, and show what became of it.

    Kernels are cut as was measured on a GPU of that kind, or as the heuristic cuts them where nothing was.
    Leaves with 1 if a kernel spills registers, needs more shared memory than the GPU has, or multiplies matrices
    without the GPU's matrix units.
    """
    from ...base.errors import BuildError
    from ...bench.contestants import find_networks
    from ...device import driver
    from ...kernels.aot import make_folder, parse_targets, picture_calls, video_calls, write_cubins
    from ...kernels.aot.pool import compile_calls, require_compiler
    from ...kernels.tuned import configure_for
    from ...plan import lower

    require_compiler()
    here = driver.gpu(0) if gpu == "current" else None
    targets = parse_targets(gpu, here and here.target)
    if output is not None:
        make_folder(output)
    cuts: dict[Configure, list[str]] = {}
    for target in targets:
        cuts.setdefault(configure_for(target, here and here.name, precision), []).append(target)
    kernels: list[Compiled] = []
    with progress_bar() as progress:
        networks = find_networks(models or [])
        for configure, alike in cuts.items():
            plans = [lower(network, precision, configure=configure) for network in networks]
            calls = [*(call for plan in plans for call in plan.calls()), *picture_calls(), *video_calls()]
            kernels += compile_calls(calls, precision, alike, jobs=jobs, progress=progress)
    kernels.sort(key=lambda kernel: targets.index(kernel.target))
    if output is not None:
        write_cubins(kernels, output)
    if as_json:
        say_json([kernel.to_json() for kernel in kernels])
    else:
        _show(kernels, precision)
    faults = [
        f"{_described(kernel.call)} on {kernel.target} {fault}"
        for kernel in kernels
        for fault in kernel.faults()
    ]
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise BuildError(f"Not as they should be: {'; '.join(faults[:_NAMED])}{more}.")


def _show(kernels: Sequence[Compiled], precision: str) -> None:
    rows = [
        {
            "Kernel": _described(kernel.call),
            "GPU": kernel.target,
            "Warps": str(kernel.warps),
            "Registers": str(kernel.registers),
            "Shared bytes": str(kernel.shared),
            "Spilled bytes": str(kernel.spilled),
            "Matrix instructions": ", ".join(f"{count} {name}" for name, count in kernel.matrix.items())
            or "none",
        }
        for kernel in kernels
    ]
    show_rows(rows)
    show_table(
        [
            ("Kernels", len(kernels)),
            ("Precision", precision),
            ("Cubins", file_size(sum(len(kernel.cubin) for kernel in kernels))),
            ("Triton", kernels[0].triton),
        ]
    )


def _described(call: Call) -> str:
    """Return a call on one line, without the constants that follow from others."""
    words = [call.kernel]
    for name, value in call.constants.items():
        if name not in _DERIVED and value is not False:
            words.append(name if value is True else f"{name}={value}")
    config = call.config
    return " ".join([*words, f"tile={config.tile_h}x{config.tile_w}x{config.block_k}"])
