"""The options of a build, for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..base.errors import InputError
from ..base.options import option, require_valid
from ..base.sizes import LARGEST_SIDE, FrameSizes, Size, parse_size, words
from ..models.spec import ColourChoice, ModelSpec

if TYPE_CHECKING:
    from .backends.base import Backend

_ValueRange = Literal["0..1", "0..255", "-1..1"]
_HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
#: Names under which a user may accept a missed check.
CHECKS = ("psnr", "max-abs", "uint8", "quality")
#: Frames that engines of a range of sizes are fastest for and take at most, unless told otherwise: up to full HD.
_USUAL, _MOST = (512, 512), (1088, 1920)


def _sizes(default: Any, **meaning: Any) -> Any:
    return option(default, parse=parse_size, metavar="HxW", **meaning)


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a number of MiB, 1 or more.")
    return int(text) << 20


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """All that an engine may be built with. Sizes are (height, width) in pixels.

    backend: a name of ``engine.backends``. precision: by default the fastest that the machine computes in, or fp32
    where the engine misses its comparison in that.
    shape: rounded up to what the network takes. Smaller frames are padded to it, larger ones run in tiles, but by
    backends whose engines take all sizes: of these it is made fastest for this one.
    colour_order, network_options, arch: as ``colour_order``, ``options`` and ``arch`` of
    ``models.checkpoint.load_checkpoint``. value_range, granularity: of an ONNX model, as for ``load_model``.
    gpu: ``current``, ``all`` or names such as ``sm_80,sm_90``. The machine need not have one: then what the engine
    computes is compared on the CPU (``verification.emulated``).
    min_shape, opt_shapes, max_shape: for backends whose engines take a range of sizes: the least frames, those to be
    fastest for, and the most. Smaller frames are padded, larger ones run in tiles.
    workspace: in bytes.

    Raises:
        InputError: a backend, precision or check that does not exist, options that exclude each other, or one that the
            backend does not take.
    """

    backend: str | None = option(None, help="What runs the engine; by default the fastest for this machine.")
    precision: str | None = option(
        None, help="fp32, bf16, ...; by default the fastest of this machine that is close enough."
    )
    shape: Size | None = _sizes(None, help="Height and width in pixels, for an engine of this one size.")
    colour_order: ColourChoice = option(
        "auto", help="Channel order of the images that the model was trained on."
    )
    network_options: Mapping[str, Any] | None = option(
        None,
        help="An option of the network that its weights do not tell, such as pyramid=maxpool; may be repeated.",
        flags=("--option",),
        metavar="NAME=VALUE",
    )
    arch: str | None = option(
        None,
        help="The network's architecture, such as prenet-lstm, where its weights do not tell.",
        metavar="NAME",
    )
    value_range: _ValueRange | None = option(
        None, help="Of the images of an ONNX model.", flags=("--range",), shown="tried"
    )
    granularity: int | None = option(
        None,
        help="Of which the sides of an ONNX model's images must be multiples.",
        metavar="PIXELS",
        least=1,
        shown="tried",
    )
    gpu: str | None = option(
        None,
        help="The GPUs to build for, such as sm_80,sm_90, for backends that run on one.",
        metavar="current|all|LIST",
        shown="this machine's",
    )
    min_shape: Size | None = _sizes(
        None,
        help="Of the least frames, for TensorRT; smaller ones are padded.",
        flags=("--min",),
        shown="the network's least",
    )
    opt_shapes: tuple[Size, ...] = _sizes(
        (),
        help="Of the frames to be fastest for, for TensorRT; may be repeated.",
        flags=("--opt",),
        shown=words(_USUAL),
    )
    max_shape: Size | None = _sizes(
        None,
        help="Of the largest frames, for TensorRT; larger ones are cleaned in tiles.",
        flags=("--max",),
        shown=words(_MOST),
    )
    repair: Literal["auto", "off"] = option(
        "auto", help="Keep in fp32 what fp16 breaks, for TensorRT, or leave such a network alone."
    )
    workspace: int | None = option(
        None,
        help="Most memory that a layer may take for itself, for TensorRT.",
        parse=_mebibytes,
        metavar="MIB",
        least=1,
    )
    hardware_compatibility: _HardwareCompatibility | None = option(
        None, help="Other GPUs that the engine has to run on, for TensorRT."
    )
    version_compatible: bool = option(
        False, help="Let later versions run the engine, for TensorRT.", flags=("--version-compatible",)
    )
    plugins: bool = option(
        False,
        help="Put this project's own kernels into the engine, for TensorRT; needs Triton.",
        flags=("--plugins",),
    )
    accept: tuple[str, ...] = option(
        (),
        help=f"Write the engine although it misses this check ({', '.join(CHECKS)}); may be repeated.",
        metavar="CHECK",
    )

    def __post_init__(self) -> None:
        for what, given, known in (
            ("hardware compatibility", self.hardware_compatibility, get_args(_HardwareCompatibility)),
            ("value range", self.value_range, get_args(_ValueRange)),
        ):
            if given not in (None, *known):
                raise InputError(f"There is no {what} {given!r}; there is {', '.join(known)}.")
        require_valid(self)
        if unknown := sorted(set(self.accept) - set(CHECKS)):
            raise InputError(f"There is no check {unknown[0]!r} to accept; checks: {', '.join(CHECKS)}.")
        from .backends.base import require_precision

        chosen = self.find_backend()
        require_precision(chosen.name, chosen.precisions, self.precision)
        if self.gpu is not None and not chosen.on_gpu:
            raise InputError(
                f"The {chosen.name} backend runs on CPUs; leave --gpu out, or choose another --backend."
            )
        ranged = bool(self.min_shape or self.opt_shapes or self.max_shape)
        for name, flags, given in (
            ("sizes", "--min, --opt and --max", ranged),
            ("workspace", "--workspace", self.workspace is not None),
            ("hardware_compatibility", "--hardware-compatibility", self.hardware_compatibility is not None),
            ("version_compatible", "--version-compatible", self.version_compatible),
            ("plugins", "--plugins", self.plugins),
        ):
            if given and name not in chosen.takes:
                raise InputError(
                    f"The {chosen.name} backend does not take {flags}; leave that out, or choose another --backend."
                )
        if self.shape and ranged:
            raise InputError("An engine of one --shape has no --min, --opt or --max; leave these out.")
        for size in (self.shape, self.min_shape, *self.opt_shapes, self.max_shape):
            if size is not None and not all(0 < side <= LARGEST_SIDE for side in size):
                raise InputError(f"A shape's sides are 1 to {LARGEST_SIDE} pixels, not {words(size)}.")

    def find_backend(self) -> Backend:
        """Return the backend that is named, or the default one. Raises InputError where there is none of that name."""
        from . import backends

        return backends.get(self.backend or backends.default_name())

    def sizes_for(self, spec: ModelSpec, model: object = "The model") -> FrameSizes:
        """Return the frames that an engine of a network is asked to take: ``shape`` alone, a range for backends that
        take one, or all that the network takes.

        Args:
            model: for errors.

        Raises:
            InputError: sides that become smaller, or other sizes than the only one of the network.
        """
        every = spec.sizes
        if every.fixed:
            if self.shape not in (None, every.least) or self.min_shape or self.opt_shapes or self.max_shape:
                raise InputError(
                    f"{model} was made for frames of {words(every.least)} alone; name no other sizes."
                )
            return every
        if self.shape:
            return FrameSizes.only(every.padded(*self.shape), every.alignment)
        if "sizes" not in self.find_backend().takes:
            return every
        low = every.padded(*(self.min_shape or (1, 1)))
        usual = [every.padded(*each) for each in self.opt_shapes]
        high = (
            every.padded(*self.max_shape) if self.max_shape else _around([every.padded(*_MOST), low, *usual])
        )
        if not usual:
            usual = [FrameSizes(low, (low,), high).nearest(*every.padded(*_USUAL))]
        return FrameSizes(low, tuple(dict.fromkeys(usual)), high, every.alignment)


def _around(sizes: Sequence[Size]) -> Size:
    """Return the least size that holds all."""
    return max(size[0] for size in sizes), max(size[1] for size in sizes)
