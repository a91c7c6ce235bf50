"""The verb ``bench engine``: how fast engine files are."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import with_options
from ..progress import progress_bar
from ..terminal import command_line
from ..values import Trust
from .output import BenchmarkOutput, OnnxOption, SizesOption, ThreadsOption, onnx_files

EXAMPLES = """
derain-engine bench engine sid-lite --compare
derain-engine bench engine a.derain b.derain --size 512x512 --size 1080x1920 --runs 50
derain-engine bench engine model.derain --model model.pt --json > speed.json
derain-engine bench engine sid-lite --onnx PReNet=prenet.onnx --plots plots/
"""


@with_options(output=BenchmarkOutput)
def bench_engine(
    engines: Annotated[
        list[str], typer.Argument(metavar="ENGINE", help="Engine files, or names of shipped weights.")
    ],
    sizes: SizesOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed frames for each engine and size.")] = 30,
    threads: ThreadsOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What the engines were built from, to verify their output.",
            show_default="the shipped weights of that name and hash",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also run the model in PyTorch eager and ONNX Runtime, in fp32.")
    ] = False,
    onnx: OnnxOption = None,
    no_starts: Annotated[
        bool,
        typer.Option(
            "--no-starts", help="Leave out starts and memory, which take two processes for each engine."
        ),
    ] = False,
    *,
    output: BenchmarkOutput,
    trust: Trust = None,
) -> None:
    """Time engines frame by frame and as a stream, all taking turns, and verify what they give.

    Frames are random 8-bit RGB, 512x512 unless told otherwise. A start is that of a new Python process to its first
    clean frame, cold or with the cache that the cold one left; memory is that of the cold one. Leaves with 4 if an
    output is not within the bounds around the fp32 reference.
    """
    from ...bench.engine import bench_engines

    others = onnx_files(onnx)
    with progress_bar() as progress:
        result = bench_engines(
            engines,
            sizes=sizes or [(512, 512)],
            runs=runs,
            threads=threads,
            model=model,
            compare=compare,
            onnx=others,
            starts=not no_starts,
            trust=trust or (),
            command=command_line(),
            progress=progress,
        )
    output.show(result)
