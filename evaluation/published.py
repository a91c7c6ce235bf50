"""Quality on public data sets as papers print it, to be read beside figures measured here.

Cui et al., "Semi-supervised Image Deraining Using Knowledge Distillation", IEEE Transactions on Circuits and Systems
for Video Technology, 2022, Tables I and II; Wei et al., "Semi-DerainGAN: A New Semi-supervised Single Image Deraining
Network", Tables 1 and 2; Ren et al., "Progressive Image Deraining Networks: A Better and Simpler Baseline", CVPR 2019.
"""

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
class Row:
    """A method and its figures, under ``Table.figures``."""

    method: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """One table's columns for one data set. figures: names of ``evaluate_figures.FIGURES`` that they compare with.
    protocol: what is known of how they were measured."""

    source: str
    protocol: str
    figures: tuple[str, ...]
    rows: tuple[Row, ...]

    def printed(self) -> list[list[str]]:
        """The rows' values with the digits that the paper prints, which are a column's most."""
        columns = list(zip(*(row.values for row in self.rows), strict=True))
        digits = [max(len(str(value).partition(".")[2]) for value in column) for column in columns]
        return [
            [f"{value:.{count}f}" for value, count in zip(row.values, digits, strict=True)]
            for row in self.rows
        ]

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
        """The tables whose figures are among these."""
        return [table for table in self.tables if set(table.figures) <= set(figures)]


_METHODS = (
    *("NLEDN", "RESCAN", "ReHEN", "PReNet", "DCSFN", "MSPFN", "RCDNet", "VRGNet", "SIRR", "Syn2Real"),
    *("SID", "SSID-KD"),
)
#: PSNR and SSIM of _METHODS. For Rain12, SID and SSID-KD are those trained on Rain200H.
_TABLE_1 = {
    "Rain200H": (
        *((27.3149, 0.8904), (26.6189, 0.8398), (27.5254, 0.8663), (27.6400, 0.8872), (28.5874, 0.9037)),
        *((25.5536, 0.8039), (28.6983, 0.8928), (27.4943, 0.8619), (14.4201, 0.4501), (14.4950, 0.4021)),
        *((28.9250, 0.9079), (28.7066, 0.9005)),
    ),
    "Rain1200": (
        *((30.7989, 0.9127), (32.0793, 0.9038), (30.4558, 0.8702), (27.3073, 0.8712), (32.5967, 0.9271)),
        *((30.3903, 0.8202), (32.2731, 0.9111), (32.1339, 0.9065), (24.4270, 0.7713), (28.8120, 0.8400)),
        *((32.2880, 0.9293), (32.4237, 0.9202)),
    ),
    "Rain1400": (
        *((31.0138, 0.9206), (30.8814, 0.9114), (30.9840, 0.9156), (30.6087, 0.9181), (30.1857, 0.9001)),
        *((24.2786, 0.9170), (31.0163, 0.9164), (30.5778, 0.9089), (25.7725, 0.8224), (28.5821, 0.8586)),
        *((32.2576, 0.9203), (30.5398, 0.9136)),
    ),
    "Rain12": (
        *((33.0278, 0.9615), (32.6857, 0.9508), (35.0950, 0.9400), (34.7912, 0.9644), (35.2163, 0.9671)),
        *((34.2532, 0.9469), (31.0385, 0.9069), (34.5975, 0.9605), (24.1383, 0.7768), (28.4346, 0.9038)),
        *((36.2915, 0.9609), (35.4726, 0.9682)),
    ),
    "SPA-Data": (
        *((30.5964, 0.9363), (30.5855, 0.9380), (32.6524, 0.9297), (32.7195, 0.9317), (32.7628, 0.9365)),
        *((29.5378, 0.9193), (30.1744, 0.9201), (33.4424, 0.9409), (22.6659, 0.7474), (31.8243, 0.9307)),
        *((33.0260, 0.9364), (31.9741, 0.9371)),
    ),
}
#: NIQE of _METHODS.
_TABLE_2 = {
    "SPA-Data": (
        *(7.1806, 7.0772, 7.1281, 7.1949, 7.2649, 7.9280, 8.4286, 7.1281, 7.5571, 7.1190, 7.0006, 6.9636),
    ),
    "Real275": (
        *(3.5324, 3.8965, 3.7355, 3.7213, 3.6375, 3.8616, 3.7597, 3.7903, 3.5492, 4.0372, 3.5290, 3.5105),
    ),
    "IVIPC": (
        *(3.7363, 3.7887, 3.7634, 3.7714, 3.7695, 3.9771, 3.7627, 3.7680, 3.7419, 4.2141, 3.7406, 3.6488),
    ),
}
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


