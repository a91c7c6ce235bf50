from __future__ import annotations

import re
from pathlib import Path

import pytest

from derain_engine.base.errors import InputError
from derain_engine.evaluation.figures import FIGURES, WITH_TRUTH, WITHOUT_TRUTH
from derain_engine.evaluation.published import DATA_SETS, named, recognise


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/Rain200H/test/rainy", "Rain200H"),
        ("data/rain100h/rainy", "Rain100H"),
        ("Rain12", "Rain12"),
        ("Rain1200_test/input", "Rain1200"),
        ("SPA-Data/rain", "SPA-Data"),
        ("spa_data", "SPA-Data"),
        ("real/real275", "Real275"),
        ("Rain100L/compared with rain100h", "Rain100H"),
        ("data/sirr-dense/rainy", "SIRR-dense"),
        ("SIRR/sparse", None),
        ("photos/rain", None),
        ("Rain12000", None),
        ("spain/data of mine", None),
    ],
)
def test_data_sets_are_recognised_by_a_whole_word_of_the_path(path: str, name: str | None) -> None:
    found = recognise(Path("/nowhere") / path)
    assert (found and found.name) == name


def test_data_sets_are_named_in_any_case_and_unknown_ones_refused() -> None:
    assert named("rain200h") is named("Rain200H") is DATA_SETS["Rain200H"]
    assert named("spadata") is named("SPA-Data")
    with pytest.raises(InputError, match="only of Rain200H, Rain1200"):
        named("Rain300")


def test_tables_compare_with_what_can_be_measured_on_the_set() -> None:
    for data_set in DATA_SETS.values():
        with_truth, without = data_set.compared(WITH_TRUTH), data_set.compared(WITHOUT_TRUTH)
        assert len(with_truth) + len(without) == len(data_set.tables) > 0
        for table in data_set.tables:
            assert set(table.figures) <= set(FIGURES) and table.source and table.protocol
            assert all(len(row.values) == len(table.figures) for row in table.rows)


def test_values_are_shown_with_the_digits_of_the_paper() -> None:
    table = named("Rain200H").tables[0]
    printed = {row.method: row.printed for row in table.rows}
    assert printed["PReNet"] == ("27.6400", "0.8872") and printed["SID"] == ("28.9250", "0.9079")
    assert named("Rain100L").compared(["psnr_y", "ssim_y"])[1].rows[-1].printed == ("34.12", "0.958")


def cells(text: str, table: str) -> dict[str, list[float]]:
    """Find a table's rows by method, as the paper's text has them."""
    lines = text.split(f"\n{table}\n", 1)[1].split("\nMethods\t", 1)[1].splitlines()
    rows = {}
    for line in lines:
        first, *rest = line.split("\t")
        if rest and re.fullmatch(r"[\d.]+", rest[-1]):
            rows[first.split(" [")[0]] = [float(each) for each in rest]
        if first == "SSID-KD":
            return rows
    raise AssertionError(f"{table} has no end")


def test_tables_1_and_2_are_the_papers(shared_data: Path) -> None:
    paper = shared_data.parent / "papers" / "ssid-kd.txt"
    if not paper.is_file():
        pytest.skip("the paper's text (../shared/papers) is not beside this checkout")
    text = paper.read_text("utf-8")
    first, second = cells(text, "TABLE I"), cells(text, "TABLE II")
    for column, name in enumerate(("Rain200H", "Rain1200", "Rain1400", "Rain12", "SPA-Data")):
        table = DATA_SETS[name].tables[0]
        assert [row.method for row in table.rows] == list(first)
        assert {r.method: list(r.values) for r in table.rows} == {
            method: row[2 * column : 2 * column + 2] for method, row in first.items()
        }
    for column, name in enumerate(("SPA-Data", "Real275", "IVIPC")):
        table = DATA_SETS[name].compared(["niqe"])[0]
        assert {r.method: r.values[0] for r in table.rows} == {m: row[column] for m, row in second.items()}


def test_table_1_of_semi_derain_gan_is_the_papers(shared_data: Path) -> None:
    paper = shared_data.parent / "papers" / "semi-deraingan.txt"
    if not paper.is_file():
        pytest.skip("the paper's text (../shared/papers) is not beside this checkout")
    lines = paper.read_text("utf-8").split("\nTable 1:", 1)[1].splitlines()
    for name in ("Sparse", "Dense"):
        row = next(line for line in lines if line.startswith(f"{name}\t"))
        table = named(f"SIRR-{name}").compared(["psnr"])[0]
        assert [each.values[0] for each in table.rows] == [float(cell) for cell in row.split("\t")[1:]]
        assert (table.rows[0].method, table.rows[-1].method) == ("input", "Semi-DerainGAN")
