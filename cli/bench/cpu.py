"""``bench cpu``: what each step of the CPU path is worth."""

from __future__ import annotations

from typing import Annotated

import typer

from ..progress import progress_bar
from .output import (
    AsCsv,
    AsJson,
    AsMarkdown,
    FrameSizesOption,
    Plots,
    Threads,
    command_line,
    require_one_format,
    show_benchmark,
)

EXAMPLES = """Examples:

\b
derain-engine bench cpu
derain-engine bench cpu --model sid-lite.safetensors --size 512x512 --json > cpu.json
"""
_SIZE = (256, 256)


def bench_cpu(
    model: Annotated[
        str, typer.Option(help="A preset (with random weights), a model file or shipped weights.")
    ] = "sid",
    sizes: FrameSizesOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed frames for each row.")] = 10,
    threads: Threads = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    plots: Plots = None,
) -> None:
    """Time a network in OpenVINO step by step, from its exported graph to the engines of this project.

    Every row adds one step to the one before; the last ones are the engines with other threads and streams. Frames
    are random 8-bit RGB, 256x256 unless told otherwise. Leaves with 4 if an output is not within the bounds around the
    fp32 reference.
    """
    from ...bench.cpu import bench_cpu as measure

    require_one_format(as_json, as_csv, as_markdown)
    with progress_bar() as progress:
        result = measure(
            model,
            sizes=sizes or [_SIZE],
            runs=runs,
            threads=threads,
            command=command_line(),
            progress=progress,
        )
    show_benchmark(result, as_json=as_json, as_csv=as_csv, as_markdown=as_markdown, plots=plots)
