"""The verb ``bench table3``: the paper's tables of speed and size, and the same network here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..options import with_options
from ..progress import progress_bar
from ..terminal import command_line, note, say, say_json, show_columns
from .output import BenchmarkOutput, OnnxOption, SizesOption, ThreadsOption, onnx_files

EXAMPLES = """
derain-engine bench table3 --quick --plots plots/
derain-engine bench table3 --model model.pt --size 512x512 --runs 20
derain-engine bench table3 --onnx PReNet=prenet.onnx --json > table3.json
derain-engine bench table3 --quick --peer prenet --peer nledn
derain-engine bench table3 --published
"""

#: Of --quick: a size that Table III's are whole multiples of and that two cores finish in minutes.
_QUICK_SIZE, _QUICK_RUNS = (128, 128), 4


@with_options(output=BenchmarkOutput)
def bench_table3(
    model: Annotated[
        str, typer.Option(help="A preset (with random weights), a model file or shipped weights.")
    ] = "sid",
    sizes: SizesOption = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Timed frames for each row.", show_default="10")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="128x128, 4 frames a row, no torch.compile and no int8."),
    ] = False,
    threads: ThreadsOption = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave torch.compile out, which compiles for minutes.")
    ] = False,
    onnx: OnnxOption = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="MODEL",
            help="Another network to time in the same run: a preset such as prenet, or a model file; may be repeated.",
        ),
    ] = None,
    starts: Annotated[
        bool, typer.Option("--starts", help="Also cold and warm starts and memory, in two processes a row.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Show the paper's tables alone; measure nothing.")
    ] = False,
    *,
    output: BenchmarkOutput,
) -> None:
    """Show Tables III and IV of the SSID-KD paper, and time its network on this machine in every way that it runs.

    Rows are PyTorch eager and torch.compile in fp32 and 16 bits, ONNX Runtime in fp32, and every backend and precision
    of this machine, all taking turns and verified, at 512x512 and 1024x1024 unless told otherwise. --json, --csv and
    --markdown are of these rows. Leaves with 4 if an output is not within the bounds around the fp32 reference.
    """
    others = onnx_files(onnx)
    if published:
        _show_published(output.as_json)
        return
    from ...bench.published import SIZES
    from ...bench.table3 import bench_table3 as measure

    with progress_bar() as progress:
        result = measure(
            model,
            sizes=sizes or ([_QUICK_SIZE] if quick else SIZES),
            runs=runs or (_QUICK_RUNS if quick else 10),
            threads=threads,
            compiled=not (no_compile or quick),
            quantised=not quick,
            onnx=others,
            peers=peers or (),
            starts=starts,
            command=command_line(),
            progress=progress,
        )
    for name, reason in result.left_out:
        note(f"Left out: {name}. {reason}")
    if output.is_table:
        _show_published(False)
    output.show(result.benchmark)


def _show_published(as_json: bool) -> None:
    from ...bench import published, results

    if as_json:
        say_json(
            [
                {**asdict(each), "macs_per_pixel": each.macs_per_pixel, "source": published.SOURCE}
                for each in published.TABLE
            ]
        )
        return
    show_columns(*results.as_columns(published.cells()))
    for line in published.notes():
        say(line)
    say()
