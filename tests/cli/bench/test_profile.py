from __future__ import annotations

import json

import pytest


def test_openvinos_counters_are_ranked(cli, engine_file):
    command = ("bench", "profile", engine_file, "--size", "33x60", "--runs", "2", "--threads", "1")
    done = cli(*command, "--top", "5", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert len(rows) == 5 and all(row["ms"] > 0 and row["gflop"] is None for row in rows)
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    # Which step is the slowest is a matter of load; that convolutions are among the first is not.
    assert any("Convolution" in row["kind"] for row in rows)
    assert all((row["height"], row["width"], row["runs"], row["threads"]) == (64, 64, 2, 1) for row in rows)
    assert rows[0]["ms"] / rows[0]["frame_ms"] == pytest.approx(rows[0]["share"])
    shown = cli(*command).out
    assert "these 10 of" in shown and "Sum of the steps" in shown and engine_file.name in shown


def test_a_plan_is_ranked_by_its_operations(cli):
    done = cli("bench", "profile", "sid", "--plan", "--size", "512x512", "--top", "1000", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    # 3.92 M multiply-adds a pixel, without those whose results nothing reads
    assert sum(row["gflop"] for row in rows) == pytest.approx(2 * 3.92e-3 * 512**2, rel=0.03)
    assert sum(row["share"] for row in rows) == pytest.approx(1) and rows[0]["kind"] == "mffb.stage2"
    assert all(row["ms"] is None and row["mb"] > 0 for row in rows)


def test_an_engine_of_the_reference_has_no_profile(cli, reference_file):
    done = cli("bench", "profile", reference_file)
    assert done.code == 2 and "cannot be profiled" in done.err
