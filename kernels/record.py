"""Kernels as records: each kernel file declares its own, and everything else iterates over them.

A kernel file ends in ``NAME = Kernel("file.function", function_kernel, reads="x", writes="out", ...)``. What the record
says in literals (its form: which pointers, sizes and constants a launch takes) is read from the file's source, without
running it: an engine file's plan is checked where neither PyTorch nor Triton is installed, and is opened without
importing them where they are. ``find`` imports the file and gives the whole record. No list of files or kernels exists.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..base.errors import InputError
from .launch import TILE, Call, LaunchConfig

if TYPE_CHECKING:
    from torch import Tensor

#: A pure function of tensors, and the tensors. Results are n x C x H x W, in the order of the kernel's results.
Plain: TypeAlias = tuple[Callable[..., tuple["Tensor", ...]], list["Tensor"]]

#: Sets of pointers that a record names, and all that it says in literals for its form.
_SETS = ("reads", "weights", "biases", "writes", "scratch", "frames")
_LITERALS = ("constants", "sizes", *_SETS)
_FOLDER = Path(__file__).parent
_DECLARES = re.compile(r"^\w+ = Kernel\(", re.MULTILINE)


@dataclass(frozen=True)
class KernelForm:
    """The arguments of a kernel, as far as they are known without PyTorch and Triton.

    pointers, sizes: its run-time arguments by name, in their order. constants: its compile-time arguments but those of
    the configuration. The other sets are of pointers, as :class:`Kernel` says.
    """

    name: str
    pointers: tuple[str, ...]
    sizes: tuple[str, ...]
    constants: frozenset[str]
    reads: frozenset[str]
    weights: frozenset[str]
    biases: frozenset[str]
    writes: frozenset[str]
    scratch: frozenset[str]
    frames: frozenset[str]

    @classmethod
    def of(
        cls, name: str, parameters: Sequence[str], *, constants: str, sizes: str = "H W", **named: str
    ) -> KernelForm:
        """Return the form of a function with these parameters. named: the sets of pointers.

        Raises:
            ValueError: the record and the parameters do not agree.
        """
        sets = {each: frozenset(named.get(each, "").split()) for each in _SETS}
        ordered, compiled = tuple(sizes.split()), frozenset(constants.split())
        pointers = tuple(each for each in parameters if each in frozenset[str]().union(*sets.values()))
        known = {*ordered, *compiled, *TILE}.union(*sets.values())
        wrong = known ^ set(parameters) or sets["frames"] - sets["reads"] - sets["writes"]
        if wrong or tuple(parameters[: len(pointers) + len(ordered)]) != pointers + ordered:
            raise ValueError(f"{name} declares other arguments than {', '.join(parameters)}")
        return cls(name, pointers, ordered, compiled, **sets)

    @property
    def kinds(self) -> str:
        """A letter for each pointer of a plan's step: W for a weight, V for a view of a buffer."""
        return "".join("W" if each in self.weights | self.biases else "V" for each in self.pointers)

    @property
    def results(self) -> tuple[str, ...]:
        """The pointers whose contents a launch is for, in their order."""
        return tuple(each for each in self.pointers if each in self.writes)


def _output_columns(constants: Mapping[str, Any]) -> int:
    return int(constants["N0"]) + int(constants["N1"])


