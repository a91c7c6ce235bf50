from __future__ import annotations

import subprocess
import sys

import pytest

from derain_engine.base.errors import BackendUnavailable, DerainError
from derain_engine.device import driver
from derain_engine.device.context import Context
from derain_engine.device.memory import DeviceBuffer

_WITHOUT_DRIVER = """
import sys
from cuda.bindings import driver as bindings
try:
    bindings.cuInit(0)
except RuntimeError:
    pass
else:
    print("a driver is here")
    sys.exit()
from derain_engine.device import driver
from derain_engine.device.context import Context
print(driver.unavailable())
for ask in (driver.gpus, driver.driver_version, Context):
    try:
        ask()
    except driver.BackendUnavailable as error:
        assert str(error) == driver.unavailable()
"""


def test_a_machine_without_a_driver_says_so():
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    done = subprocess.run([sys.executable, "-c", _WITHOUT_DRIVER], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    if done.stdout == "a driver is here\n":
        pytest.skip("this machine has a driver")
    assert done.stdout.startswith("CUDA needs the NVIDIA driver, which is not on this machine. ")
    assert done.stdout.count("\n") == 1


def test_a_machine_without_cuda_python_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setattr(driver, "bindings", driver.bindings.__wrapped__)
    reason = driver.unavailable()
    assert reason is not None and "pip install 'cuda-python>=12.9'" in reason


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        ("NOT_INITIALIZED", "spawn"),
        ("SYSTEM_DRIVER_MISMATCH", "Restart the machine"),
        ("UNKNOWN", "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_gives_its_reason_and_advice(cuda, code, advice):
    cuda.fail("cuInit", code)
    reason = driver.unavailable()
    assert reason is not None
    assert f"(CUDA_ERROR_{code})" in reason and "meaning of" in reason and advice in reason


def test_a_driver_without_a_gpu_is_no_cuda(cuda):
    cuda.names.clear()
    reason = driver.unavailable()
    assert reason is not None and "finds no GPU" in reason


def test_gpus_are_listed_with_what_they_can_do(cuda):
    cuda.names.append("Second")
    first, second = driver.gpus()
    assert driver.unavailable() is None
    assert (first.name, first.target, first.capability) == ("Stand-in 9000", "sm_90", (9, 0))
    assert (first.memory, first.shared_memory) == (8 << 30, 227 * 1024)
    assert driver.gpu(1) == second and second.name == "Second"
    assert driver.driver_version() == (13, 4)
    cuda.capability = (12, 1)
    assert driver.gpu(0).target == "sm_121"


@pytest.mark.parametrize("index", [-1, 1])
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(cuda, index):
    with pytest.raises(BackendUnavailable, match=rf"number {index} here; there is 0 \(Stand-in 9000\)"):
        Context(index)


def test_check_unpacks_what_comes_beside_the_status(cuda):
    good = cuda.CUresult.CUDA_SUCCESS
    assert driver.check((good,), "x") is None
    assert driver.check((good, 0), "x") == 0
    assert driver.check((good, 1, 2), "x") == (1, 2)
    with pytest.raises(
        DerainError, match=r"^CUDA failed while counting: meaning of 1 \(CUDA_ERROR_INVALID_VALUE\)\.$"
    ):
        driver.check((cuda.CUresult.CUDA_ERROR_INVALID_VALUE, None), "counting")


def test_running_out_of_memory_is_told_with_sizes_and_what_helps(cuda, context):
    cuda.fail("cuMemAlloc", "OUT_OF_MEMORY")
    with pytest.raises(DerainError) as caught:
        DeviceBuffer(context, 3 << 20)
    assert "ran out of memory while allocating 3.0 MiB (8192 MiB of 8192 MiB are free)" in str(caught.value)
    assert "--tile" in str(caught.value)
    cuda.fail("cuMemAlloc", "OUT_OF_MEMORY")
    cuda.fail("cuMemGetInfo", "INVALID_CONTEXT")
    with pytest.raises(DerainError, match=r"allocating 3 bytes\. Try"):
        DeviceBuffer(context, 3)


def test_errors_that_end_the_process_say_so_and_unknown_ones_keep_their_number(cuda):
    lost = driver.failure(cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, "waiting for the GPU")
    assert "until the process is started again" in str(lost)
    cuda.fail("cuGetErrorName", "INVALID_VALUE")
    cuda.fail("cuGetErrorString", "INVALID_VALUE")
    assert "(error 700)" in str(driver.failure(cuda.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, "waiting"))
