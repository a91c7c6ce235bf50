"""The verb ``export``: a network in a format for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .progress import progress_bar
from .terminal import file_size, show_table
from .values import ArchitectureName, NetworkOptions, network_options

EXAMPLES = """
derain-engine export model.pt -o model.onnx
derain-engine export sid-lite -o sid-lite.onnx --output clean --output rain
derain-engine export sid-lite -o sid-lite-vs.onnx --for vapoursynth
derain-engine export net_latest.pth -o prenet7.onnx --option stages=7
"""


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file, or the name of shipped weights.")
    ],
    file: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.onnx", help="The ONNX file to write.")],
    outputs: Annotated[
        list[str],
        typer.Option("--output", help="What the network gives: clean, rain or code; may be repeated."),
    ] = ["clean"],  # noqa: B006
    colour_order: Annotated[
        Literal["auto", "rgb", "bgr"],
        typer.Option(help="Channel order of the images that the model was trained on."),
    ] = "auto",
    option: NetworkOptions = None,
    arch: ArchitectureName = None,
    purpose: Annotated[
        Literal["vapoursynth"] | None,
        typer.Option(
            "--for",
            help="Make it ready for a program: vapoursynth for vs-mlrt's filters, with one frame at a time, the names "
            "input and output, and the output clamped to [0, 1].",
        ),
    ] = None,
) -> None:
    """Write a network as one ONNX file, weights inside, for frames of any size.

    Its input 'rainy' and its outputs are RGB in [0, 1], batch x channels x height x width. The file is written
    only if ONNX Runtime gives the reference network's output from it.
    """
    from ..engine.onnx_export import export_model

    options = network_options(option or [])
    with progress_bar() as progress:
        done = export_model(
            model,
            file,
            outputs=outputs,
            colour_order=colour_order,
            options=options,
            arch=arch,
            purpose=purpose,
            progress=progress,
        )
    show_table(
        [
            ("File", done.path),
            ("Size", file_size(done.size)),
            ("Parameters", f"{done.parameters:,}"),
            ("Opset", done.opset),
            ("Input", done.input),
            ("Outputs", ", ".join(done.outputs)),
            (
                "Sides",
                f"multiples of {done.granularity}, at least {max(done.smallest_side, done.granularity)}",
            ),
            ("ONNX Runtime against reference", f"{done.max_abs:.1e} largest error"),
        ]
    )