@dataclass(frozen=True, eq=False)
class Kernel:
    """A GPU kernel: what it is launched with, how it is cut, and its mathematics in PyTorch.

    Names of arguments are those of the function's parameters, separated by spaces.

    Attributes:
        name: ``file.function``, which plans and engine files know it by.
        function: Triton's. Its parameters are pointers, then 32-bit sizes, of which the first two are the height and
            width (in pixels) that the tiles of the grid cover, then constants and those of the configuration.
        reads, writes: the maps; one that is updated in place is among both.
        constants: compile-time arguments but those of the configuration.
        plain: the same in PyTorch, from a launch's :class:`.plain.Operands`; None where only tests say what the kernel
            computes.
        weights, biases: packed weights in the plan's type, and those in fp32.
        scratch: memory that is written but is no result.
        frames: of reads and writes, frames from outside, which have a type of their own and may lie anywhere.
        sizes: the 32-bit sizes.
        frame_type: of constants, the type of a frame's elements, such as ``u8``.
        config: a number of channels to a configuration that spills nowhere, for GPUs that were not tuned for.
        multiplies: whether it multiplies matrices, by the GPU's matrix units.
        columns: of constants, how many sums a program keeps for every pixel of its tile.
        tiles: all that it can be cut into, where not every tile will do.
        modelled: whether the usual configuration stands for the cost model's choice in lowering.
        recut: the same launch in another configuration.
        scratch_elements: how much scratch memory a launch over a map of height x width takes.
    """

    name: str
    function: Any = field(repr=False)
    _: KW_ONLY
    reads: str
    writes: str
    constants: str
    plain: Callable[[Any], Plain] | None
    weights: str = ""
    biases: str = ""
    scratch: str = ""
    frames: str = ""
    sizes: str = "H W"
    frame_type: Callable[[Mapping[str, Any]], str] | None = None
    config: Callable[[int], LaunchConfig] = lambda channels: LaunchConfig()
    multiplies: bool = True
    columns: Callable[[Mapping[str, Any]], int] = _output_columns
    tiles: tuple[tuple[int, int], ...] = ()
    modelled: bool = False
    recut: Callable[[Call, LaunchConfig], Call] = lambda call, config: replace(call, config=config)
    scratch_elements: Callable[[Call, int, int], int] | None = None
    form: KernelForm = field(init=False, repr=False)

    def __post_init__(self) -> None:
        literals = {each: getattr(self, each) for each in _LITERALS}
        object.__setattr__(self, "form", KernelForm.of(self.name, self.function.arg_names, **literals))

    def argument_types(self, constants: Mapping[str, Any], dtype: str) -> dict[str, str]:
        """Return the types of all run-time arguments by name, in their order, for maps of ``dtype``."""
        form = self.form
        frame = self.frame_type(constants) if self.frame_type else dtype
        types = {
            each: f"*{'fp32' if each in form.biases else frame if each in form.frames else dtype}"
            for each in form.pointers
        }
        return {**types, **dict.fromkeys(form.sizes, "i32")}

    def launch(self, call: Call, pointers: Sequence[Tensor], sizes: Sequence[int]) -> None:
        """Run the kernel over a map of sizes[0] x sizes[1] pixels: on a GPU, or by Triton's interpreter."""
        options = {"num_warps": call.config.warps, "num_stages": call.config.stages}
        # Said here, since Triton 3.10 changes the default; kernels compiled ahead of time are fused as well.
        options["enable_fp_fusion"] = True
        self.function[call.grid(sizes[0], sizes[1])](*pointers, *sizes, **call.compile_time(), **options)


@lru_cache
def _declared() -> dict[str, tuple[str, KernelForm]]:
    """Read every record in this folder from its source: by the kernel's name, its module and its form."""
    found: dict[str, tuple[str, KernelForm]] = {}
    for file in sorted(_FOLDER.rglob("*.py")):
        text = file.read_text("utf-8")
        if _DECLARES.search(text) is None:
            continue
        parts = file.relative_to(_FOLDER).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for form in _forms_in(ast.parse(text, str(file))):
            if form.name in found:
                raise ValueError(f"{found[form.name][0]} and {module} both declare the kernel {form.name}")
            found[form.name] = module, form
    return found


def _forms_in(tree: ast.Module) -> list[KernelForm]:
    functions = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    found = []
    for node in tree.body:
        record = node.value if isinstance(node, ast.Assign) else None
        if isinstance(record, ast.Call) and ast.unparse(record.func) == Kernel.__name__:
            name, function = record.args
            parameters = [each.arg for each in functions[ast.unparse(function)].args]
            literals = {
                each.arg: ast.literal_eval(each.value) for each in record.keywords if each.arg in _LITERALS
            }
            found.append(KernelForm.of(ast.literal_eval(name), parameters, **literals))
    return found


def forms() -> dict[str, KernelForm]:
    """Return the form of every kernel by its name. Neither PyTorch nor Triton is needed."""
    return {name: form for name, (_, form) in _declared().items()}


def find(name: str) -> Kernel:
    """Return a kernel's record, from its file.

    Raises:
        InputError: there is no such kernel.
    """
    if name not in _declared():
        raise InputError(f"There is no kernel {name}.")
    module = importlib.import_module(f".{_declared()[name][0]}", __package__)
    return next(each for each in vars(module).values() if isinstance(each, Kernel) and each.name == name)


def kernels() -> list[Kernel]:
    """Return every kernel's record, in the order of their files."""
    return [find(name) for name in _declared()]


def heuristic(kernel: str, channels: int, level: int = 0) -> LaunchConfig:
    """Return a configuration that spills nowhere, for GPUs that were not tuned for: the same at every level."""
    return find(kernel).config(channels)
