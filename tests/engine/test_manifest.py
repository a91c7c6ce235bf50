from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derain_engine.base.errors import BundleError
from derain_engine.engine.manifest import Manifest

from ..helpers import RECORD


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe\xfd", "JSON"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b'{"format": 1, "format": 1}', "twice"),
        (b'{"format": NaN}', "finite"),
        (b'{"format": 1, "config": {"a": [-1e999]}}', "finite"),
        (b"[" * 200_000, "JSON"),
        (b"[" * 200_000 + b"]" * 200_000, "JSON"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "larger than 1024 KiB"),
        (b"{}", "lacks the field 'format'"),
    ],
    ids=range(12),
)
def test_manifest_text(text: bytes, word: str) -> None:
    with pytest.raises(BundleError, match=rf"f\.derain: .*{word}"):
        Manifest.from_json(text, "f.derain")


def test_the_text_is_the_same_again() -> None:
    text = Manifest.from_json(json.dumps(RECORD), "f.derain").to_json()
    assert json.loads(text) == RECORD
    assert text == json.dumps(RECORD, indent=2, sort_keys=True) + "\n"


def test_every_field_is_needed() -> None:
    for name in RECORD:
        short = {key: value for key, value in RECORD.items() if key != name}
        with pytest.raises(BundleError, match=rf"f\.derain.* lacks the field '{name}'"):
            Manifest.from_json(json.dumps(short), "f.derain")
    assert set(RECORD) == {field.name for field in dataclasses.fields(Manifest)}


@pytest.mark.parametrize("value", [None, True, -1, 0.5, "", "x", [], [1], {}, {"a": 1}, 2**64], ids=repr)
def test_wrong_types(value: Any) -> None:
    fitting: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(["architecture", "source", "backend", "backend_version", "precision"], ("x",)),
        **dict.fromkeys(["config", "input", "output", "verification"], ({}, {"a": 1})),
        "derain_engine": ("x",),
        "exact_tiling_halo": (None,),
        "bytes_per_pixel": (2**64,),
        "gpus": ([],),
        "payloads": ({},),
    }
    for name in RECORD:
        text = json.dumps({**RECORD, name: value})
        if any(type(value) is type(good) and value == good for good in fitting.get(name, ())):
            Manifest.from_json(text, "f.derain")
        else:
            with pytest.raises(BundleError, match=r"f\.derain"):
                Manifest.from_json(text, "f.derain")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0},
        {"granularity": 0},
        {"granularity": 10**6},
        {"smallest_side": 10**6},
        {"tile_overlap": 10**6},
        {"bytes_per_pixel": -1},
        {"exact_tiling_halo": -1},
        {"weights_sha256": "A" * 64},
        {"gpus": ["sm_90", 90]},
        {"payloads": {"a": {"sha256": "0" * 64, "bytes": -1}}},
        {"payloads": {"a": {"sha256": "0" * 63, "bytes": 1}}},
        {"payloads": {"a": {"sha256": "0" * 64}}},
        {"source": "sid\x1b[2J"},
        {"verification": {"layers": [{"a\n": 1}]}},
        {"config": {"a": "\ud800"}},
    ],
    ids=str,
)
def test_wrong_values(changes: dict[str, Any]) -> None:
    Manifest.from_json(json.dumps(RECORD), "f.derain")
    with pytest.raises(BundleError, match=r"f\.derain"):
        Manifest.from_json(json.dumps(RECORD | changes), "f.derain")


def test_no_manifest_with_nan_as_text() -> None:
    manifest = Manifest.from_json(json.dumps(RECORD), "f.derain")
    with pytest.raises(BundleError, match="finite"):
        dataclasses.replace(manifest, verification={"psnr": float("nan")}).to_json()


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([field.name for field in dataclasses.fields(Manifest)]),
)
def test_any_json_in_a_field_is_refused_or_kept(value: Any, name: str) -> None:
    try:
        manifest = Manifest.from_json(json.dumps({**RECORD, name: value}), "f.derain")
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json(), "f.derain") == manifest
