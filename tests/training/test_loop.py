"""The loop of all recipes: stopping, parts of a batch, several processes, the moving average, compiling, samples."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from functools import partialmethod
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from derain_engine.base.errors import CheckpointError
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.ssid_kd import PRESETS, SSIDKD, UnitBlock
from derain_engine.training import loop
from derain_engine.training.distributed import World
from derain_engine.training.losses import code_distance
from derain_engine.training.options import Phase, SidRun, SsidKdRun
from derain_engine.training.run_file import read_run
from derain_engine.training.sid import Distilled, Supervised, train_sid
from derain_engine.training.ssid_kd import train_ssid_kd
from derain_engine.training.trainer import Trainer, load_network

from .conftest import same_states, training_state

FP32 = torch.autocast("cpu", torch.bfloat16, enabled=False)


@pytest.fixture
def run(photos, tmp_path):
    return SidRun(
        preset="tiny",
        photos=photos,
        output=tmp_path / "run",
        phases=(Phase(4, 32, 2), Phase(4, 40, 2)),
        learning_rate=5e-3,
        warmup_steps=2,
        ema_decay=0.5,
        validation_photos=2,
        validate_every=3,
        samples_every=0,
        workers=0,
        precision="fp32",
        device="cpu",
    )


def log_of(run):
    with (run.output / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


class Ticks:
    """A clock that goes on by a second whenever it is read."""

    now = 0.0

    def monotonic(self):
        self.now += 1
        return self.now


def test_a_run_in_pieces_ends_where_one_in_one_piece_does(run, tmp_path, monkeypatch):
    whole, pieces = (replace(run, output=tmp_path / name) for name in ("whole", "pieces"))
    train_sid(whole)
    steps = []
    for piece in range(10):
        monkeypatch.setattr(loop, "time", Ticks())
        outcome = train_sid(
            pieces, resume=piece > 0, stop_after=5, report=lambda progress: steps.append(progress.step)
        )
        assert outcome.progress.step == steps[-1]
        if outcome.complete:
            break
        assert 0 < outcome.progress.seconds_left < 1000
    assert piece > 2 and steps == list(range(1, 9))
    same_states(whole, pieces)
    assert log_of(whole) == log_of(pieces)
    for name in ("best.safetensors", "final.safetensors"):
        assert (whole.output / name).read_bytes() == (pieces.output / name).read_bytes()


def test_a_stop_before_any_validation_leaves_a_state_alone(run):
    outcome = train_sid(run, stop_after=0)
    assert not outcome.complete and outcome.best is outcome.final is None and outcome.progress.step == 1
    assert sorted(p.name for p in run.output.iterdir()) == ["last.pt", "log.csv", "run.toml"]
    assert train_sid(run, resume=True).complete


def test_parts_of_a_batch_train_as_the_whole(run, tmp_path):
    one, two = (replace(run, output=tmp_path / str(n), accumulate=n) for n in (1, 2))
    train_sid(one)
    train_sid(two)
    first, second = training_state(one), training_state(two)
    weights = list(SSIDKD(PRESETS["tiny"]).state_dict())
    for name in weights:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-4)
    assert any(not torch.equal(first[name], second[name]) for name in weights)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        {name: torch.rand(2, 3, 32, 32, generator=generator) for name in ("rainy", "clean")}
        for _ in range(count)
    ]


def last_weight(network: Any) -> torch.Tensor:
    return network.tail.catLayer[0].weight.detach()


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_the_average_is_exponential_and_0_is_none(run, decay):
    torch.manual_seed(0)
    trainer = Trainer(
        replace(run, ema_decay=decay),
        Supervised(SSIDKD(PRESETS["tiny"]), FP32, 5.0),
        3,
        World(torch.device("cpu")),
    )
    expected: Any = None
    for part in batches(3):
        trainer.step([part], 1e-2)
        now = last_weight(trainer.network).clone()
        expected = now if expected is None else decay * expected + (1 - decay) * now
    found = last_weight(trainer.average)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, last_weight(trainer.network)) == (decay == 0)


def test_gradients_are_clipped_where_there_is_a_limit(run):
    for limit in (0.0, 1e-3):
        torch.manual_seed(0)
        objective = Supervised(SSIDKD(PRESETS["tiny"]), FP32, 5.0)
        trainer = Trainer(replace(run, clip_norm=limit), objective, 1, World(torch.device("cpu")))
        trainer.step(batches(1), 1e-2)
        norm = torch.stack([p.grad.norm() for p in objective.parameters() if p.grad is not None]).norm()
        assert (float(norm) <= 1.001e-3) == bool(limit)


def test_compiling_takes_each_block_once_and_the_average_stays_plain(run, monkeypatch):
    compiled = []
    monkeypatch.setattr(UnitBlock, "compile", lambda block: compiled.append(block))
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], units=(3, 2, 2)))
    network = SSIDKD(PRESETS["tiny"])
    trainer = Trainer(
        replace(run, compile=True), Supervised(network, FP32, 5.0), 1, World(torch.device("cpu"))
    )
    # One block for each of the nine dense connections, however many units share it.
    assert len(compiled) == len(set(map(id, compiled))) == 9
    assert not set(map(id, compiled)) & set(map(id, trainer.average.modules()))


@pytest.mark.slow
def test_a_compiled_run_computes_the_same_and_can_be_resumed_uncompiled(run, tmp_path, monkeypatch):
    # Traced and differentiated as on any machine, but run operator by operator: no C++ compiler is needed.
    monkeypatch.setattr(UnitBlock, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    plain, compiled = (replace(run, output=tmp_path / str(on), compile=on) for on in (False, True))
    train_sid(plain, stop_after=0)
    train_sid(compiled, stop_after=0)
    first, second = training_state(plain), training_state(compiled)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-3)
    assert train_sid(replace(compiled, compile=False), resume=True).complete


def test_bf16_trains_and_is_not_fp32(run, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        each = replace(run, precision=precision, output=tmp_path / precision)
        train_sid(each, stop_after=0, report=lambda progress, p=precision: found.update({p: progress.loss}))
        assert all(value.dtype != torch.bfloat16 for value in training_state(each).values())
    assert found["bf16"] == pytest.approx(found["fp32"], abs=0.02) and found["bf16"] != found["fp32"]


def test_samples_show_rainy_output_and_truth_and_no_package_is_needed_that_the_readme_does_not_name(
    run, monkeypatch
):
    for name in "av matplotlib onnx onnxruntime openvino platformdirs psutil scipy skimage".split():
        monkeypatch.setitem(sys.modules, name, None)
    train_sid(replace(run, samples_every=5))
    names = sorted(path.name for path in (run.output / "samples").iterdir())
    assert names == ["0000005.png", "0000008.png"]
    sheet = np.asarray(Image.open(run.output / "samples" / names[0]))
    assert sheet.shape == (2 * 192 + 4, 3 * 192 + 8, 3)
    cells = [sheet[196 * i : 196 * i + 32, 196 * j : 196 * j + 32] for i in range(2) for j in range(3)]
    assert all(len(np.unique(cell)) > 20 for cell in cells)
    assert (sheet[192:196] == 255).all() and (sheet[32:192] == 255).all()


class TestTeachers:
    @pytest.fixture
    def teacher(self, run, tmp_path):
        """Train weights of a wider code."""
        return train_sid(replace(run, preset="other", output=tmp_path / "teacher")).best

    def test_the_projection_learns_and_is_not_part_of_the_weights(self, run, teacher, tmp_path):
        whole, pieces = (replace(run, output=tmp_path / n, teacher=teacher) for n in ("whole", "pieces"))
        best = train_sid(whole).best
        assert best and load_checkpoint(best).spec.config["channels"] == [4, 4, 4]
        state = torch.load(whole.output / "last.pt", weights_only=True)
        assert {name: tuple(v.shape) for name, v in state["helpers"].items()} == {
            "code.weight": (8, 4, 1, 1),
            "code.bias": (8,),
        }
        rows = log_of(whole)
        assert float(rows[-1]["code"]) < float(rows[0]["code"])
        total = [float(rows[0][name]) for name in ("truth", "teacher", "code")]
        assert float(rows[0]["loss"]) == pytest.approx(np.dot(total, [1, 5.0, 0.1]), abs=1e-3)
        train_sid(pieces, stop_after=0)
        train_sid(pieces, resume=True)
        same_states(whole, pieces)

    def test_the_loss_is_truth_and_teacher_and_code(self, run, teacher):
        teaching = load_network(teacher, "the test")
        before = {name: value.clone() for name, value in teaching.state_dict().items()}
        objective = Distilled(SSIDKD(PRESETS["tiny"]), FP32, replace(run, code_weight=0.7), teaching)
        (part,) = batches(1)
        loss, terms = objective(1, **part)
        ours, theirs = objective.network(part["rainy"]), teaching(part["rainy"])
        code = code_distance(objective.helpers["code"](ours.code), theirs.code)
        torch.testing.assert_close(terms["code"], code)
        expected = terms["truth"] + 5 * (ours.clean - theirs.clean).abs().mean() + 0.7 * code
        torch.testing.assert_close(loss, expected)
        trainer = Trainer(run, objective, 1, World(torch.device("cpu")))
        projection = objective.helpers["code"].weight.clone()  # type: ignore[operator]
        trainer.step([part], 1e-2)
        assert not torch.equal(objective.helpers["code"].weight, projection)  # type: ignore[arg-type]
        assert all(torch.equal(value, before[name]) for name, value in teaching.state_dict().items())

    def test_codes_of_one_width_need_no_projection(self, run):
        objective = Distilled(SSIDKD(PRESETS["tiny"]), FP32, run, SSIDKD(PRESETS["tiny"]))
        assert not objective.helpers
        objective.network.load_state_dict(objective.teacher.state_dict())
        _, terms = objective(1, **batches(1)[0])
        assert terms["code"].item() == terms["teacher"].item() == 0

    def test_other_networks_cannot_teach(self, run, tmp_path):
        with pytest.raises(CheckpointError, match=r"gone\.pt"):
            train_sid(replace(run, teacher=tmp_path / "gone.pt"))
        assert not run.output.exists()


_ONE_OF_TWO = """
import sys
from pathlib import Path
from derain_engine.models.ssid_kd import PRESETS, SSIDKDConfig
from derain_engine.training.run_file import read_run
from derain_engine.training.options import SsidKdRun
from derain_engine.training.ssid_kd import train_ssid_kd
PRESETS["tiny"] = SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb")
run = read_run(SsidKdRun, Path(sys.argv[1]), {})
resume = len(sys.argv) > 2
assert train_ssid_kd(run, resume=resume, stop_after=None if resume else 0).complete == resume
"""


@pytest.mark.slow
def test_two_processes_train_as_one(pairs, real, run, tmp_path):
    start = train_sid(run).best
    (tmp_path / "two.py").write_text(_ONE_OF_TWO)
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(
            f"""
            preset = "tiny"
            stage = 2
            output = "{tmp_path / name}"
            pairs = "{pairs}"
            real = "{real}"
            start = "{start}"
            steps = 4
            batch = 4
            patch = 32
            kl_weight = 1.0
            kl_reduction = "pixel"
            dark_channel_weight = 1e-3
            accumulate = 2
            validation_photos = 1
            validate_every = 2
            samples_every = 4
            workers = 0
            precision = "fp32"
            device = "cpu"
            """
        )
    train_ssid_kd(read_run(SsidKdRun, tmp_path / "one.toml", {}))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for resume in ([], ["resume"]):
        done = subprocess.run(
            [*launch, str(tmp_path / "two.py"), str(tmp_path / "two.toml"), *resume],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert one["progress"]["step"] == two["progress"]["step"] == 4
    assert one["progress"]["loss"] == pytest.approx(two["progress"]["loss"], rel=1e-3)
    for name, value in one["network"].items():
        torch.testing.assert_close(value, two["network"][name], rtol=0, atol=1e-4)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
