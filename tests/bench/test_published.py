from __future__ import annotations

import pytest

from derain_engine.bench import published
from derain_engine.bench.contestants import find_checkpoint
from derain_engine.models.macs import macs_per_pixel


def test_all_twelve_methods_are_there_with_the_printed_sums():
    table = published.TABLE
    assert len({each.method for each in table}) == 12
    # Sums over the columns as the paper prints them: a figure that is mistyped shows.
    assert sum(each.seconds_512 for each in table) == pytest.approx(3.422)
    assert sum(each.seconds_1024 for each in table) == pytest.approx(8.250)
    assert sum(each.gmacs for each in table) == pytest.approx(592.18)
    assert sum(each.mparams for each in table) == pytest.approx(25.38)
    assert {each.method for each in table if each.semi_supervised} == {"SIRR", "Syn2Real", "SSID-KD"}


def test_the_network_counted_here_is_that_of_table_iv_at_128():
    checkpoint = find_checkpoint("sid")
    counted = macs_per_pixel(checkpoint.network, checkpoint.spec)
    parameters = sum(each.numel() for each in checkpoint.network.parameters())
    (sid,) = (each for each in published.TABLE if each.method == "SID")
    assert sid.side == 128 and sid.macs_per_pixel == pytest.approx(counted, rel=0.01)
    assert 1e6 * sid.mparams == pytest.approx(parameters, rel=0.002)


def test_the_notes_compute_what_the_paper_implies():
    text = " ".join(published.notes())
    assert "RESCAN, SID, Syn2Real, SSID-KD imply 14.8, 14.5, 21.1, 14.4 TFLOP/s" in text
    assert "fp32 rate of 13.4" in text and published.SOURCE in text


def test_unknown_sizes_have_no_computed_figures():
    lines = {line["Method"]: line for line in published.cells()}
    assert lines["RCDNet"]["MAC/pixel"] == lines["RCDNet"]["TFLOP/s at 1024"] == lines["RCDNet"]["at"] == ""
    assert lines["PReNet"]["at"] == "256x256" and lines["PReNet"]["MAC/pixel"] == "1,015,930"
    assert lines["Syn2Real"]["x for 4x pixels"] == "1.14x"
