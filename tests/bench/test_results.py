from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

import pytest

from derain_engine.base.errors import InputError
from derain_engine.bench.results import Benchmark, as_csv, as_markdown, cells, facts


def test_json_gives_the_same_run_back_and_each_row_says_all(measured):
    records = json.loads(json.dumps(measured.to_json()))
    assert Benchmark.from_json(json.dumps(records), "x.json") == measured
    for record in records:
        assert record["command"] == "derain-engine bench table3" and record["date"].startswith("2026-01-02")
        assert record["environment"]["cpu"]["model"] == record["device"] == "A CPU"


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"environment": {}, "command": "", "date": ""}]'])
def test_other_json_is_refused(text):
    with pytest.raises(InputError, match=r"x\.json does not hold rows"):
        Benchmark.from_json(text, "x.json")


def test_rows_of_two_runs_are_refused(measured):
    records = measured.to_json()
    records[1] = records[1] | {"date": "2026-01-03T00:00:00+00:00"}
    with pytest.raises(InputError, match="several runs"):
        Benchmark.from_json(json.dumps(records), "x.json")


def test_speed_up_is_over_eager_at_the_same_size(measured):
    assert [measured.speed_up(row) for row in measured.rows] == [1.0, 2.5, 1.0, 4.0]


def test_without_eager_the_first_row_is_the_baseline(row, benchmark_of):
    first = row(backend="openvino", median_ms=6.0)
    run = benchmark_of(first, row(precision="bf16", median_ms=3.0))
    assert [run.speed_up(each) for each in run.rows] == [1.0, 2.0]


def test_rates_count_a_multiply_add_as_two(row):
    # 2 x 1e6 x 512 x 256 operations in 10 ms
    assert row().tflop_s == pytest.approx(26.2144)
    assert row(macs_per_pixel=None).tflop_s is None


def test_csv_has_every_figure(measured):
    lines = list(csv.DictReader(io.StringIO(as_csv(measured))))
    for line, each in zip(lines, measured.rows, strict=True):
        for name, value in asdict(each).items():
            assert line[name] == ("" if value is None else str(value))
        assert (line["date"], line["command"]) == (measured.date, measured.command)


def test_cells_mark_what_is_noisy_wrong_or_unknown(measured, row, benchmark_of):
    table = cells(measured)
    assert [line["Noise"] for line in table] == ["1.0%", "20.0% noisy"] * 2
    assert [line["Verified"] for line in table] == ["yes, equal", "yes, 61.2 dB", "yes, equal", "NO, 61.2 dB"]
    assert table[0]["Of matmul"] == "66%" and table[0]["GPU MB"] == ""
    unknown = row(verified=None, macs_per_pixel=None, noise=None, cold_start_ms=None)
    (line,) = cells(benchmark_of(unknown))
    assert line["Verified"] == "no model"
    assert line["TFLOP/s"] == line["Of matmul"] == line["Noise"] == line["Cold start ms"] == ""


def test_markdown_is_a_table_without_empty_columns(measured):
    text = as_markdown(measured)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(measured.rows)
    widths = {line.replace("\\|", "").count("|") for line in table}
    assert widths == {len(cells(measured)[0])}, "GPU MB is empty and has no column"
    assert "a\\|b.derain" in text and "GPU MB" not in text
    assert "- Command: `derain-engine bench table3`" in text and "- CPU features: avx2 avx512_bf16" in text


def test_the_driver_of_a_gpu_is_named(row, benchmark_of):
    run = benchmark_of(row(), row(device="A GPU", driver="580.1", device_mb=512.0))
    assert dict(facts(run))["Device"] == "A CPU; A GPU, driver 580.1"
