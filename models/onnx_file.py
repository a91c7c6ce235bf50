"""A stranger's ONNX model as a network like any other: which of its ports is the image, and what the file does not say.

Value range, colour order and granularity of a model are in no file. What a user does not say is tried on photographs
under synthetic rain, whose truth is known: the range whose images come out as images, the order in which rain is
removed better, the least granularity at which it runs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import CheckpointError, InputError
from ..base.extras import importing
from ..base.progress import Progress, no_progress
from ..base.sizes import padded_side
from .checkpoint import Checkpoint
from .spec import ONNX, ColourOrder, ModelSpec

if TYPE_CHECKING:
    import onnx

    from .onnx_network import OnnxNetwork

#: By name: (factor, summand) from [0, 1].
RANGES: Mapping[str, tuple[float, float]] = {"0..1": (1, 0), "0..255": (255, 0), "-1..1": (2, -1)}
_ORDERS: tuple[ColourOrder, ...] = ("rgb", "bgr")
_GRANULARITIES = (1, 2, 4, 8, 16, 32, 64, 128)
_TRIED_SIDE = 128
#: In pixels; nobody knows the reach of such a network.
_OVERLAP = 64
#: An operator, its inputs beside the image, and its attributes.
_Step = tuple[str, tuple[str, ...], dict[str, Any]]
#: Mean absolute change beyond which what comes out is no cleaned image.
_LARGEST_CHANGE = 0.25


@dataclass(frozen=True)
class OnnxFacts:
    """Facts of an ONNX model, as a user states them; None for what is to be found out.

    value_range: a name of ``RANGES``.
    granularity: in pixels.
    """

    colour_order: ColourOrder | None = None
    value_range: str | None = None
    granularity: int | None = None


def read_onnx(path: Path, facts: OnnxFacts, progress: Progress = no_progress) -> Checkpoint:
    """Read a model from one image to one image, N x 3 x H x W or N x H x W x 3 in float32 or float16.

    Its configuration says what the user stated and, under ``guessed``, what was found out.

    Raises:
        CheckpointError: a damaged file, weights outside of it, other inputs and outputs, or no way of running it that
            gives images back.
        InputError: an unknown range, or a granularity that is none.
        BackendUnavailable: ONNX or ONNX Runtime is not installed.
    """
    if facts.value_range is not None and facts.value_range not in RANGES:
        raise InputError(
            f"There is no value range {facts.value_range!r}; there is {', '.join(map(str, RANGES))}."
        )
    if facts.granularity is not None and not 1 <= facts.granularity <= 1024:
        raise InputError(f"A granularity is 1 to 1024 pixels, not {facts.granularity}.")
    with importing("ONNX models need {}, which is not installed: pip install 'derain-engine[build]'."):
        import onnx
        import onnxruntime  # noqa: F401
    data = path.read_bytes()
    progress("Reading the ONNX model", 0.0)
    try:
        model = onnx.load_model_from_string(data)
        outside = [w.name for w in model.graph.initializer if w.data_location == onnx.TensorProto.EXTERNAL]
        if outside:
            raise CheckpointError(
                f"{path} keeps weights in other files ({outside[0]}), which are not read; save it as one file."
            )
        onnx.checker.check_model(model, full_check=True)
    except CheckpointError:
        raise
    except Exception as error:  # protobuf's and the checker's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} is a damaged ONNX model: {reason}.") from error
    image = _image(path, model)
    model = _named(model)
    tried = _Trial(path, model, image, facts, progress)
    granularity, colour_order, value_range = tried.best()
    given = (facts.colour_order, facts.granularity or image.size, facts.value_range)
    config: dict[str, Any] = {"colour_order": colour_order, "granularity": granularity, "range": value_range}
    config["guessed"] = [name for name, value in zip(config, given, strict=True) if value is None]
    config["size"] = None if image.size is None else list(image.size)
    spec = ModelSpec(
        ONNX,
        config,
        granularity=granularity,
        smallest_side=granularity,
        tile_overlap=padded_side(_OVERLAP, granularity),
    )
    return Checkpoint(
        spec=spec,
        network=tried.network(colour_order, value_range).eval(),
        weights_sha256=hashlib.sha256(data).hexdigest(),
        colour_order=colour_order,
        source=path,
        metadata={each.key: each.value for each in model.metadata_props},
        format="onnx",
    )


@dataclass(frozen=True)
class _Image:
    """The ports of a graph from one image to one image.

    input, output: their names.
    last: whether channels come last.
    half: whether images are fp16.
    size: (height, width) of the only images that the graph takes, where it names them.
    """

    input: str
    output: str
    last: bool
    half: bool
    size: tuple[int, int] | None


def _image(path: Path, model: onnx.ModelProto) -> _Image:
    import onnx

    graph = model.graph
    weights = {each.name for each in graph.initializer}
    ports = [each for each in graph.input if each.name not in weights], list(graph.output)
    for what, values in zip(("inputs", "outputs"), ports, strict=True):
        if len(values) != 1:
            names = ", ".join(each.name for each in values) or "none"
            raise CheckpointError(f"{path} has {len(values)} {what} ({names}); it must have one, the image.")
    kinds = [values[0].type.tensor_type for values in ports]
    dims = [[each.dim_value for each in kind.shape.dim] for kind in kinds]
    types = {kind.elem_type for kind in kinds}
    last = len(dims[0]) == 4 and dims[0][3] == 3 and dims[0][1] != 3
    known = types <= {onnx.TensorProto.FLOAT} or types <= {onnx.TensorProto.FLOAT16}
    if len(dims[0]) != 4 or dims[0][3 if last else 1] not in (0, 3) or not known:
        kind = onnx.TensorProto.DataType.Name(kinds[0].elem_type).lower()
        shape = " x ".join(str(each or "?") for each in dims[0])
        raise CheckpointError(
            f"{path} takes {shape} of {kind}; it must take images, N x 3 x H x W or N x H x W x 3 of float or float16."
        )
    height, width = dims[0][1:3] if last else dims[0][2:4]
    size = (height, width) if height and width else None
    return _Image(ports[0][0].name, ports[1][0].name, last, onnx.TensorProto.FLOAT16 in types, size)


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with names for all nodes, of which none, nor a tensor's, is one that is added here."""
    from onnx import compose

    named = compose.add_prefix(model, "model/")
    for i, node in enumerate(named.graph.node):
        node.name = f"{node.op_type}_{i}" if node.name in ("", "model/") else f"{node.name}_{i}"
    return named


