"""The quality on public data sets as papers print it, to be read beside figures measured here."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..base.errors import InputError

_CUI = (
    'Cui et al., "Semi-supervised Image Deraining Using Knowledge Distillation", IEEE Transactions on Circuits and '
    "Systems for Video Technology, 2022"
)
_SEMI_GAN = 'Wei et al., "Semi-DerainGAN: A New Semi-supervised Single Image Deraining Network"'
_PRENET = 'Ren et al., "Progressive Image Deraining Networks: A Better and Simpler Baseline", CVPR 2019'
#: Of the authors' public code; which protocol the printed figures have, the paper does not say.
_CUI_PROTOCOL = "the authors' code: RGB, truncated to 8 bits, SSIM with zeros around the picture"
_Y_PROTOCOL = "Y, 8 bits"
#: Of the 20 pictures that SIRR's authors published, 1 to 10 and 11 to 20 have means of 17.82 and 23.93 dB over RGB,
#: 19.17 and 25.42 over Y; the table's row for the input says 17.95 and 24.14.
_SIRR_PROTOCOL = "not said; the row for the input is nearly that of RGB"


@dataclass(frozen=True)
class PublishedFigures:
    """A method and its figures as the paper prints them, under ``Table.figures``."""

    method: str
    printed: tuple[str, ...]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(map(float, self.printed))


@dataclass(frozen=True)
class Table:
    """One table's columns for one data set.

    figures: names of ``figures.FIGURES`` that they compare with.
    protocol: what is known of how they were measured.
    """

    source: str
    protocol: str
    figures: tuple[str, ...]
    rows: tuple[PublishedFigures, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "protocol": self.protocol,
            "rows": [
                {"method": row.method, **dict(zip(self.figures, row.values, strict=True))}
                for row in self.rows
            ],
        }


@dataclass(frozen=True)
class DataSet:
    """A test set. pictures: how many it has."""

    name: str
    pictures: int
    tables: tuple[Table, ...]

    def compared(self, figures: Collection[str]) -> list[Table]:
        """Return the tables whose figures are among these."""
        return [table for table in self.tables if set(table.figures) <= set(figures)]


def _read(table: str) -> dict[str, tuple[PublishedFigures, ...]]:
    """Read a table's rows by data set. The first line names the data sets, every other one a method and its figures for
    each of them, with two spaces or more between columns."""
    names, *rows = (re.split("  +", line.strip()) for line in table.strip().splitlines())
    return {
        name: tuple(PublishedFigures(row[0], tuple(row[column].split())) for row in rows)
        for column, name in enumerate(names, 1)
    }


#: For Rain12, SID and SSID-KD are those trained on Rain200H.
_CUI_TABLE_1 = """
          Rain200H        Rain1200        Rain1400        Rain12          SPA-Data
NLEDN     27.3149 0.8904  30.7989 0.9127  31.0138 0.9206  33.0278 0.9615  30.5964 0.9363
RESCAN    26.6189 0.8398  32.0793 0.9038  30.8814 0.9114  32.6857 0.9508  30.5855 0.9380
ReHEN     27.5254 0.8663  30.4558 0.8702  30.9840 0.9156  35.0950 0.9400  32.6524 0.9297
PReNet    27.6400 0.8872  27.3073 0.8712  30.6087 0.9181  34.7912 0.9644  32.7195 0.9317
DCSFN     28.5874 0.9037  32.5967 0.9271  30.1857 0.9001  35.2163 0.9671  32.7628 0.9365
MSPFN     25.5536 0.8039  30.3903 0.8202  24.2786 0.9170  34.2532 0.9469  29.5378 0.9193
RCDNet    28.6983 0.8928  32.2731 0.9111  31.0163 0.9164  31.0385 0.9069  30.1744 0.9201
VRGNet    27.4943 0.8619  32.1339 0.9065  30.5778 0.9089  34.5975 0.9605  33.4424 0.9409
SIRR      14.4201 0.4501  24.4270 0.7713  25.7725 0.8224  24.1383 0.7768  22.6659 0.7474
Syn2Real  14.4950 0.4021  28.8120 0.8400  28.5821 0.8586  28.4346 0.9038  31.8243 0.9307
SID       28.9250 0.9079  32.2880 0.9293  32.2576 0.9203  36.2915 0.9609  33.0260 0.9364
SSID-KD   28.7066 0.9005  32.4237 0.9202  30.5398 0.9136  35.4726 0.9682  31.9741 0.9371
"""
_CUI_TABLE_2 = """
          SPA-Data  Real275  IVIPC
