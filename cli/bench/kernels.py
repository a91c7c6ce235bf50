"""``bench kernels``: how fast, kernel by kernel."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..progress import progress_bar
from ..tables import show_columns
from ..terminal import note, say, show_table
from ..values import Sides, frame_size

if TYPE_CHECKING:
    from ...bench.kernels.launches import LaunchRow, LaunchTimes, Times

EXAMPLES = """Examples:

\b
derain-engine bench kernels
derain-engine bench kernels --model sid --shape 1024x1024 --json > kernels.json
derain-engine bench kernels --kernel mffb.stage2 --runs 100
derain-engine bench kernels --device cpu --threads 1
"""


def bench_kernels(
    device: Annotated[
        Literal["gpu", "cpu"] | None,
        typer.Option(help="What to measure on.", show_default="the GPU where there is one"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="GPU: a model file, shipped weights or a preset.", show_default="sid")
    ] = None,
    shape: Annotated[
        Sides | None,
        typer.Option(
            parser=frame_size,
            metavar="HxW",
            help="GPU: of the picture, multiples of 32.",
            show_default="512x512",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp16", "bf16"] | None,
        typer.Option(help="GPU: of maps and weights; sums are in fp32.", show_default="fp16"),
    ] = None,
    kernels: Annotated[
        list[str] | None,
        typer.Option("--kernel", help="GPU: only this one, such as mffb.stage2; may be repeated."),
    ] = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="GPU: leave torch.compile out, which takes minutes.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU: threads.", show_default="all cores")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a row.")] = False,
) -> None:
    """Time the kernels of a network on the GPU against PyTorch and torch.compile; without a GPU, the separable dark
    channel against nn.MaxPool3d on the CPU, forward and backward.

    Results are compared as well. Leaves with 4 if they differ.
    """
    from ...base.errors import BackendUnavailable, InputError

    try:
        from ...bench.kernels import rig

        reason = rig.unavailable()
    except ImportError as error:
        raise BackendUnavailable(
            f"Measuring kernels needs {error.name}, which is not installed: pip install 'derain-engine[train]'."
        ) from error
    only_gpu = [model, shape, precision, kernels, no_compile]
    if device is None:
        device = "cpu" if reason is not None and not any(only_gpu) else "gpu"
    if device == "cpu":
        if any(only_gpu):
            raise InputError("On a CPU the dark channel is measured; only --threads and --runs apply to it.")
        _bench_cpu(runs, threads, as_json)
        return
    if reason is not None:
        raise BackendUnavailable(reason)
    if threads is not None:
        raise InputError("--threads is for a CPU; give --device cpu as well, or leave it out.")
    _bench_gpu(
        model or "sid", shape or (512, 512), precision or "fp16", kernels or [], not no_compile, runs, as_json
    )


def _bench_cpu(runs: int, threads: int | None, as_json: bool) -> None:
    import torch

    from ...base.errors import VerificationError
    from ...bench.kernels.dark_channel import measure
    from ...engine import environment

    with progress_bar() as progress:
        rows = measure(runs=runs, threads=threads, progress=progress)
    about = {"device": environment.cpu()["model"], "torch": torch.__version__, **_run()}
    if as_json:
        say(json.dumps([{**asdict(row), **about} for row in rows], allow_nan=False))
    else:
        heads = "Dark channel|Picture|P|Threads|Median ms|p5 ms|p95 ms|Speed-up|Verified"
        show_columns(
            heads.split("|"),
            [
                [
                    row.name,
                    f"{row.height}x{row.width}",
                    str(row.window),
                    str(row.threads),
                    *(f"{ms:.2f}" for ms in (row.median_ms, row.p5_ms, row.p95_ms)),
                    f"{row.speedup:.1f}x",
                    {None: "", True: "equal", False: "NO"}[row.verified],
                ]
                for row in rows
            ],
        )
        show_table(
            [
                ("Device", about["device"]),
                ("PyTorch", about["torch"]),
                ("Runs", runs),
                ("Date", about["date"]),
                ("Command", about["command"]),
            ]
        )
    if any(row.verified is False for row in rows):
        raise VerificationError("The separable dark channel differs from nn.MaxPool3d.")


def _bench_gpu(
    model: str,
    shape: tuple[int, int],
    precision: Literal["fp16", "bf16"],
    kernels: list[str],
    compiled: bool,
    runs: int,
    as_json: bool,
) -> None:
    from ...base.errors import VerificationError
    from ...bench.kernels.launches import measure_here

    with progress_bar() as progress:
        result, facts = measure_here(
            model, shape, precision, kernels=kernels, compiled=compiled, runs=runs, progress=progress
        )
    about = {
        "model": model,
        "picture": "{}x{}".format(*shape),
        "precision": precision,
        **facts,
        **_run(),
        "runs": result.runs,
    }
    if as_json:
        frame = {
            "ceilings": asdict(result.ceilings),
            "sum_ms": {name: result.sum_ms(name) for name in ("kernel_ms", "eager_ms", "compiled_ms")},
            "frame_ms": result.frame_ms and asdict(result.frame_ms),
            "compile_failed": result.failed,
        }
        say(json.dumps([{**asdict(row), **frame, **about} for row in result.rows], allow_nan=False))
    else:
        _show(result, about)
    if result.failed:
        note(f"torch.compile failed and was left out: {result.failed}")
    wrong = [f"{row.kernel} ({row.step})" for row in result.rows if not row.verified]
    if wrong:
        raise VerificationError(f"Further from PyTorch than its own rounding: {', '.join(wrong[:5])}.")


def _run() -> dict[str, str]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["derain-engine", *sys.argv[1:]]),
    }


def _show(result: LaunchTimes, about: dict[str, Any]) -> None:
    heads = "Kernel|C|Map|A frame|Median ms|p5 ms|p95 ms|Eager ms|Compiled ms|TFLOP/s|of matmul|GB/s|of copy|Verified"
    show_columns(heads.split("|"), [_cells(row) for row in result.rows])
    ceilings = result.ceilings
    sums = [(name, result.sum_ms(field)) for name, field in _SUMS]
    facts = [(f"{name}, launches of a frame", f"{total:.3f} ms") for name, total in sums if total is not None]
    if result.frame_ms is not None:
        facts.append(("The same in one CUDA graph, one stream", f"{result.frame_ms.median_ms:.3f} ms"))
    facts.append(("Ceiling of a copy", f"{ceilings.copy_gb_s:.0f} GB/s"))
    facts.append(
        (f"Ceiling of a matrix product in {ceilings.precision}", f"{ceilings.matmul_tflop_s:.0f} TFLOP/s")
    )
    show_table([*facts, *((name.capitalize(), value) for name, value in about.items())])


_SUMS = (("derain-engine", "kernel_ms"), ("PyTorch eager", "eager_ms"), ("torch.compile", "compiled_ms"))


def _cells(row: LaunchRow) -> list[str]:
    def median(times: Times | None) -> str:
        return "" if times is None else f"{times.median_ms:.4f}"

    return [
        row.kernel,
        str(row.channels),
        f"{row.height}x{row.width}",
        str(row.launches),
        median(row.kernel_ms),
        f"{row.kernel_ms.p5_ms:.4f}",
        f"{row.kernel_ms.p95_ms:.4f}",
        median(row.eager_ms),
        median(row.compiled_ms),
        f"{row.tflop_s:.1f}",
        f"{row.of_matmul:.1%}",
        f"{row.gb_s:.0f}",
        f"{row.of_copy:.1%}",
        "yes" if row.verified else "NO",
    ]
