"""Pictures of a benchmark, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.errors import BackendUnavailable
from ..base.files import atomic_write
from .results import Benchmark, EngineTiming

#: Inches, and dots an inch.
_SIZE, _DPI = (8.0, 4.5), 120
#: No clock and no version in the file, so that the same figures give the same bytes.
_METADATA = {"Software": None}


def plot_all(benchmark: Benchmark, folder: Path, before: str = "") -> dict[str, Path]:
    """Draw every plot that says something in an existing folder, ``before`` at the front of their names.

    Returns:
        Titles and files.

    Raises:
        BackendUnavailable: matplotlib is not installed. InputError, OSError: a file cannot be written.
    """
    plots = {"Speed-up by backend": folder / f"{before}speed-up.png"}
    plot_speed_up(benchmark, plots["Speed-up by backend"])
    if len(benchmark.sizes()) > 1:
        plots["Latency by size"] = folder / f"{before}latency.png"
        plot_latency(benchmark, plots["Latency by size"])
    roofline = folder / f"{before}roofline.png"
    if plot_roofline(benchmark, roofline):
        plots["Roofline"] = roofline
    return plots


def plot_latency(benchmark: Benchmark, path: Path) -> None:
    """Draw median latency over megapixels, a line for each contestant, both axes logarithmic.

    Raises:
        BackendUnavailable: matplotlib is not installed. OSError: the file cannot be written.
    """
    figure, axes = _figure()
    lines: dict[str, list[EngineTiming]] = {}
    for row in benchmark.rows:
        lines.setdefault(label(row), []).append(row)
    for name, rows in lines.items():
        rows = sorted(rows, key=lambda row: row.height * row.width)
        axes.plot(
            [row.height * row.width / 1e6 for row in rows],
            [row.median_ms for row in rows],
            marker="o",
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="Megapixels", ylabel="Median ms a frame")
    _save(figure, axes, benchmark, path)


def plot_speed_up(benchmark: Benchmark, path: Path) -> None:
    """Draw how many times faster than the baseline each contestant is, a group of bars for each frame size. Noisy rows
    are hatched. Raises as :func:`plot_latency` does."""
    figure, axes = _figure()
    sizes = benchmark.sizes()
    names = list(dict.fromkeys(map(label, benchmark.rows)))
    height = 0.8 / len(sizes)
    for group, size in enumerate(sizes):
        rows = {label(row): row for row in benchmark.rows if (row.height, row.width) == size}
        places = [i + group * height for i, name in enumerate(names) if name in rows]
        shown = [rows[name] for name in names if name in rows]
        values = [benchmark.speed_up(row) for row in shown]
        bars = axes.barh(places, values, height, label=f"{size[0]}x{size[1]}")
        axes.bar_label(bars, [f" {value:.2f}x" for value in values], fontsize="x-small")
        for bar, row in zip(bars, shown, strict=True):
            bar.set_hatch("//" if row.noisy else None)
    axes.set_yticks([i + height * (len(sizes) - 1) / 2 for i in range(len(names))], names, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="Times the speed of the baseline, by medians of one run")
    _save(figure, axes, benchmark, path)


def plot_roofline(benchmark: Benchmark, path: Path) -> bool:
    """Draw the roofs that a copy and a matrix product of each precision make, measured in the run, and the rows under
    them; False, and no file, where nothing is known of them. Raises as :func:`plot_latency` does."""
    rows = [row for row in benchmark.rows if row.tflop_s and row.matmul_tflop_s and row.flop_per_byte]
    if not rows:
        return False
    figure, axes = _figure()
    roofs = {
        (row.device, row.precision): (row.matmul_tflop_s or 0, (row.copy_gb_s or 0) / 1000) for row in rows
    }
    knees = [peak / slope for peak, slope in roofs.values()]
    points = [row.flop_per_byte or 0 for row in rows]
    low, high = min(*knees, *points) / 8, max(*knees, *points) * 8
    for ((device, precision), (peak, slope)), knee in zip(roofs.items(), knees, strict=True):
        axes.plot([low, knee, high], [low * slope, peak, peak], label=f"{device}, {precision}")
    for row in rows:
        axes.plot([row.flop_per_byte], [row.tflop_s], "o", label=f"{label(row)}, {row.height}x{row.width}")
    axes.set(xscale="log", yscale="log", ylabel="TFLOP/s")
    axes.set_xlabel("FLOP a byte, with every map of the fused plan and every weight moved once")
    _save(figure, axes, benchmark, path, "xx-small")
    return True


def label(row: EngineTiming) -> str:
    """Name the contestant and what it computes in, once."""
    return row.name if row.name.endswith(row.precision) else f"{row.name}, {row.precision}"


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(
            "Plots need matplotlib; install it with: pip install 'derain-engine[bench]'"
        ) from error
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, benchmark: Benchmark, path: Path, legend: str = "small") -> None:
    """Say where and when it was measured, and write the file."""
    row = benchmark.rows[0]
    axes.set_title(f"{row.device}, {row.threads} threads, {benchmark.date[:10]}", fontsize="small")
    axes.legend(fontsize=legend)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata=_METADATA)
