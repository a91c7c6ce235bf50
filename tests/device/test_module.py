from __future__ import annotations

import struct
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from derain_engine.base.errors import BackendUnavailable, BundleError, DerainError, InputError
from derain_engine.device.graph import Graph
from derain_engine.device.memory import DeviceBuffer
from derain_engine.device.module import Arguments, Module, cubin_target, launch
from derain_engine.device.stream import Stream

from .assemblers import assemblers

#: As Triton declares a kernel, the two pointers to scratch memory at the end included.
TYPES = ("*fp16", "i32", "i64", "fp32", "*i8", "*i8")


@pytest.fixture
def seen(cuda):
    """Record what the kernel ``scale`` is launched with: (grid, values)."""
    launches = []

    def scale(grid, *values):
        launches.append((grid, struct.unpack("<QiqfQQ", b"".join(values))))

    cuda.kernels["scale"] = ((8, 4, 8, 4, 8, 8), scale)
    return launches


def test_a_kernel_gets_its_grid_its_shared_memory_and_its_arguments(cuda, context, cubin, seen):
    module, stream = Module(context, cubin(), "mffb.cubin"), Stream(context)
    function = module.function("scale", shared=1024)
    buffer = DeviceBuffer(context, 64)
    arguments = Arguments(TYPES, (buffer.part(16, 8), -7, 1 << 40, 0.5, None, 0))
    launch(function, (3, 2, 1), 128, arguments, stream)
    assert seen == [((3, 2, 1), (buffer.pointer + 16, -7, 1 << 40, 0.5, 0, 0))]
    call = next(call for call in cuda.calls if call[0] == "cuLaunchKernel")
    assert call[5:9] == (128, 1, 1, 1024) and call[9] is stream.handle
    assert function.parameters == arguments.sizes == (8, 4, 8, 4, 8, 8)
    assert next(iter(cuda.modules.values())) == cubin()


def test_packed_arguments_are_used_again_with_single_values_replaced(context, cubin, seen):
    function, stream = Module(context, cubin(), "m").function("scale"), Stream(context)
    arguments = Arguments(TYPES, (1, 2, 3, 4.0, 5, 6))
    for pointer in (10, np.uint64(2**63)):
        arguments.set(0, pointer)
        launch(function, (1, 1, 1), 32, arguments, stream)
    assert [values for _, values in seen] == [(10, 2, 3, 4.0, 5, 6), (2**63, 2, 3, 4.0, 5, 6)]


def test_launches_are_counted_where_they_happen(cuda, context, cubin, seen):
    function, stream = Module(context, cubin(), "m").function("scale"), Stream(context)
    arguments = Arguments(TYPES, (0, 0, 0, 0.0, 0, 0))
    for grid in ((1, 1, 1), (2, 1, 1), (0, 1, 1), (1, 0, 5)):
        launch(function, grid, 32, arguments, stream)
    assert context.launches == len(seen) == 2
    cuda.fail("cuLaunchKernel", "INVALID_VALUE")
    with pytest.raises(
        DerainError, match=r"launching the kernel scale \(1 x 70000 x 1 blocks of 32 threads\)"
    ):
        launch(function, (1, 70000, 1), 32, arguments, stream)
    assert context.launches == 2


@pytest.mark.parametrize(
    ("types", "values", "problem"),
    [
        (("i32",), (2**31,), r"argument 0 \(i32\) cannot be 2147483648"),
        (("i32", "i64"), (0, 2**63), r"argument 1 \(i64\)"),
        (("i32",), (1.5,), r"\(i32\) cannot be 1.5"),
        (("*u8",), (-1,), r"\(\*u8\) cannot be -1"),
        (("*u8",), ("x",), r"\(\*u8\) cannot be 'x'"),
        (("fp32",), (1e39,), r"\(fp32\) cannot be 1e\+39"),
        (("i32",), (None,), r"\(i32\) cannot be None"),
        (("fp16",), (1.0,), "type 'fp16' are not known; known are"),
        (("i32",), (), "0 kernel arguments were given for 1 types"),
    ],
)
def test_values_that_their_type_cannot_hold_are_refused(types, values, problem):
    with pytest.raises(InputError, match=problem):
        Arguments(types, values)


def test_objects_with_an_address_are_pointers_and_others_are_not(context, cubin, cuda):
    taken = []
    cuda.kernels["two"] = ((8, 4), lambda grid, *values: taken.append(struct.unpack("<Qi", b"".join(values))))
    arguments = Arguments(("*fp32", "i32"), (SimpleNamespace(pointer=99), 1))
    launch(Module(context, cubin(), "m").function("two"), (1, 1, 1), 32, arguments, Stream(context))
    assert taken == [(99, 1)]


def test_a_kernel_without_arguments_is_launched(context, cubin, cuda):
    ran = []
    cuda.kernels["none"] = ((), lambda grid: ran.append(grid))
    launch(Module(context, cubin(), "m").function("none"), (4, 1, 1), 32, Arguments((), ()), Stream(context))
    assert ran == [(4, 1, 1)]


def test_arguments_that_do_not_fit_the_kernel_are_refused_before_the_driver_reads_beyond_them(
    cuda, context, cubin, seen
):
    function, stream = Module(context, cubin(), "m").function("scale"), Stream(context)
    without_scratch = Arguments(TYPES[:4], (0, 0, 0, 0.0))
    swapped = Arguments(("i32", "*fp16", *TYPES[2:]), (0, 0, 0, 0.0, 0, 0))
    for arguments in (without_scratch, swapped):
        with pytest.raises(
            InputError, match=r"scale takes 6 arguments of \(8, 4, 8, 4, 8, 8\) bytes; it was given"
        ):
            launch(function, (1, 1, 1), 32, arguments, stream)
    assert not cuda.called("cuLaunchKernel")


