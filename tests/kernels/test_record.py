"""Every kernel is one record, which is known from its source alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from derain_engine.base.errors import InputError
from derain_engine.kernels import mffb, record
from derain_engine.kernels.record import Kernel, KernelForm, find, forms, kernels


def test_what_the_source_says_is_what_the_record_says():
    assert {kernel.name: kernel.form for kernel in kernels()} == forms()
    assert len(forms()) >= 15


def test_every_kernel_of_this_folder_has_a_record():
    """Find no Triton kernel without one; those of the dark channel are launched by its gradient alone."""
    functions = {kernel.function.__name__ for kernel in kernels()}
    folder = Path(record.__file__).parent
    for file in set(folder.rglob("*.py")) - set((folder / "dark_channel").iterdir()):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                assert node.name in functions, file


def test_records_come_from_their_files():
    assert find("mffb.stage2") is mffb.STAGE2
    for name in ("mffb.stage3", "os.system", ""):
        with pytest.raises(InputError, match=f"There is no kernel {name}"):
            find(name)


def test_forms_need_neither_pytorch_nor_triton():
    program = (
        "import sys\nsys.modules.update(torch=None, triton=None)\n"
        "from derain_engine.kernels.record import forms\n"
        "print(forms()['recurrent.lstm'].kinds, forms()['dense.dense1x1'].sizes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("VVWWVV ('H', 'W', 'SLABS')\n", 0), done.stderr


def test_a_form_has_pointers_in_the_order_of_the_function():
    form = KernelForm.of(
        "a.b",
        ["w", "x", "y", "b", "s", "H", "W", "C", "TILE_H", "TILE_W", "BLOCK_K"],
        reads="x y",
        weights="w",
        biases="b",
        writes="y",
        scratch="s",
        constants="C",
    )
    assert (form.pointers, form.kinds, form.results) == (("w", "x", "y", "b", "s"), "WVVWV", ("y",))


@pytest.mark.parametrize(
    "wrong",
    [
        {"reads": "x z"},
        {"reads": ""},
        {"constants": ""},
        {"constants": "C N"},
        {"sizes": "W H"},
        {"sizes": "H"},
        {"frames": "C"},
        {"weights": "C"},
    ],
    ids=str,
)
def test_a_record_that_does_not_agree_with_its_function_is_refused(wrong):
    said = {"reads": "x", "writes": "out", "constants": "C", **wrong}
    parameters = ["x", "out", "H", "W", "C", "TILE_H", "TILE_W", "BLOCK_K"]
    with pytest.raises(ValueError, match=r"a\.b declares other arguments than x, out, H, W"):
        KernelForm.of("a.b", parameters, **said)


def test_two_kernels_of_one_name_are_refused(tmp_path, monkeypatch):
    source = "def f(x, H, W, TILE_H, TILE_W, BLOCK_K): ...\nF = Kernel('a.f', f, reads='x', writes='', constants='')\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(record, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"a and b both declare the kernel a\.f"):
        record._declared.__wrapped__()


def test_arguments_have_types():
    types = find("pixels.frame_out").argument_types({"BYTES": True}, "fp16")
    assert types == {"frame": "*u8", "rain": "*fp16", "out": "*u8", "H": "i32", "W": "i32", "PADDED_W": "i32"}
    assert find("mffb.stage1").argument_types({}, "bf16")["bias"] == "*fp32"
    assert all(isinstance(kernel, Kernel) for kernel in kernels())
