"""The contents of a fused engine, whose kernels fit which GPU, and what is compiled where there are none."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import BackendUnavailable, BuildError, BundleError, DerainError, InputError
from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.engine.backends.fused import payload
from derain_engine.engine.backends.fused.backend import _fitting, backend
from derain_engine.kernels.aot import distinct, picture_calls, specialisation
from derain_engine.models.ssid_kd import SSIDKD
from derain_engine.plan import Plan

from ....device.conftest import StandIn
from ..conftest import SPEC
from ..fused_stand_in import StandInCompiler

PLAN, WEIGHTS, KERNELS = "fused/plan.json", "fused/weights.bin", "fused/sm_90/kernels.json"


def without(artefact: Artefact, name: str) -> Artefact:
    return replace(
        artefact, payloads={key: artefact.payloads[key] for key in artefact.payloads if key != name}
    )


def changed(artefact: Artefact, name: str, data: bytes) -> Artefact:
    return replace(artefact, payloads={**artefact.payloads, name: data})


def edited(artefact: Artefact, edit: Callable[[dict[str, Any]], object]) -> Artefact:
    table = json.loads(bytes(artefact.payloads[KERNELS]))
    edit(table)
    return changed(artefact, KERNELS, json.dumps(table).encode())


def test_payloads_come_back_as_they_were(
    fused_artefact: Artefact, fused_plan: Plan, compiler: StandInCompiler
) -> None:
    assert fused_artefact.gpus == payload.targets(fused_artefact.payloads) == ("sm_90",)
    assert payload.read_plan(fused_artefact.payloads, "sm_90") == fused_plan
    kernels = payload.read_kernels(fused_artefact.payloads, "sm_90")
    wanted = [*fused_plan.calls(), *(call for call in picture_calls() if not call.constants["BGR"])]
    assert {specialisation(kernel.call) for kernel in kernels} == {*map(specialisation, wanted)}
    assert len(kernels) == len(distinct(wanted)) and [call.kernel for call in fused_plan.calls()] == [
        kernel.call.kernel for kernel in kernels if not kernel.call.kernel.startswith("pixels.")
    ]
    repacked = payload.pack_kernels("sm_90", kernels)
    assert {name: fused_artefact.payloads[name] for name in repacked} == repacked
    assert fused_artefact.payloads.keys() - repacked.keys() == {PLAN, WEIGHTS}


def test_a_plan_tuned_for_a_gpu_stands_beside_the_plan_for_any(fused_plan: Plan) -> None:
    def cut(plan: Plan) -> Plan:
        steps = tuple(
            replace(step, call=replace(step.call, config=replace(step.call.config, warps=2)))
            for step in plan.steps
        )
        return replace(plan, steps=steps)

    tuned = cut(fused_plan)
    payloads = payload.pack_plans(fused_plan, {"sm_80": fused_plan, "sm_90": tuned})
    # What does not differ is not stored again, and weights are there once.
    assert payloads.keys() == {PLAN, WEIGHTS, "fused/sm_90/plan.json"}
    assert payload.read_plan(payloads, "sm_90") == tuned != fused_plan
    for target in ("sm_80", "sm_120", None):
        assert payload.read_plan(payloads, target) == fused_plan


@pytest.mark.parametrize("name", [PLAN, WEIGHTS])
@pytest.mark.parametrize("open_", [backend.open, lambda artefact, _: backend.emulate(artefact)])
def test_a_missing_payload_is_named(fused_artefact: Artefact, name: str, open_: Callable[..., Any]) -> None:
    with pytest.raises(BundleError, match=f"has no {name}; it is not a whole fused engine"):
        open_(without(fused_artefact, name), RunOptions())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (PLAN, b"{"),
        (PLAN, b"[" * 200_000),
        (PLAN, b"{}"),
        (WEIGHTS, b""),
        (WEIGHTS, b"short"),
        (KERNELS, b"{"),
        (KERNELS, b"[" * 200_000),
        (KERNELS, b"[]"),
        (KERNELS, b'{"format": 1, "kernels": 5}'),
        (KERNELS, b'{"format": 1, "kernels": [{}]}'),
    ],
)
def test_a_damaged_payload_is_named(fused_artefact: Artefact, name: str, data: bytes) -> None:
    words = "kernels.json is damaged" if name == KERNELS else "plan is damaged"
    with pytest.raises(BundleError, match=words):
        backend.open(changed(fused_artefact, name, data), RunOptions())


def test_newer_formats_are_told_as_such(fused_artefact: Artefact) -> None:
    newer = edited(fused_artefact, lambda table: table.update(format=2))
    with pytest.raises(BundleError, match=r"kernels\.json has format 2, and this version reads 1"):
        backend.open(newer, RunOptions())
    plan = json.loads(bytes(fused_artefact.payloads[PLAN]))
    newer = changed(fused_artefact, PLAN, json.dumps({**plan, "format": 2}).encode())
    with pytest.raises(BundleError, match="plan has format 2, and this version reads 1"):
        backend.open(newer, RunOptions())


def test_a_cubin_that_is_another_is_named(fused_artefact: Artefact) -> None:
    file = sorted(name for name in fused_artefact.payloads if name.endswith(".cubin"))[0]
    with pytest.raises(BundleError, match=f"{file} is not the kernel that it was built with"):
        backend.open(changed(fused_artefact, file, b"\x7fELF another"), RunOptions())
    with pytest.raises(BundleError, match=f"has no {file}"):
        backend.open(without(fused_artefact, file), RunOptions())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("warps", 0),
        ("warps", 1 << 70),
        ("warps", "4"),
        ("warps", float("inf")),
        ("shared", -1),
        ("shared", 1 << 70),
        ("symbol", "\ud800"),
        ("symbol", "a\nb"),
        ("symbol", 7),
        ("file", ["x"]),
        ("file", "../../etc/passwd"),
        ("arguments", 5),
        ("call", {}),
        ("call", {"kernel": "no.such", "constants": {}, "config": {}}),
        ("call", {"kernel": "pixels.frame_in", "constants": {}, "config": {}}),
        ("call", {"kernel": "pixels.frame_in", "constants": [], "config": {}}),
        ("sha256", None),
    ],
    ids=str,
)
def test_a_kernel_that_cannot_be_is_refused(fused_artefact: Artefact, key: str, value: object) -> None:
    with pytest.raises(BundleError, match=r"kernels\.json is damaged|has no fused/sm_90|not the kernel"):
        backend.open(
            edited(fused_artefact, lambda table: table["kernels"][0].update({key: value})), RunOptions()
        )


def test_any_change_to_the_kernels_is_refused_or_harmless(fused_artefact: Artefact) -> None:
    rng = random.Random(1)
    values = [None, True, -1, 0, 1, 3, 1 << 31, 1 << 70, 0.5, "", "sm_90", "\x07", [], ["i32"], {}, {"C": 1}]
    opened = 0
    for _ in range(60):
        table = json.loads(bytes(fused_artefact.payloads[KERNELS]))
        at, key = table, rng.choice(list(table))
        while isinstance(at[key], dict | list) and at[key] and rng.random() < 0.9:
            at = at[key]
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        at[key] = rng.choice(values)
        try:
            session = backend.open(changed(fused_artefact, KERNELS, json.dumps(table).encode()), RunOptions())
            opened += 1
            if opened <= 3:
                session.run(np.zeros((1, 32, 32, 3), np.uint8))
            session.close()
        except DerainError:
            pass
    assert 0 < opened < 60


def test_arguments_that_do_not_fit_are_refused_before_the_launch(
    cuda: StandIn, fused_artefact: Artefact
) -> None:
    for arguments in ([], ["i32"], ["*fp16"] * 40, ["matrix"] * 6):
        artefact = edited(
            fused_artefact, lambda table, new=arguments: [r.update(arguments=new) for r in table["kernels"]]
        )
        session = backend.open(artefact, RunOptions())
        with pytest.raises(InputError, match="arguments"):
            session.run(np.zeros((1, 32, 32, 3), np.uint8))
        session.close()
    assert not cuda.called("cuGraphLaunch")


def test_a_cubin_of_another_gpu_is_told(cuda: StandIn, fused_artefact: Artefact) -> None:
    cuda.fail("cuModuleLoadData", "NO_BINARY_FOR_GPU", 3)
    with pytest.raises(BackendUnavailable, match=r"kernel \S+ was built for sm_90; .* --gpu sm_90"):
        backend.open(fused_artefact, RunOptions())


@pytest.mark.parametrize(
    ("gpu", "built_for", "fitting"),
    [
        ("sm_90", ["sm_80", "sm_90"], "sm_90"),
        ("sm_86", ["sm_80"], "sm_80"),
        ("sm_89", ["sm_80", "sm_86", "sm_90"], "sm_86"),
        ("sm_89", ["sm_80", "sm_89"], "sm_89"),
        ("sm_80", ["sm_86", "sm_89"], None),
        ("sm_90", ["sm_80", "sm_89"], None),
        ("sm_100", ["sm_90", "sm_120"], None),
        ("sm_103", ["sm_100"], None),
        ("sm_120", ["sm_100", "sm_90"], None),
        ("sm_75", ["sm_80"], None),
        ("sm_90", [], None),
    ],
)
def test_kernels_of_an_older_gpu_are_used_within_its_generation_alone(
    gpu: str, built_for: list[str], fitting: str | None
) -> None:
    assert _fitting(gpu, built_for) == fitting


def test_the_kernels_of_an_older_gpu_run(
    cuda: StandIn, fused_network: SSIDKD, compiler: StandInCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = backend.compile(fused_network, SPEC, CompileOptions("fp16", gpu="sm_80,sm_90"))
    assert artefact.gpus == ("sm_80", "sm_90")
    cuda.capability, before = (8, 6), len(compiler.asked)
    session = backend.open(artefact, RunOptions())
    session.run(np.zeros((1, 32, 32, 3), np.uint8))
    session.close()
    assert len(compiler.asked) == before


def test_without_a_name_kernels_are_for_this_machines_gpu(
    cuda: StandIn, fused_network: SSIDKD, compiler: StandInCompiler
) -> None:
    assert backend.compile(fused_network, SPEC, CompileOptions()).gpus == ("sm_90",)
    cuda.fail("cuInit", "NO_DEVICE")
    artefact = backend.compile(fused_network, SPEC, CompileOptions())
    assert artefact.gpus == () and artefact.payloads.keys() == {PLAN, WEIGHTS}
    cuda.fail("cuInit", "NO_DEVICE")
    with pytest.raises(InputError, match="no GPU that could be meant by current"):
        backend.compile(fused_network, SPEC, CompileOptions(gpu="current"))
    with pytest.raises(InputError, match="no precision 'int8'"):
        backend.compile(fused_network, SPEC, CompileOptions("int8"))


def test_a_kernel_that_asks_for_too_much_shared_memory_ends_the_build(
    fused_network: SSIDKD, compiler: StandInCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda *of: replace(make(*of), shared=228 << 10))
    with pytest.raises(BuildError, match="needs 233472 bytes of shared memory of 232448 on sm_90"):
        backend.compile(fused_network, SPEC, CompileOptions(gpu="sm_90"))


@pytest.fixture
def for_none(fused_artefact: Artefact) -> Artefact:
    """Return the engine without compiled kernels."""
    return replace(
        fused_artefact, payloads={name: fused_artefact.payloads[name] for name in (PLAN, WEIGHTS)}, gpus=()
    )


def test_missing_kernels_are_compiled_once_and_kept(
    cuda: StandIn, for_none: Artefact, compiler: StandInCompiler, tmp_path: Path
) -> None:
    options = RunOptions(cache_dir=tmp_path)
    batch = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    results = []
    for _ in range(2):
        session = backend.open(for_none, options)
        results.append(session.run(batch))
        session.close()
    np.testing.assert_array_equal(*results)
    assert compiler.asked == [("fp16", ("sm_90",))]
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700 and (kept / "kernels.json").is_file()

    for damage in (
        lambda: (kept / "kernels.json").unlink(),
        lambda: (kept / "kernels.json").write_text("{"),
        lambda: sorted(kept.glob("*.cubin"))[0].write_bytes(b"\x7fELF"),
        lambda: sorted(kept.glob("*.cubin"))[0].unlink(),
    ):
        compiler.asked.clear()
        damage()
        for _ in range(2):
            backend.open(for_none, options).close()
        assert compiler.asked == [("fp16", ("sm_90",))]

    # Another GPU has its own.
    cuda.capability = (8, 6)
    backend.open(for_none, options).close()
    assert compiler.asked[-1] == ("fp16", ("sm_86",)) and len(list(tmp_path.iterdir())) == 2
    backend.open(for_none, RunOptions()).close()
    assert len(compiler.asked) == 3


def test_a_cache_that_cannot_be_written_only_costs_time(
    for_none: Artefact, compiler: StandInCompiler, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        backend.open(for_none, RunOptions(cache_dir=tmp_path / "file")).close()
    assert len(compiler.asked) == 2


@pytest.mark.parametrize("built_for", ["no compiled kernels", "kernels for sm_80"])
def test_without_triton_the_gpu_that_is_missing_is_named(
    fused_network: SSIDKD, for_none: Artefact, built_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = for_none
    if "sm_80" in built_for:
        artefact = backend.compile(fused_network, SPEC, CompileOptions("fp16", gpu="sm_80"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    with pytest.raises(BackendUnavailable) as caught:
        backend.open(artefact, RunOptions())
    assert str(caught.value) == (
        f"The engine has {built_for}, and this GPU (Stand-in 9000) is sm_90; build it again with --gpu sm_90, "
        "or install what compiles them here: pip install 'derain-engine[build,triton]'."
    )


def test_without_pytorch_there_is_no_emulation(
    fused_artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.emulate(fused_artefact) is None


def test_without_a_gpu_nothing_is_opened(cuda: StandIn, fused_artefact: Artefact) -> None:
    cuda.fail("cuInit", "NO_DEVICE")
    with pytest.raises(BackendUnavailable, match="Is a GPU there"):
        backend.open(fused_artefact, RunOptions())
