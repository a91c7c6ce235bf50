"""Shipped weights by their names, on a photograph of real rain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derain_engine.models.weights import shipped_names

DOMAINS = ("real", "synthetic")


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_semi_derain_gan_cleans_real_rain(cli, tmp_path: Path, shared_data: Path, domain: str) -> None:
    photo, engine = tmp_path / "rain.png", tmp_path / "gan.derain"
    source = sorted((shared_data / "real" / "real275").glob("*.png"))[0]
    with Image.open(source) as image:
        image.convert("RGB").crop((0, 0, 203, 151)).save(photo)
    done = cli("build", "semi-derain-gan-small", "-o", engine, "--option", f"domain={domain}")
    assert done.code == 0, done.err
    facts = json.loads(cli("inspect", engine, "--json").out)
    assert (facts["architecture"], facts["config"]["domain"]) == ("semi-derain-gan", domain)
    assert cli("run", photo, "-o", tmp_path / "clean.png", "-e", engine).code == 0
    with Image.open(photo) as rainy, Image.open(tmp_path / "clean.png") as clean:
        assert clean.size == rainy.size == (203, 151)
        change = np.abs(np.asarray(clean, int) - np.asarray(rainy, int))
    # Something is taken out, and what is left is still the photograph.
    assert 0.05 < change.mean() < 20


def test_every_shipped_network_has_its_facts(cli) -> None:
    for name in shipped_names():
        facts = json.loads(cli("inspect", name, "--json").out)
        assert facts["parameters"] > 0 and facts["macs_per_pixel"] > 0
