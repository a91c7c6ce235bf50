"""The results of a benchmark: rows that can be quoted one by one, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

from ..base.errors import InputError
from ..engine import environment

Row = TypeVar("Row")
Run = TypeVar("Run", bound="Measurement[Any]")
#: Relative difference between the medians of a row's two halves from which on it is marked as noisy.
NOISY = 0.1


def now() -> str:
    """Return the date of a run: UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Measurement(Generic[Row]):
    """The outcome of a run.

    rows: what was measured. environment: facts of ``engine.environment``. command, date (UTC, ISO 8601): of the run.
    """

    rows: tuple[Row, ...]
    environment: dict[str, Any]
    command: str
    date: str

    @classmethod
    def here(cls: type[Run], rows: Iterable[Any], command: str, date: str | None = None) -> Run:
        """Make one of this machine; of this moment without a ``date``."""
        return cls(tuple(rows), environment.of_measurement(), command, date or now())


@dataclass(frozen=True)
class EngineTiming:
    """One contestant at one frame size.

    name: the engine file, or what else ran the network. precision: it computed in. height, width: of the
    uint8 frames, in pixels. threads: CPU threads allowed. device: CPU or GPU. driver: of the GPU, None on a CPU.
    cold_start_ms, warm_start_ms: from the start of a new Python process to its first clean frame, without and with
    what an earlier process left in the cache folder; None where starts were not measured.
    open_ms, first_ms: opening, and the first frame, both in the running process without compiled code from before.
    runs: timed warm frames. median_ms, p95_ms, p99_ms: their latency, padding and conversion included; p50 is the
    median. noise: relative difference between the medians of the first and of the second half of the runs, None of
    fewer than four.
    frames_per_second: of ``Engine.stream``, opened for throughput.
    peak_host_mb: most resident memory, in 10^6 bytes, of the process of the cold start. device_mb: memory of the GPU
    that this process took until its first frame was done, None on a CPU.
    verified: the output lay within the bounds of its precision around the fp32 reference's, at this size; None
    without a reference. psnr_db (None also for equal outputs), max_abs: the figures.
    macs_per_pixel: multiply-adds of the network's convolutions, counted; None where the network is not known.
    flop_per_byte: of the network in this precision, with every map that the fused plan keeps in memory and every
    weight moved once, whatever this contestant moves. matmul_tflop_s, copy_gb_s: what the device reached in the same
    run in a large matrix product of this precision and in a large copy (10^12 operations and 10^9 bytes a second).
    All None where that is not known.
    """

    name: str
    backend: str
    backend_version: str
    precision: str
    height: int
    width: int
    threads: int
    device: str
    driver: str | None
    cold_start_ms: float | None
    warm_start_ms: float | None
    open_ms: float
    first_ms: float
    runs: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    noise: float | None
    frames_per_second: float
    peak_host_mb: float | None
    device_mb: float | None
    verified: bool | None
    psnr_db: float | None
    max_abs: float | None
    macs_per_pixel: float | None
    flop_per_byte: float | None
    matmul_tflop_s: float | None
    copy_gb_s: float | None

    @property
    def noisy(self) -> bool:
        return self.noise is not None and self.noise > NOISY

    @property
    def tflop_s(self) -> float | None:
        """The 10^12 operations a second at the median, a multiply-add counted as two."""
        if self.macs_per_pixel is None:
            return None
        return 2 * self.macs_per_pixel * self.height * self.width / self.median_ms / 1e9


class Benchmark(Measurement[EngineTiming]):
    """The outcome of a run, its rows by size, then contestant."""

    def to_json(self) -> list[dict[str, Any]]:
        """Return rows that can be quoted one by one: each repeats where, when and how it was measured."""
        facts = {"environment": self.environment, "command": self.command, "date": self.date}
        return [{**asdict(row), **facts} for row in self.rows]

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Benchmark:
        """Read what :meth:`to_json` gave.

        Args:
            origin: the file to name in errors.

        Raises:
            InputError: it is not that, or rows of several runs.
        """
        names = {field.name for field in fields(EngineTiming)}
        try:
            records = json.loads(text)
            facts = [(each["environment"], each["command"], each["date"]) for each in records]
            rows = tuple(EngineTiming(**{name: each[name] for name in names}) for each in records)
            environment, command, date = facts[0]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(
                f"{origin} does not hold rows of 'bench engine --json' or 'bench table3 --json' of this version."
            ) from error
        if any(each != facts[0] for each in facts):
            raise InputError(
                f"{origin} holds rows of several runs, whose ratios mean nothing; one file a run."
            )
        return cls(rows, environment, command, date)

    def sizes(self) -> list[tuple[int, int]]:
        """List (height, width) of the frames, in the order of the rows."""
        return list(dict.fromkeys((row.height, row.width) for row in self.rows))

    def speed_up(self, row: EngineTiming) -> float:
        """Divide the baseline's median at this size by the row's: that of PyTorch eager in fp32, or of the first row
        where that was not run."""
        peers = [each for each in self.rows if (each.height, each.width) == (row.height, row.width)]
        eager = (each for each in peers if each.backend == "pytorch" and each.precision == "fp32")
        return next(eager, peers[0]).median_ms / row.median_ms


