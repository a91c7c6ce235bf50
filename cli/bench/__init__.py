"""The verbs of ``bench``: how fast engines, kernels, builds and video are."""

from __future__ import annotations

import typer

from . import builds, cpu, engine, kernels, page, profile, table3, video


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure speed.", no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("engine", epilog=engine.EXAMPLES)(engine.bench_engine)
    group.command("kernels", epilog=kernels.EXAMPLES)(kernels.bench_kernels)
    group.command("builds", epilog=builds.EXAMPLES)(builds.bench_builds)
    group.command("table3", epilog=table3.EXAMPLES)(table3.bench_table3)
    group.command("cpu", epilog=cpu.EXAMPLES)(cpu.bench_cpu)
    group.command("profile", epilog=profile.EXAMPLES)(profile.bench_profile)
    group.command("video", epilog=video.EXAMPLES)(video.bench_video)
    group.command("page", epilog=page.EXAMPLES)(page.bench_page)
    app.add_typer(group, name="bench")
