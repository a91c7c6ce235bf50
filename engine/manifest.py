"""The record that an engine file holds of itself: the type, its JSON, and the one place where it is validated."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..base.errors import BundleError, InputError
from ..base.sizes import FrameSizes, padded_side, size_from_json
from ..base.version import __version__
from ..models.spec import ModelSpec
from .backends.base import Artefact

#: The newest format that this version reads, and the one it writes. It grows when an older reader would
#: misunderstand a file; a field that an older reader may ignore is added without a new format.
FORMAT = 1
#: In bytes of JSON.
LARGEST_MANIFEST = 2**20
#: A test of a field and its words.
_Rule = tuple[Callable[[Any], bool], str]
# In pixels; a network asking for more padding than this would exhaust memory on a one-pixel picture.
_LARGEST_SIDE = 4096


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of what is in an engine file.

    format: layout version of the file.
    architecture, config: as in ModelSpec; what network it was.
    granularity, smallest_side, exact_tiling_halo: as in ModelSpec, in pixels.
    tile_overlap: overlap of neighbouring tiles when a frame is too large to run whole, in pixels.
    bytes_per_pixel: memory that a session needs for a pixel of a frame, estimated; 0 where nobody knows.
    source: the model's name, such as ``sid-lite``.
    weights_sha256: of the weights that the engine was built from, as in Checkpoint.
    backend, backend_version, precision: what made the payloads, and the precision they compute in.
    gpus: targets such as ``sm_90``; empty where the payloads are for CPUs.
    input, output: a frame at the engine's edges: name, layout, colour order and value range; ``sizes`` as of
        FrameSizes where the engine does not take every size, and ``size`` where it was made for one.
    payloads: by name, ``{"sha256": ..., "bytes": ...}``.
    verification: the report of the comparison with the reference.
    derain_engine: version that built it.
    """

    format: int = FORMAT
    architecture: str
    config: dict[str, Any]
    granularity: int
    smallest_side: int
    exact_tiling_halo: int | None
    tile_overlap: int
    bytes_per_pixel: int
    source: str
    weights_sha256: str
    backend: str
    backend_version: str
    precision: str
    gpus: tuple[str, ...] = ()
    input: dict[str, Any]
    output: dict[str, Any]
    payloads: dict[str, dict[str, Any]] = field(default_factory=dict)
    verification: dict[str, Any]
    derain_engine: str

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        artefact: Artefact,
        *,
        source: str,
        weights_sha256: str = "0" * 64,
        verification: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Return the manifest of what a backend made of a network, without the payloads."""
        sizes = artefact.sizes
        edge: dict[str, Any] = {
            "layout": "NHWC",
            "colour": "RGB",
            "dtypes": ["uint8", "float32"],
            "range": [0, 1],
            "size": list(sizes.usual[0]) if sizes.usual and (sizes.fixed or sizes.most is None) else None,
        }
        if sizes.most is not None:
            edge["sizes"] = sizes.to_json()
        pixel = artefact.bytes_per_pixel
        return cls(
            architecture=spec.architecture,
            config=dict(spec.config),
            granularity=spec.granularity,
            smallest_side=spec.smallest_side,
            exact_tiling_halo=spec.exact_tiling_halo,
            tile_overlap=spec.tile_overlap,
            bytes_per_pixel=spec.bytes_per_pixel if pixel is None else pixel,
            source=source,
            weights_sha256=weights_sha256,
            backend=artefact.backend,
            backend_version=artefact.backend_version,
            precision=artefact.precision,
            gpus=artefact.gpus,
            input={"name": "rainy", **edge},
            output={"name": "clean", **edge},
            verification={**(verification or {}), **artefact.notes},
            derain_engine=__version__,
        )

    @property
    def overlap(self) -> int:
        """The overlap of neighbouring tiles in pixels, a multiple of the granularity."""
        # Pixels within the receptive field's reach see the tile's edge: with a finite reach they are dropped.
        return padded_side(max(self.tile_overlap, 2 * (self.exact_tiling_halo or 0)), self.granularity, 0)

    @property
    def least_tile(self) -> int:
        """The least side of a tile in pixels: more than the overlaps on both sides."""
        return padded_side(2 * self.overlap + 1, self.granularity, self.smallest_side)

    @property
    def sizes(self) -> FrameSizes:
        """The frames that the engine takes."""
        record, size = self.input.get("sizes"), self.input.get("size")
        if record is not None:
            return FrameSizes.from_json(record, self.granularity)
        every = FrameSizes.all_from(self.smallest_side, self.granularity)
        if size is None:
            return every
        usual = size_from_json(size)
        if self.backend == "openvino":
            # Files without ``sizes`` are of version 0.1.0, whose OpenVINO engines of one size take no other.
            return FrameSizes.only(usual, self.granularity)
        return replace(every, usual=(every.nearest(*usual),))

    def to_json(self) -> str:
        """Write the manifest as text, the same for the same manifest: sorted keys, ASCII, a newline at the end.

        Raises:
            BundleError: a value is nothing that JSON can hold, NaN and infinity included.
        """
        record = {each.name: getattr(self, each.name) for each in fields(self)}
        try:
            return json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise BundleError(
                f"The manifest cannot be written as JSON: {error}; use plain finite values."
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Manifest:
        """Read and validate a manifest.

        Fields that this version does not know are ignored: a later one may add some within the format.

        Args:
            origin: the file to name in errors.

        Raises:
            BundleError: too large, not JSON, of a newer format, or a field is missing or wrong.
        """
        if len(text) > LARGEST_MANIFEST:
            raise _refused(origin, f"is larger than {LARGEST_MANIFEST >> 10} KiB")
        try:
            record = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
            printable = _printable(record)
        except (ValueError, RecursionError) as error:
            raise _refused(origin, f"is not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise _refused(origin, "is not a JSON object")
        # Before anything else: a newer format may have changed all the rest.
        if _is_count(record.get("format"), 1) and record["format"] > FORMAT:
            raise BundleError(
                f"{origin} has format {record['format']}, made by a newer derain-engine; this reads up to "
                f"{FORMAT}. Upgrade derain-engine, or build the file anew with this version."
            )
        if not printable:  # such as escape sequences aimed at the terminal of whoever looks at the file
            raise _refused(origin, "has control characters in its texts")
        for name, (rule, wanted) in _RULES.items():
            if name not in record:
                raise _refused(origin, f"lacks the field {name!r}")
            if not rule(record[name]):
                raise _refused(origin, f"has a field {name!r} that is not {wanted}")
        record["gpus"] = tuple(record["gpus"])
        record["payloads"] = {
            name: {"sha256": entry["sha256"], "bytes": entry["bytes"]}
            for name, entry in record["payloads"].items()
        }
        return cls(**{name: record[name] for name in _RULES})


def _refused(origin: str, what: str) -> BundleError:
    return BundleError(f"{origin}: its manifest {what}; copy the file again or build it anew.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # NaN, Infinity, and numbers such as 1e999
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _printable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, dict):
        return all(map(_printable, value.keys())) and all(map(_printable, value.values()))
    return not isinstance(value, list) or all(map(_printable, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_edge(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        if value.get("sizes") is not None:
            FrameSizes.from_json(value["sizes"])
        if value.get("size") is not None:
            FrameSizes.only(size_from_json(value["size"]))
    except InputError:
        return False
    return True


def _is_count(value: Any, least: int, most: int | None = None) -> bool:
    return type(value) is int and value >= least and (most is None or value <= most)


def _whole(least: int, most: int) -> _Rule:
    return lambda value: _is_count(value, least, most), f"a whole number from {least} to {most}"


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_payload(value: Any) -> bool:
    return isinstance(value, dict) and _is_sha256(value.get("sha256")) and _is_count(value.get("bytes"), 0)


_TEXT = (_is_text, "a text")
_OBJECT = (lambda value: isinstance(value, dict), "an object")
_EDGE = (_is_edge, "an object of what a frame is")
_SIDE, _OVERLAP = _whole(1, _LARGEST_SIDE), _whole(0, _LARGEST_SIDE)
_SHA256 = (_is_sha256, "a SHA-256 in lower-case hexadecimal")

#: What every field must be.
_RULES: dict[str, _Rule] = {
    "format": _whole(1, FORMAT),
    "architecture": _TEXT,
    "config": _OBJECT,
    "granularity": _SIDE,
    "smallest_side": _SIDE,
    "exact_tiling_halo": (lambda value: value is None or _OVERLAP[0](value), f"null or {_OVERLAP[1]}"),
    "tile_overlap": _OVERLAP,
    "bytes_per_pixel": (lambda value: _is_count(value, 0), "a whole number from 0"),
    "source": _TEXT,
    "weights_sha256": _SHA256,
    "backend": _TEXT,
    "backend_version": _TEXT,
    "precision": _TEXT,
    "gpus": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
    "input": _EDGE,
    "output": _EDGE,
    "payloads": (
        lambda value: isinstance(value, dict) and all(map(_is_payload, value.values())),
        "an object of {sha256, bytes} by name",
    ),
    "verification": _OBJECT,
    "derain_engine": _TEXT,
}
