"""The verb ``bench profile``: the most expensive steps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import progress_bar
from ..terminal import command_line, say_json, show_columns, show_rows, show_table
from ..values import Sides, sized
from .output import AsJson

if TYPE_CHECKING:
    from ...bench.profile import Profile, ProfiledStep

EXAMPLES = """
derain-engine bench profile sid-lite
derain-engine bench profile model.derain --size 1080x1920 --top 20
derain-engine bench profile sid --plan
"""
_SIZE = Sides(512, 512)


def bench_profile(
    engine: Annotated[
        str,
        typer.Argument(
            metavar="ENGINE", help="An engine file of openvino or fused, or the name of shipped weights."
        ),
    ],
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="ENGINE is a model file, shipped weights or a preset: the fused plan it becomes in fp16.",
        ),
    ] = False,
    size: Annotated[Sides | None, sized("Of the frame in pixels.", "512x512")] = None,
    top: Annotated[int, typer.Option(min=1, help="Steps to show.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Frames; times are their medians.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the steps of a frame that cost most.

    Of an OpenVINO engine they are timed by its performance counters. The launches of a fused engine are listed by
    their operations; what they take on a GPU is measured by 'bench kernels'.
    """
    from ...bench import profile
    from ...engine.shipped import find_engine

    if plan:
        found = profile.profile_model(engine, size or _SIZE)
    else:
        with progress_bar() as progress:
            path: Path = find_engine(engine, progress=progress)
            found = profile.profile_engine(path, size or _SIZE, runs=runs, threads=threads, progress=progress)
    if as_json:
        about = {key: value for key, value in asdict(found).items() if key not in ("steps", "ms")}
        about |= {"frame_ms": found.ms, "command": command_line()}
        say_json([{**asdict(step), **about} for step in found.steps[:top]])
    else:
        _show(found, top, profile.by_kind(found.steps))


def _show(found: Profile, top: int, kinds: dict[str, float]) -> None:
    shown = found.steps[:top]
    share = f"{sum(step.share for step in shown):.1%}"
    show_rows(
        [_cells(step) for step in shown],
        summary=[[f"these {len(shown)} of {len(found.steps)}", "", "", share, "", "", ""]],
    )
    show_columns(["All of a kind", "Share"], [[kind, f"{share:.1%}"] for kind, share in kinds.items()])
    facts = [
        ("Engine", found.subject),
        ("Runs in", f"{found.backend} {found.precision}"),
        ("Frame", f"{found.height}x{found.width}"),
        ("Device", found.device),
        ("Threads", found.threads),
        ("Runs", found.runs),
        ("Sum of the steps", None if found.ms is None else f"{found.ms:.1f} ms"),
        ("Command", command_line()),
    ]
    show_table([(name, value) for name, value in facts if value is not None])


def _cells(step: ProfiledStep) -> dict[str, str]:
    return {
        "Step": step.name,
        "Kind": step.kind,
        "ms": "" if step.ms is None else f"{step.ms:.3f}",
        "Share": f"{step.share:.1%}",
        "GFLOP": "" if step.gflop is None else f"{step.gflop:.2f}",
        "MB": "" if step.mb is None else f"{step.mb:.1f}",
        "FLOP/B": "" if not step.gflop or not step.mb else f"{1000 * step.gflop / step.mb:.0f}",
    }