def test_a_driver_too_old_to_tell_a_kernels_parameters_launches_all_the_same(
    cuda, context, cubin, seen, monkeypatch
):
    def missing(self, *arguments):
        raise RuntimeError('Function "cuFuncGetParamInfo" not found')

    monkeypatch.setattr(type(cuda), "cuFuncGetParamInfo", missing)
    function = Module(context, cubin(), "m").function("scale")
    assert function.parameters is None
    launch(function, (1, 1, 1), 32, Arguments(TYPES, (1, 2, 3, 4.0, 5, 6)), Stream(context))
    assert len(seen) == 1


def test_a_kernel_is_loaded_before_a_capture_needs_it(cuda, context, cubin, seen, monkeypatch):
    # The first launch of one that is not loaded is no part of a graph.
    module, stream = Module(context, cubin(), "m"), Stream(context)
    arguments = Arguments(TYPES, (1, 2, 3, 4.0, 5, 6))

    def capture(function):
        return Graph(stream, lambda: launch(function, (1, 1, 1), 32, arguments, stream))

    assert capture(module.function("scale")).kernels == 1
    cuda.fail("cuFuncLoad", "OUT_OF_MEMORY")
    with pytest.raises(DerainError, match="out of memory while loading the kernel scale"):
        module.function("scale")

    def missing(self, function):
        raise RuntimeError('Function "cuFuncLoad" not found')

    monkeypatch.setattr(type(cuda), "cuFuncLoad", missing)
    function = module.function("scale")
    with pytest.raises(DerainError, match=r"launching the kernel scale.*STREAM_CAPTURE_UNSUPPORTED"):
        capture(function)
    launch(function, (1, 1, 1), 32, arguments, stream)
    assert capture(function).kernels == 1


def test_large_shared_memory_is_asked_for_and_too_much_refused(cuda, context, cubin, seen):
    module = Module(context, cubin(), "m")
    module.function("scale", shared=48 * 1024)
    assert not cuda.called("cuFuncSetAttribute")
    module.function("scale", shared=48 * 1024 + 16)
    (call,) = (call for call in cuda.calls if call[0] == "cuFuncSetAttribute")
    assert call[2].name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES" and call[3] == 48 * 1024 + 16
    assert cuda.called("cuFuncSetCacheConfig") == 1
    with pytest.raises(BackendUnavailable, match=r"scale needs 232449 bytes .* at most 232448.*--gpu sm_90"):
        module.function("scale", shared=227 * 1024 + 1)


@pytest.mark.parametrize("code", ["NO_BINARY_FOR_GPU", "UNSUPPORTED_PTX_VERSION"])
def test_a_cubin_for_another_gpu_is_refused_with_both_names(cuda, context, cubin, code):
    cuda.fail("cuModuleLoadData", code)
    with pytest.raises(
        BackendUnavailable, match=r"mffb was built for sm_80; .*9000\) is sm_90\. .*--gpu sm_90"
    ):
        Module(context, cubin(80), "mffb")
    cuda.fail("cuModuleLoadData", "INVALID_IMAGE")
    with pytest.raises(DerainError, match=r"loading mffb.*INVALID_IMAGE"):
        Module(context, cubin(), "mffb")
    assert not cuda.modules


def test_kernels_that_are_not_there_and_closed_modules_are_refused(cuda, context, cubin, seen):
    module, stream = Module(context, cubin(), "mffb.cubin"), Stream(context)
    with pytest.raises(BundleError, match=r"mffb\.cubin has no kernel pffb"):
        module.function("pffb")
    cuda.fail("cuFuncGetParamInfo", "UNKNOWN")
    with pytest.raises(DerainError, match="reading a kernel's parameters"):
        module.function("scale")
    function = module.function("scale")
    module.close()
    with pytest.raises(InputError, match="Module is closed"):
        launch(function, (1, 1, 1), 32, Arguments(TYPES, (1, 2, 3, 4.0, 5, 6)), stream)
    assert not seen


def test_what_is_not_a_whole_cubin_never_reaches_the_driver(cuda, context, cubin):
    longer = bytearray(cubin())
    struct.pack_into("<Q", longer, 40, 64)
    struct.pack_into("<HH", longer, 58, 64, 3)
    other_machine = bytearray(cubin())
    struct.pack_into("<H", other_machine, 18, 62)
    for damaged in (b"", cubin()[:-1], b"\0" * 64, bytes(longer), bytes(other_machine), b".version 8.0"):
        with pytest.raises(BundleError, match="mffb is damaged"):
            Module(context, damaged, "mffb")
    assert cubin_target(bytes(longer) + b"\0" * 192, "m") == "sm_90"
    assert not cuda.called("cuModuleLoadData")


def test_the_target_is_read_in_both_forms(cubin):
    assert cubin_target(cubin(89, abi=51), "m") == "sm_89"
    assert cubin_target(cubin(120, abi=65), "m") == "sm_120"


@pytest.mark.parametrize("target", [80, 86, 89, 90])
def test_real_cubins_are_whole_and_name_their_target(tmp_path, target):
    if not assemblers():
        pytest.skip("no ptxas is here, neither CUDA's nor Triton's")
    source, made = tmp_path / "a.ptx", tmp_path / "a.cubin"
    source.write_text(
        f".version 7.8\n.target sm_{target}\n.address_size 64\n.visible .entry a() {{ ret; }}\n"
    )
    for assembler in assemblers():
        subprocess.run([assembler, f"-arch=sm_{target}", source, "-o", made], check=True, timeout=60)
        cubin = made.read_bytes()
        assert cubin_target(cubin, "a") == f"sm_{target}"
        with pytest.raises(BundleError):
            cubin_target(cubin[:-1], "a")