def _rows(*rows: tuple[str, float, float]) -> tuple[Row, ...]:
    return tuple(Row(method, values) for method, *values in rows)  # type: ignore[arg-type]


_SEMI_GAN_ROWS = {
    "Rain100H": _rows(
        *(("DSC", 13.77, 0.320), ("GMM", 15.23, 0.450), ("DDN", 22.85, 0.725), ("SIRR", 22.47, 0.716)),
        ("Semi-DerainGAN", 22.89, 0.801),
    ),
    "Rain100L": _rows(
        *(("DSC", 27.34, 0.849), ("GMM", 29.05, 0.872), ("DDN", 32.38, 0.926), ("SIRR", 32.37, 0.925)),
        ("Semi-DerainGAN", 34.12, 0.958),
    ),
    "Rain12": _rows(
        *(("DSC", 30.07, 0.866), ("GMM", 32.14, 0.916), ("DDN", 34.04, 0.933), ("SIRR", 34.02, 0.935)),
        ("Semi-DerainGAN", 35.86, 0.960),
    ),
}
#: PSNR of the sparse and of the dense half of SIRR's 20 test pictures.
_SIRR_METHODS = (
    *("input", "DSC", "GMM", "DDN", "JORDER", "DID-MDN", "SIRR", "Semi-DerainGAN without real rain"),
    "Semi-DerainGAN",
)
_SIRR = {
    "SIRR-sparse": (24.14, 25.05, 25.67, 26.88, 24.22, 25.66, 26.98, 26.15, 28.21),
    "SIRR-dense": (17.95, 19.00, 19.27, 19.90, 18.75, 18.60, 21.60, 20.32, 23.15),
}
_PRENET_ROWS = {
    "Rain100H": _rows(("PReNet", 29.46, 0.899)),
    "Rain100L": _rows(("PReNet", 37.48, 0.979)),
}


def _tables(name: str) -> tuple[Table, ...]:
    tables = []
    if name in _TABLE_1:
        rows = tuple(Row(method, pair) for method, pair in zip(_METHODS, _TABLE_1[name], strict=True))
        tables.append(Table(f"{_CUI}, Table I", _CUI_PROTOCOL, ("psnr", "ssim"), rows))
    if name in _TABLE_2:
        rows = tuple(Row(method, (value,)) for method, value in zip(_METHODS, _TABLE_2[name], strict=True))
        tables.append(Table(f"{_CUI}, Table II", "not said", ("niqe",), rows))
    if name in _PRENET_ROWS:
        tables.append(Table(_PRENET, f"{_Y_PROTOCOL}, truncated", ("psnr_y", "ssim_y"), _PRENET_ROWS[name]))
    if name in _SEMI_GAN_ROWS:
        source = f"{_SEMI_GAN}, Table 2"
        tables.append(Table(source, _Y_PROTOCOL, ("psnr_y", "ssim_y"), _SEMI_GAN_ROWS[name]))
    if name in _SIRR:
        rows = tuple(Row(method, (value,)) for method, value in zip(_SIRR_METHODS, _SIRR[name], strict=True))
        tables.append(Table(f"{_SEMI_GAN}, Table 1", _SIRR_PROTOCOL, ("psnr",), rows))
    return tuple(tables)


DATA_SETS = {name: DataSet(name, pictures, _tables(name)) for name, pictures in _PICTURES.items()}
_BY_KEY = {re.sub("[^a-z0-9]", "", name.lower()): found for name, found in DATA_SETS.items()}


def named(name: str) -> DataSet:
    """The data set of this name, in any case and without regard to hyphens.

    Raises:
        InputError: none is called so.
    """
    found = _BY_KEY.get(re.sub("[^a-z0-9]", "", name.lower()))
    if found is None:
        raise InputError(f"No published figures are kept of {name!r}, only of {', '.join(DATA_SETS)}.")
    return found


def recognise(folder: Path) -> DataSet | None:
    """The data set that a folder's path speaks of (``Rain200H/test/rain``, ``spa-data``), the nearest name first."""
    for part in reversed(folder.absolute().parts):
        words = re.findall("[a-z0-9]+", part.lower())
        for key in ("".join(words), *words, *("".join(pair) for pair in pairwise(words))):
            if key in _BY_KEY:
                return _BY_KEY[key]
    return None
