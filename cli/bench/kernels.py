"""``bench kernels``: how fast, kernel by kernel."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..progress import progress_bar
from ..terminal import command_line, note, say_json, show_rows, show_table
from ..values import Sides, sized
from .output import AsJson

if TYPE_CHECKING:
    from ...bench.kernels.launches import LaunchRow, LaunchTimes

EXAMPLES = """
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
    shape: Annotated[Sides | None, sized("GPU: of the picture, multiples of 32.", "512x512")] = None,
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
    as_json: AsJson = False,
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
        say_json([{**asdict(row), **about} for row in rows])
    else:
        cells = [
            {
                "Dark channel": row.name,
                "Picture": f"{row.height}x{row.width}",
                "P": str(row.window),
                "Threads": str(row.threads),
                "Median ms": f"{row.median_ms:.2f}",
                "p5 ms": f"{row.p5_ms:.2f}",
                "p95 ms": f"{row.p95_ms:.2f}",
                "Speed-up": f"{row.speedup:.1f}x",
                "Verified": {None: "", True: "equal", False: "NO"}[row.verified],
            }
            for row in rows
        ]
        show_rows(cells)
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
        say_json([{**asdict(row), **frame, **about} for row in result.rows])
    else:
        _show(result, about)
    if result.failed:
        note(f"torch.compile failed and was left out: {result.failed}")
    wrong = [f"{row.kernel} ({row.step})" for row in result.rows if not row.verified]
    if wrong:
        raise VerificationError(f"Further from PyTorch than its own rounding: {', '.join(wrong[:5])}.")


def _run() -> dict[str, str]:
    from ...bench.results import now

    return {"date": now(), "command": command_line()}


def _show(result: LaunchTimes, about: dict[str, Any]) -> None:
    show_rows([_cells(row) for row in result.rows])
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


def _cells(row: LaunchRow) -> dict[str, str]:
    return {
        "Kernel": row.kernel,
        "C": str(row.channels),
        "Map": f"{row.height}x{row.width}",
        "A frame": str(row.launches),
        "Median ms": f"{row.kernel_ms.median_ms:.4f}",
        "p5 ms": f"{row.kernel_ms.p5_ms:.4f}",
        "p95 ms": f"{row.kernel_ms.p95_ms:.4f}",
        "Eager ms": f"{row.eager_ms.median_ms:.4f}",
        "Compiled ms": "" if row.compiled_ms is None else f"{row.compiled_ms.median_ms:.4f}",
        "TFLOP/s": f"{row.tflop_s:.1f}",
        "of matmul": f"{row.of_matmul:.1%}",
        "GB/s": f"{row.gb_s:.0f}",
        "of copy": f"{row.of_copy:.1%}",
        "Verified": "yes" if row.verified else "NO",
    }
