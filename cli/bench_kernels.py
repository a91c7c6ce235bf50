"""``bench kernels``: how fast, kernel by kernel."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated

import typer

from .progress import progress_bar
from .tables import show_columns
from .terminal import say, show_table

EXAMPLES = """Examples:

\b
derain-engine bench kernels
derain-engine bench kernels --runs 100 --threads 1 --json > kernels.json
"""


def bench_kernels(
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 30,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a row.")] = False,
) -> None:
    """Time the separable dark channel against nn.MaxPool3d on the CPU, forward and backward, and compare both.

    Leaves with 4 if values or gradients differ.
    """
    from ..engine import environment
    from ..engine.errors import BackendUnavailable, VerificationError

    try:
        import torch

        from ..bench.kernels.dark_channel import measure
    except ImportError as error:
        raise BackendUnavailable(
            f"Measuring kernels needs {error.name}, which is not installed: pip install 'derain-engine[train]'."
        ) from error
    with progress_bar() as progress:
        rows = measure(runs=runs, threads=threads, progress=progress)
    facts = environment.cpu()
    about = {
        "device": facts["model"],
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["derain-engine", *sys.argv[1:]]),
    }
    if as_json:
        say(json.dumps([{**asdict(row), **about} for row in rows], allow_nan=False))
    else:
        heads = [
            "Dark channel",
            "Picture",
            "P",
            "Threads",
            "Median ms",
            "p5 ms",
            "p95 ms",
            "Speed-up",
            "Verified",
        ]
        show_columns(
            heads,
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
