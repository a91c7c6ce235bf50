from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from derain_engine.base.errors import InputError
from derain_engine.bench import plots
from derain_engine.bench.page import make_page
from derain_engine.bench.plots import label, plot_all, plot_roofline

ROOT = Path(__file__).resolve().parents[2]


def save(benchmark, path):
    path.write_text(json.dumps(benchmark.to_json()))
    return path


def test_every_plot_is_a_png_and_repeats(measured, tmp_path):
    drawn = plot_all(measured, tmp_path, "x-")
    assert list(drawn) == ["Speed-up by backend", "Latency by size", "Roofline"]
    for file in drawn.values():
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000
    assert plot_roofline(measured, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == drawn["Roofline"].read_bytes()


def test_plots_that_would_say_nothing_are_left_out(row, benchmark_of, tmp_path):
    run = benchmark_of(row(flop_per_byte=None))
    assert list(plot_all(run, tmp_path)) == ["Speed-up by backend"]
    assert not plot_roofline(run, tmp_path / "r.png") and not (tmp_path / "r.png").exists()


def test_a_label_names_the_precision_once(row):
    assert label(row()) == "PyTorch eager fp32"
    assert label(row(name="a.derain", precision="bf16")) == "a.derain, bf16"


def test_the_page_has_the_papers_tables_and_every_result_with_its_plots(measured, benchmark_of, tmp_path):
    one = benchmark_of(*(row for row in measured.rows if row.height == 512))
    files = [save(measured, tmp_path / "cpu.json"), save(one, tmp_path / "other.json")]
    page = tmp_path / "docs.md"
    written = make_page(files, page)
    text = page.read_text()
    assert written[-1] == page and all(file.is_file() for file in written)
    linked = re.findall(r"\]\((docs/[^)]+)\)", text)
    assert [str(tmp_path / link) for link in linked] == [str(file) for file in written[:-1]]
    assert text.index("| SSID-KD |") < text.index("## cpu") < text.index("## other")
    assert text.count("| a\\|b.derain |") == 3 and "No speeds" not in text


def test_builds_are_a_table_of_their_own(tmp_path):
    file = min((ROOT / "bench" / "results").glob("*-builds.json"))
    page = tmp_path / "page.md"
    assert make_page([file], page) == [page]
    rows = json.loads(file.read_text())["rows"]
    text = page.read_text()
    assert text.count(f"| {rows[0]['name']} | 512x512 |") == 1 and f"{rows[0]['plan_s']:.1f}" in text
    assert "No speeds" in text
    file = tmp_path / "x.json"
    file.write_text('{"rows": [{}]}')
    with pytest.raises(InputError, match="bench builds"):
        make_page([file], page)
    file.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        make_page([file], page)


def test_two_results_of_one_name_are_refused(measured, tmp_path):
    (tmp_path / "b").mkdir()
    files = [save(measured, tmp_path / "x.json"), save(measured, tmp_path / "b" / "x.json")]
    with pytest.raises(InputError, match="called x"):
        make_page(files, tmp_path / "page.md")
    with pytest.raises(InputError, match="cannot be read"):
        make_page([tmp_path / "gone.json"], tmp_path / "page.md")


def test_the_page_of_the_repository_is_that_of_its_results(tmp_path, monkeypatch):
    # The page links plots by their names alone.
    monkeypatch.setattr(plots, "_save", lambda *_: None)
    make_page(sorted((ROOT / "bench" / "results").glob("*.json")), tmp_path / "benchmarks.md")
    assert (ROOT / "docs" / "benchmarks.md").read_text() == (tmp_path / "benchmarks.md").read_text(), (
        "run: derain-engine bench page bench/results/*.json -o docs/benchmarks.md"
    )