def _from_rainy_to_clean(
    model: onnx.ModelProto, image: _Image, colour_order: ColourOrder, value_range: str
) -> onnx.ModelProto:
    """Return the model from ``rainy`` to ``clean``, both N x 3 x H x W float32, RGB in [0, 1]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    factor, summand = RANGES[value_range]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {
        "order": np.array([2, 1, 0], np.int64),
        "factor": np.array(factor, np.float32),
        "summand": np.array(summand, np.float32),
    }
    swap: _Step = ("Gather", ("order",), {"axis": 1})
    # Whether it has to be done, how, and how it is undone.
    conversions: tuple[tuple[bool, _Step, _Step], ...] = (
        (colour_order == "bgr", swap, swap),
        (factor != 1, ("Mul", ("factor",), {}), ("Div", ("factor",), {})),
        (summand != 0, ("Add", ("summand",), {}), ("Sub", ("summand",), {})),
        (image.last, ("Transpose", (), {"perm": [0, 2, 3, 1]}), ("Transpose", (), {"perm": [0, 3, 1, 2]})),
        (image.half, ("Cast", (), {"to": TensorProto.FLOAT16}), ("Cast", (), {"to": TensorProto.FLOAT})),
    )
    steps = [there for wanted, there, _ in conversions if wanted]
    back = [undone for wanted, _, undone in reversed(conversions) if wanted]

    def chain(
        name: str, steps: Sequence[_Step], source: str, between: str, target: str
    ) -> list[onnx.NodeProto]:
        steps = steps or [("Identity", (), {})]
        names = [source, *(f"{between}_{i}" for i in range(len(steps) - 1)), target]
        return [
            helper.make_node(kind, [names[i], *more], [names[i + 1]], name=f"{name}_{i}", **attributes)
            for i, (kind, more, attributes) in enumerate(steps)
        ]

    nodes = [
        *chain("image_in", steps, "rainy", "rainy", f"model/{image.input}"),
        *graph.node,
        *chain("image_out", back, f"model/{image.output}", "clean", "clean"),
    ]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for _, more, _ in steps for name in more}
    graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in sorted(used))
    sides: Sequence[int | str] = image.size or ("height", "width")
    for name, ports in (("rainy", graph.input), ("clean", graph.output)):
        ports.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, *sides]))
    return result


class _Trial:
    """A model that is tried on photographs under synthetic rain."""

    def __init__(
        self, path: Path, model: onnx.ModelProto, image: _Image, facts: OnnxFacts, progress: Progress
    ) -> None:
        self.path, self.model, self.image, self.facts, self.progress = path, model, image, facts, progress
        self.made: dict[tuple[ColourOrder, str], OnnxNetwork] = {}

    def network(self, colour_order: ColourOrder, value_range: str) -> OnnxNetwork:
        from .onnx_network import OnnxNetwork

        key = colour_order, value_range
        if key not in self.made:
            try:
                self.made[key] = OnnxNetwork(_from_rainy_to_clean(self.model, self.image, *key))
            except RuntimeError as error:
                raise CheckpointError(
                    f"ONNX Runtime does not take {self.path}: {str(error).strip().splitlines()[0]}"
                ) from error
        return self.made[key]

    def best(self) -> tuple[int, ColourOrder, str]:
        """Return (granularity, colour order, range), as stated or as found."""
        granularity = self._granularity()
        ranges = [self.facts.value_range] if self.facts.value_range else list(RANGES)
        orders: Sequence[ColourOrder] = [self.facts.colour_order] if self.facts.colour_order else _ORDERS
        pairs = list(itertools.product(ranges, orders))
        errors: dict[tuple[str, ColourOrder], float] = {}
        for i, (value_range, order) in enumerate(pairs):
            self.progress("Trying the ONNX model", i / len(pairs))
            errors[value_range, order] = self._error(self.network(order, value_range), granularity)
        value_range, order = min(errors, key=lambda each: errors[each])
        if not errors[value_range, order] <= _LARGEST_CHANGE:
            raise CheckpointError(
                f"{self.path} gives no cleaned images back in any value range and colour order that was tried; it must "
                "lead from a rainy image to the clean one. Name its --range and --colour-order if it does."
            )
        return granularity, order, value_range

    def _error(self, network: OnnxNetwork, granularity: int) -> float:
        """Return the mean absolute distance from the truth."""
        from ..samples.photographs import rainy_pairs

        side = padded_side(_TRIED_SIDE, granularity)
        size = self.image.size or (side, side)
        errors = []
        for rainy, truth in rainy_pairs(*size).values():
            found = self._run(network, rainy.transpose(2, 0, 1)[None])
            if found is None or not np.isfinite(found).all():
                return np.inf
            errors.append(float(np.abs(found[0].transpose(1, 2, 0) - truth).mean()))
        return sum(errors) / len(errors)

    def _granularity(self) -> int:
        if self.facts.granularity is not None:
            return self.facts.granularity
        if self.image.size is not None:
            return 1
        network = self.network("rgb", "0..1")
        for granularity in _GRANULARITIES:
            side = padded_side(64, granularity) + granularity
            image = np.full((1, 3, side, side + 2 * granularity), 0.5, np.float32)
            if self._run(network, image) is not None:
                return granularity
        raise CheckpointError(
            f"{self.path} runs at no size that was tried, up to multiples of {_GRANULARITIES[-1]}; name its "
            "--granularity."
        )

    def _run(self, network: OnnxNetwork, image: np.ndarray) -> np.ndarray | None:
        """Return the result; None where it does not run, or gives an image of another size."""
        import torch

        try:
            with torch.inference_mode():
                found = network(torch.from_numpy(np.ascontiguousarray(image))).numpy()
        except RuntimeError:
            return None
        return found if found.shape == image.shape else None