NLEDN     7.1806    3.5324   3.7363
RESCAN    7.0772    3.8965   3.7887
ReHEN     7.1281    3.7355   3.7634
PReNet    7.1949    3.7213   3.7714
DCSFN     7.2649    3.6375   3.7695
MSPFN     7.9280    3.8616   3.9771
RCDNet    8.4286    3.7597   3.7627
VRGNet    7.1281    3.7903   3.7680
SIRR      7.5571    3.5492   3.7419
Syn2Real  7.1190    4.0372   4.2141
SID       7.0006    3.5290   3.7406
SSID-KD   6.9636    3.5105   3.6488
"""
_PRENET_FIGURES = """
        Rain100H     Rain100L
PReNet  29.46 0.899  37.48 0.979
"""
_SEMI_GAN_TABLE_2 = """
                Rain100H     Rain100L     Rain12
DSC             13.77 0.320  27.34 0.849  30.07 0.866
GMM             15.23 0.450  29.05 0.872  32.14 0.916
DDN             22.85 0.725  32.38 0.926  34.04 0.933
SIRR            22.47 0.716  32.37 0.925  34.02 0.935
Semi-DerainGAN  22.89 0.801  34.12 0.958  35.86 0.960
"""
#: PSNR of the sparse and of the dense half of SIRR's 20 test pictures.
_SEMI_GAN_TABLE_1 = """
                                  SIRR-sparse  SIRR-dense
input                             24.14        17.95
DSC                               25.05        19.00
GMM                               25.67        19.27
DDN                               26.88        19.90
JORDER                            24.22        18.75
DID-MDN                           25.66        18.60
SIRR                              26.98        21.60
Semi-DerainGAN without real rain  26.15        20.32
Semi-DerainGAN                    28.21        23.15
"""
#: Source, protocol, figures and rows by data set of every table, in the order in which they are shown.
_TABLES = (
    (f"{_CUI}, Table I", _CUI_PROTOCOL, ("psnr", "ssim"), _read(_CUI_TABLE_1)),
    (f"{_CUI}, Table II", "not said", ("niqe",), _read(_CUI_TABLE_2)),
    (_PRENET, f"{_Y_PROTOCOL}, truncated", ("psnr_y", "ssim_y"), _read(_PRENET_FIGURES)),
    (f"{_SEMI_GAN}, Table 2", _Y_PROTOCOL, ("psnr_y", "ssim_y"), _read(_SEMI_GAN_TABLE_2)),
    (f"{_SEMI_GAN}, Table 1", _SIRR_PROTOCOL, ("psnr",), _read(_SEMI_GAN_TABLE_1)),
)
_PICTURES = {
    "Rain200H": 200,
    "Rain1200": 1200,
    "Rain1400": 1400,
    "Rain12": 12,
    "SPA-Data": 1000,
    "Real275": 275,
    "IVIPC": 128,
    "Rain100H": 100,
    "Rain100L": 100,
    "SIRR-sparse": 10,
    "SIRR-dense": 10,
}
DATA_SETS = {
    name: DataSet(
        name,
        pictures,
        tuple(
            Table(source, protocol, figures, rows[name])
            for source, protocol, figures, rows in _TABLES
            if name in rows
        ),
    )
    for name, pictures in _PICTURES.items()
}
_BY_KEY = {re.sub("[^a-z0-9]", "", name.lower()): found for name, found in DATA_SETS.items()}


def named(name: str) -> DataSet:
    """Return the data set of this name, in any case and without regard to hyphens.

    Raises:
        InputError: none is called so.
    """
    found = _BY_KEY.get(re.sub("[^a-z0-9]", "", name.lower()))
    if found is None:
        raise InputError(f"No published figures are kept of {name!r}, only of {', '.join(DATA_SETS)}.")
    return found


def recognise(folder: Path) -> DataSet | None:
    """Find the data set that a folder's path speaks of (``Rain200H/test/rain``, ``spa-data``), the nearest first."""
    for part in reversed(folder.absolute().parts):
        words = re.findall("[a-z0-9]+", part.lower())
        for key in ("".join(words), *words, *("".join(pair) for pair in pairwise(words))):
            if key in _BY_KEY:
                return _BY_KEY[key]
    return None
