"""Trained weights from a file to a network, and back: the published layout and derain-engine's own.

Inside this package a network takes and gives RGB images, holds fp32 weights, and shares what it shares. Files differ:
the authors' hold BGR networks with every alias as a key of its own. This is the only place that knows of that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..base.errors import CheckpointError, InputError
from ..base.extras import importing
from ..base.files import atomic_write
from .model_file import ModelFile, read_model_file
from .spec import ColourChoice, ColourOrder, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .architecture import Architecture

#: Version of derain-engine's own weight files.
FORMAT = 1
# One metadata entry, since safetensors writes several in no fixed order and files must be reproducible.
_METADATA_KEY = "derain-engine"
_WRAPPERS = ("net", "state_dict", "model", "params")
_PREFIXES = ("module.", "_orig_mod.")
# Of two architectures with the same keys, the likelier one's probe has to be so many times smaller than the other's.
# The closest published files (PReNet6_LSTM, as itself and as PReNet) have a ratio of 3.6.
_CLEARLY = 2.0


@dataclass(frozen=True)
class Checkpoint:
    """A network read from a file.

    spec: which network it is.
    network: RGB, fp32, on the CPU, in eval mode, without gradients.
    weights_sha256: of its weights in that form, so that one network has one hash in whatever file it comes.
    colour_order: the channel order that the file's weights were for, as found, assumed or told.
    source: the file.
    metadata: text that the file carries.
    format: ``torch``, ``torch-legacy`` or ``safetensors``.
    """

    spec: ModelSpec
    network: nn.Module = field(repr=False)
    weights_sha256: str
    colour_order: ColourOrder
    source: Path
    metadata: Mapping[str, str]
    format: str


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    colour_order: ColourChoice = "auto",
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
) -> Checkpoint:
    """Read trained weights: a PyTorch file (bare or wrapped state dict) or safetensors, recognised by content.

    The architecture is recognised by the keys and its configuration deduced from the shapes. Code in the file is
    never run.

    Args:
        path: the file; its name plays no part.
        colour_order: channel order of the images that the weights were trained on. ``auto`` takes what the file
            says, or else the order of the architecture's published files (BGR for SSID-KD).
        options: configuration fields that leave no trace in the weights, by name, such as ``{"pyramid": "maxpool"}``;
            they go before what the file says.
        arch: name of the architecture, where two have the same keys; what the file says, or else a try on a picture
            without rain, decides without it.

    Raises:
        CheckpointError: the file is not a model, is damaged, is of no known architecture, does not fit its own or that
            of ``arch``, or may be of one or another.
        InputError: ``colour_order`` is none of the three, or there is no such ``arch``.
        BackendUnavailable: PyTorch or safetensors is not installed.
    """
    if colour_order not in ("auto", "rgb", "bgr"):
        raise InputError(f"colour_order must be auto, rgb or bgr, not {colour_order!r}.")
    _require_torch()
    path = Path(path)
    file = read_model_file(path)
    header = _own_header(path, file)
    state = _state_dict(path, file.content)
    known = _possible(path, state, header, arch)
    state = _as_fp32(path, state)
    read = [_read_as(each, path, state, header, colour_order, options or {}) for each in known]
    found = read[0] if len(read) == 1 else _likelier(path, read)
    return Checkpoint(
        spec=found.spec,
        network=found.network,
        weights_sha256=weights_sha256(
            found.architecture.compact(found.network.state_dict(), found.spec.config)
        ),
        colour_order=found.colour_order,
        source=path,
        metadata=header.get("metadata", file.metadata),
        format=file.format,
    )


def save_checkpoint(
    path: str | os.PathLike[str],
    network: nn.Module,
    architecture: str,
    *,
    metadata: Mapping[str, str],
    dtype: Literal["fp32", "fp16"] = "fp32",
) -> None:
    """Write an RGB network to derain-engine's own file.

    It is safetensors, with shared weights once, and the configuration and ``metadata`` in the header. The same network
    and metadata give the same bytes.

    Raises:
        CheckpointError: a weight is NaN or infinite, in fp16 also where it is beyond 65504.
        InputError: the file cannot be written.
    """
    _require_torch()
    import safetensors.torch
    import torch

    from . import registry

    known = registry.architectures()[architecture]
    config = known.normalise(network.config)
    target = {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    state = {
        key: tensor.detach().to("cpu", target).contiguous()
        for key, tensor in known.compact(network.state_dict(), config).items()
    }
    _check_finite(path, state)
    header = {
        "format": FORMAT,
        "architecture": architecture,
        "config": config,
        "colour_order": "rgb",
        "metadata": dict(metadata),
    }
    content = safetensors.torch.save(state, {_METADATA_KEY: json.dumps(header, sort_keys=True)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash name, dtype, shape and bytes of every tensor by SHA-256, in the order of the names.

    Args:
        state: a compact RGB fp32 state dict on the CPU.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        array = state[key].detach().contiguous().numpy()
        digest.update(json.dumps([key, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _require_torch() -> None:
    with importing(
        "Reading and writing weights needs {}, which is not installed: pip install 'derain-engine[build]'."
    ):
        import safetensors  # noqa: F401
        import torch  # noqa: F401


def _own_header(path: Path, file: ModelFile) -> dict[str, Any]:
    """Return what derain-engine wrote into the file, checked; empty for other people's files."""
    if _METADATA_KEY not in file.metadata:
        return {}
    try:
        header = json.loads(file.metadata[_METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not JSON.") from error
    version = header.get("format") if isinstance(header, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path} is damaged: its header has no format version.")
    if version > FORMAT:
        raise CheckpointError(
            f"{path} has weight format {version} of a newer derain-engine; this one reads up to {FORMAT}."
        )
    texts = header.get("metadata")
    if (
        not isinstance(header.get("architecture"), str)
        or not isinstance(header.get("config"), dict)
        or header.get("colour_order") not in ("rgb", "bgr")
        or not isinstance(texts, dict)
        or not all(isinstance(text, str) for text in texts.values())
    ):
        raise CheckpointError(f"{path} is damaged: its header lacks a field or holds one of the wrong kind.")
    return header


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """Return the named tensors in what a file holds, without wrappers and prefixes of DataParallel and compile."""
    import torch

    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not any(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise CheckpointError(f"{path} holds no state dict, neither bare nor under {', '.join(_WRAPPERS)}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path} has a {type(value).__name__} under {key!r} where a named tensor is expected."
            )
        if len(key) > 200 or not key.isprintable():
            raise CheckpointError(f"{path} has a tensor whose name is not one: {key[:100]!r}.")
    state: dict[str, Tensor] = dict(content)
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


@dataclass(frozen=True)
class _Read:
    """A file's weights, read as an architecture's."""

    architecture: Architecture
    spec: ModelSpec
    network: nn.Module
    colour_order: ColourOrder


def _possible(
    path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any], arch: str | None
) -> list[Architecture]:
    """Return the architectures that the file may be of: one, unless several have its keys and nothing says which."""
    from . import registry

    known = registry.architectures()
    if arch is not None and arch not in known:
        raise InputError(f"There is no architecture {arch!r}; there is {', '.join(known)}.")
    found = registry.recognise(state)
    said = arch or header.get("architecture")
    fitting = [each for each in found if said in (None, each.name)]
    if fitting:
        return fitting
    if arch is not None and found:
        names = " or ".join(each.name for each in found)
        raise CheckpointError(f"{path} holds a network of {names} by its keys, not of {arch}.")
    claim = f" (it says {header['architecture'][:50]!r})" if header else ""
    raise CheckpointError(
        f"{path} holds a network that this version does not know{claim}, with {_some(state)}; "
        f"it knows {', '.join(known)}."
    )


def _read_as(
    architecture: Architecture,
    path: Path,
    state: Mapping[str, Tensor],
    header: Mapping[str, Any],
    colour_order: ColourChoice,
    options: Mapping[str, Any],
) -> _Read:
    """Make the network of an architecture out of a file's weights.

    Raises:
        CheckpointError: they do not fit it.
    """
    import torch

    from . import registry

    try:
        config = architecture.deduce(state, {**header.get("config", {}), **options})
        spec = registry.spec_of(architecture.name, config)
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit {architecture.name}: {error}.") from error
    # Without memory or random numbers: the file's tensors become the network's.
    with torch.device("meta"):
        network = registry.create(spec)
    _compare(path, architecture.name, architecture.expand(state, spec.config), network.state_dict())
    order = colour_order
    if order == "auto":
        order = header.get("colour_order", architecture.protocol.colour_order)
    # Memory of their own, so that the file can go and weights that are not shared can be trained apart.
    weights = {
        key: torch.empty(tensor.shape).copy_(tensor)
        for key, tensor in architecture.compact(state, spec.config).items()
    }
    if order != "rgb":
        weights = architecture.swap_colours(weights)
    network.load_state_dict(architecture.expand(weights, spec.config), assign=True)
    network.requires_grad_(False).eval()
    return _Read(architecture, spec, network, order)


def _likelier(path: Path, read: Sequence[_Read]) -> _Read:
    """Return the one of several architectures with the same keys that the weights were trained in, by their probes."""
    errors = [each.architecture.probe(each.network) for each in read if each.architecture.probe is not None]
    best, second = sorted(errors)[:2]
    if not best * _CLEARLY <= second:
        names = [each.spec.architecture for each in read]
        raise CheckpointError(
            f"{path} holds a network of {' or '.join(names)}, whose weights look alike, and trying it does not tell "
            f"which; say so with --arch {names[0]} or --arch {names[1]} (in Python arch=...)."
        )
    return read[errors.index(best)]


def _as_fp32(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as finite fp32 numbers; keys that are aliases of one tensor get the same tensor object."""
    import torch

    floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    distinct: dict[tuple[Any, ...], Tensor] = {}
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
        if not plain or tensor.layout != torch.strided or tensor.dtype not in floats:
            kind = str(tensor.dtype).removeprefix("torch.")
            kind = "meta" if tensor.is_meta else "sparse" if tensor.is_sparse else kind
            raise CheckpointError(f"{path}: {key} is {kind}, not a plain tensor of floating-point numbers.")
        # A tensor may repeat one number over any size; a copy of it would need memory that the file never had.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {key} is larger than what the file stores for it.")
        alias = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if alias not in distinct:
            distinct[alias] = tensor.detach().to(torch.float32)
        converted[key] = distinct[alias]
    _check_finite(path, converted)
    return converted


def _check_finite(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> None:
    bad = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{path}: NaN or infinity in {_some(bad)}; the training of these weights failed."
        )


def _compare(path: Path, name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming keys, unless both have the same keys and shapes."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    found = (("missing", missing), ("unexpected", extra), ("of another shape", misshapen))
    if problems := [f"{what}: {_some(keys)}" for what, keys in found if keys]:
        raise CheckpointError(f"{path} does not fit {name}; {'; '.join(problems)}.")


def _some(keys: Iterable[str]) -> str:
    """Name the first keys and the number of all, for a message."""
    keys = list(keys)
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} ({', '.join(keys[:3])}{more})"
