"""``bench``: how fast."""

from __future__ import annotations

from typing import Annotated

import typer

from ..progress import progress_bar
from ..values import Trust
from .builds import EXAMPLES as BUILDS_EXAMPLES
from .builds import bench_builds
from .cpu import EXAMPLES as CPU_EXAMPLES
from .cpu import bench_cpu
from .kernels import EXAMPLES, bench_kernels
from .output import (
    AsCsv,
    AsJson,
    AsMarkdown,
    FrameSizesOption,
    Onnx,
    Plots,
    Threads,
    command_line,
    onnx_files,
    require_one_format,
    show_benchmark,
)
from .page import EXAMPLES as PAGE_EXAMPLES
from .page import bench_page
from .profile import EXAMPLES as PROFILE_EXAMPLES
from .profile import bench_profile
from .table3 import EXAMPLES as TABLE3_EXAMPLES
from .table3 import bench_table3
from .video import EXAMPLES as VIDEO_EXAMPLES
from .video import bench_video

_EXAMPLES = """Examples:

\b
derain-engine bench engine sid-lite --compare
derain-engine bench engine a.derain b.derain --size 512x512 --size 1080x1920 --runs 50
derain-engine bench engine model.derain --model model.pt --json > speed.json
derain-engine bench engine sid-lite --onnx PReNet=prenet.onnx --plots plots/
"""


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure speed.", no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("engine", epilog=_EXAMPLES)(_bench_engine)
    group.command("kernels", epilog=EXAMPLES)(bench_kernels)
    group.command("builds", epilog=BUILDS_EXAMPLES)(bench_builds)
    group.command("table3", epilog=TABLE3_EXAMPLES)(bench_table3)
    group.command("cpu", epilog=CPU_EXAMPLES)(bench_cpu)
    group.command("profile", epilog=PROFILE_EXAMPLES)(bench_profile)
    group.command("video", epilog=VIDEO_EXAMPLES)(bench_video)
    group.command("page", epilog=PAGE_EXAMPLES)(bench_page)
    app.add_typer(group, name="bench")


def _bench_engine(
    engines: Annotated[
        list[str], typer.Argument(metavar="ENGINE", help="Engine files, or names of shipped weights.")
    ],
    sizes: FrameSizesOption = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed frames for each engine and size.")] = 30,
    threads: Threads = None,
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
    onnx: Onnx = None,
    no_starts: Annotated[
        bool,
        typer.Option(
            "--no-starts", help="Leave out starts and memory, which take two processes for each engine."
        ),
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_markdown: AsMarkdown = False,
    plots: Plots = None,
    trust: Trust = None,
) -> None:
    """Time engines frame by frame and as a stream, all taking turns, and verify what they give.

    Frames are random 8-bit RGB, 512x512 unless told otherwise. A start is that of a new Python process to its first
    clean frame, cold or with the cache that the cold one left; memory is that of the cold one. Leaves with 4 if an
    output is not within the bounds around the fp32 reference.
    """
    from ...bench.engine import bench_engines

    require_one_format(as_json, as_csv, as_markdown)
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
    show_benchmark(result, as_json=as_json, as_csv=as_csv, as_markdown=as_markdown, plots=plots)
