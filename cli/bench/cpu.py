"""The verb ``bench cpu``: what each step of the CPU path is worth."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import with_options
from ..progress import progress_bar
from ..terminal import command_line
from .output import BenchmarkOutput, SizesOption, ThreadsOption

EXAMPLES = """
derain-engine bench cpu
derain-engine bench cpu --model sid-lite.safetensors --size 512x512 --json > cpu.json
"""
_SIZE = (256, 256)


@with_options(output=BenchmarkOutput)
def bench_cpu(
    model: Annotated[
        str, typer.Option(help="A preset (with random weights), a model file or shipped weights.")
    ] = "sid",
    sizes: SizesOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed frames for each row.")] = 10,
    threads: ThreadsOption = None,
    *,
    output: BenchmarkOutput,
) -> None:
    """Time a network in OpenVINO step by step, from its exported graph to the engines of this project.

    Every row adds one step to the one before; the last ones are the engines with other threads and streams. Frames
    are random 8-bit RGB, 256x256 unless told otherwise. Leaves with 4 if an output is not within the bounds around the
    fp32 reference.
    """
    from ...bench.cpu import bench_cpu as measure

    with progress_bar() as progress:
        result = measure(
            model,
            sizes=sizes or [_SIZE],
            runs=runs,
            threads=threads,
            command=command_line(),
            progress=progress,
        )
    output.show(result)