def cells(benchmark: Benchmark) -> list[dict[str, str]]:
    """Put the rows in words, by the columns' heads; columns that nothing is known for hold nothing."""
    return [
        {
            "Engine": row.name,
            "Runs in": f"{row.backend} {row.precision}",
            "Frame": f"{row.height}x{row.width}",
            "Cold start ms": _number(row.cold_start_ms, 1),
            "Warm start ms": _number(row.warm_start_ms, 1),
            "Open ms": _number(row.open_ms, 1),
            "First ms": _number(row.first_ms, 1),
            "Median ms": _number(row.median_ms, 1),
            "p95 ms": _number(row.p95_ms, 1),
            "p99 ms": _number(row.p99_ms, 1),
            "Noise": "" if row.noise is None else f"{row.noise:.1%}{' noisy' if row.noisy else ''}",
            "Speed-up": f"{benchmark.speed_up(row):.2f}x",
            "Frames/s": _number(row.frames_per_second, 2),
            "Host MB": _number(row.peak_host_mb, 0),
            "GPU MB": _number(row.device_mb, 0),
            "TFLOP/s": _number(row.tflop_s, 3),
            "Of matmul": _fraction(row),
            "Verified": verified(row),
        }
        for row in benchmark.rows
    ]


def facts(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Return (name, value) of what holds for all rows."""
    rows, cpu = benchmark.rows, benchmark.environment["cpu"]
    versions = {row.backend: row.backend_version for row in rows}
    devices = dict.fromkeys(
        row.device if row.driver is None else f"{row.device}, driver {row.driver}" for row in rows
    )
    return [
        ("Device", "; ".join(devices)),
        ("CPU features", " ".join(cpu["features"]) or "unknown"),
        ("Threads", str(rows[0].threads)),
        ("Runs", str(rows[0].runs)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("derain-engine", benchmark.environment["derain_engine"]),
        ("Python", benchmark.environment["python"]),
        ("Date", benchmark.date),
        ("Command", benchmark.command),
    ]


def verified(row: EngineTiming) -> str:
    """Tell whether a row is verified, and how closely."""
    if row.verified is None:
        return "no model"
    closeness = "equal" if row.psnr_db is None else f"{row.psnr_db:.1f} dB"
    return f"{'yes' if row.verified else 'NO'}, {closeness}"


def as_csv(benchmark: Benchmark) -> str:
    """Write a header and one line for each row, with everything but the environment's long lists; RFC 4180."""
    out = io.StringIO()
    about = {
        "derain_engine": benchmark.environment["derain_engine"],
        "python": benchmark.environment["python"],
        "platform": benchmark.environment["platform"],
        "date": benchmark.date,
        "command": benchmark.command,
    }
    writer = csv.DictWriter(out, [*(field.name for field in fields(EngineTiming)), *about])
    writer.writeheader()
    writer.writerows({**asdict(row), **about} for row in benchmark.rows)
    return out.getvalue()


def as_markdown(benchmark: Benchmark) -> str:
    """Write the table without empty columns, and below it what holds for all rows."""
    about = "".join(f"- {name}: {_code(name, value)}\n" for name, value in facts(benchmark))
    return f"{markdown_table(*as_columns(cells(benchmark)))}\n{about}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table whose first column is text, on the left; the others are figures."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def as_columns(rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Split rows into heads and cells, without columns in which nothing stands."""
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    return heads, [[row[head] for head in heads] for row in rows]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _fraction(row: EngineTiming) -> str:
    if row.tflop_s is None or row.matmul_tflop_s is None:
        return ""
    return f"{row.tflop_s / row.matmul_tflop_s:.0%}"


def _code(name: str, value: str) -> str:
    return f"`{value}`" if name == "Command" else value
