from __future__ import annotations

from pathlib import Path

import pytest

from derain_engine.base.errors import InputError
from derain_engine.models.weights import shipped
from derain_engine.training.options import Phase, SidRun, SsidKdRun
from derain_engine.training.run_file import read_run, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "runs" / "run.toml"
    path.parent.mkdir()
    path.write_text(
        """
        preset = "sid-lite"
        output = "lite"
        photos = "/data/photos"
        phases = ["100:64:8", "50:128:4"]
        learning_rate = 1
        compile = true
        start = "sid-lite"
        """
    )
    return path


def test_a_file_is_a_run_and_options_go_before_it(file):
    run = read_run(SidRun, file, {"seed": None})
    assert run == SidRun(
        preset="sid-lite",
        output=file.parent / "lite",
        photos=Path("/data/photos"),
        phases=(Phase(100, 64, 8), Phase(50, 128, 4)),
        learning_rate=1.0,
        compile=True,
        start=shipped("sid-lite"),
    )
    changed = read_run(
        SidRun, file, {"output": Path("here"), "phases": ["9:32:1"], "seed": 5, "compile": False}
    )
    assert (changed.output, changed.phases, changed.seed, changed.compile) == (
        Path("here"),
        (Phase(9, 32, 1),),
        5,
        False,
    )


def test_a_written_run_is_read_again(file, tmp_path):
    (tmp_path / "start.pt").touch()
    for run in (
        read_run(SidRun, file, {}),
        SsidKdRun(
            output=tmp_path,
            stage=2,
            start=tmp_path / "start.pt",
            real=tmp_path / "real",
            pairs=tmp_path,
            kl_reduction="pixel",
        ),
    ):
        write_run(run, tmp_path / "again.toml")
        assert read_run(type(run), tmp_path / "again.toml", {}) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('output = "x"\nlearning_rat = 1.0', r"run\.toml: .*'learning_rat'.*'learning_rate'"),
        ('output = "x"\nbananas = 1', r"no setting 'bananas'.*preset"),
        ('output = "x"\nkl_weight = 1.0', "no setting 'kl_weight'"),
        ('output = "x"\nseed = "six"', "seed is 'six'; it must be a whole number"),
        ('output = "x"\nseed = 1.5', "seed is 1.5; it must be a whole number"),
        ('output = "x"\nseed = true', "seed is True; it must be a whole number"),
        ('output = "x"\ncompile = 1', "compile is 1; it must be true or false"),
        ('output = "x"\nphases = "9:64:8"', "phases is '9:64:8'; it must be a list"),
        ('output = "x"\nphases = ["9:64"]', "'9:64' is not STEPS:PATCH:BATCH"),
        ('output = "x"\nprecision = "fp8"', "precision 'fp8' is not known; take one of auto, fp32, bf16"),
        ("output = 3", "output is 3; it must be a path"),
        ("photos = 'x'", "output is missing"),
        ("output = ", r"run\.toml is no TOML"),
    ],
)
def test_what_cannot_be_meant_is_named(file, text, message):
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(SidRun, file, {})


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.toml cannot be read"):
        read_run(SidRun, tmp_path / "gone.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"binary\.toml is no TOML"):
        read_run(SidRun, tmp_path / "binary.toml", {})


def test_the_ablation_varies_the_divergence_alone(tmp_path):
    given = {"output": tmp_path, "pairs": tmp_path, "real": tmp_path, "start": tmp_path}
    files = sorted((ROOT / "examples").glob("kl-*.toml"))
    runs = {file.stem: read_run(SsidKdRun, file, given) for file in files}
    assert set(runs) == {"kl-official", "kl-rescaled", "kl-without"}
    values = {name: (run.kl_weight, run.kl_reduction) for name, run in runs.items()}
    assert values["kl-official"] == (1e-6, "mean") and values["kl-without"] == (0.0, "mean")
    assert values["kl-rescaled"] == (1.0, "pixel")
    texts = [run.texts().items() for run in runs.values()]
    differing = {key for one in texts for key, _ in set(one) ^ set(texts[0])}
    assert differing == {"kl_weight", "kl_reduction"}


def test_the_last_step_of_the_shipped_weights_is_a_run(tmp_path):
    given = {"output": tmp_path, "photos": tmp_path, "start": tmp_path / "start.safetensors"}
    run = read_run(SidRun, ROOT / "examples" / "sid-lite-finer.toml", given)
    assert (run.preset, run.steps, run.phases[0].patch, run.l1_weight) == ("sid-lite", 4800, 128, 20.0)
