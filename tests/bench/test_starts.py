"""The work within the new process; that it is one is tested with ``bench engine``."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from derain_engine.base.errors import DerainError
from derain_engine.bench import starts
from derain_engine.bench.gpu import GpuStatus
from derain_engine.bench.starts import measure_starts, peak_bytes

IMAGE = np.zeros((4, 5, 3), np.uint8)


class Engine:
    """Stands for an opener and the engine that it opens; notes what it was given."""

    def __init__(self, on_gpu=False):
        self.on_gpu, self.seen = on_gpu, []

    def __call__(self, what, *, cache=False):
        if not isinstance(what, str):
            return self.seen.append(what.shape)
        self.seen.append((what, cache, os.environ["XDG_CACHE_HOME"], os.environ["TORCHINDUCTOR_CACHE_DIR"]))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.seen.append("closed")


@pytest.fixture(autouse=True)
def environment_of_the_process(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/before")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/before")


def test_one_frame_is_cleaned_with_a_cache_of_its_own():
    engine = Engine()
    began = time.time()
    took, peak, device = starts._first_frame(engine, IMAGE, "/cache", began - 1)  # pyright: ignore
    assert engine.seen == [("latency", True, "/cache", "/cache/torchinductor"), (4, 5, 3), "closed"]
    assert (
        1000 <= took <= 1000 * (time.time() - began + 1) and peak is not None and peak > 10 and device is None
    )


def test_memory_of_the_gpu_is_what_is_used_more_than_before(monkeypatch):
    seen = iter([GpuStatus("A", "1", 100), GpuStatus("A", "1", 612)])
    monkeypatch.setattr(starts, "gpu_status", lambda: next(seen))
    device = starts._first_frame(Engine(on_gpu=True), IMAGE, "/cache", 0.0)[2]  # pyright: ignore
    assert device == pytest.approx(512 * 2**20 / 1e6)


def test_the_warm_start_is_the_second_one_in_the_same_folder(monkeypatch):
    folders, answers = [], iter([(1000.0, 300.0, 50.0), (400.0, 200.0, 40.0)])

    def process(what, work, opener, image, folder, began):
        assert work is starts._first_frame and 0 <= time.time() - began < 10
        folders.append(folder)
        assert os.path.isdir(folder)
        return next(answers)

    monkeypatch.setattr(starts, "in_new_process", process)
    found = measure_starts(Engine(), IMAGE)  # pyright: ignore
    assert (found.cold_ms, found.warm_ms, found.peak_host_mb, found.device_mb) == (1000, 400, 300, 50)
    assert folders[0] == folders[1] and not os.path.exists(folders[0])


def test_work_is_done_in_a_process_of_its_own_whose_death_is_told():
    assert starts.in_new_process("a start", os.getpid) != os.getpid()
    with pytest.raises(DerainError, match="The process that a build was measured in died"):
        starts.in_new_process("a build", os._exit, 1)


def test_the_peak_is_read_from_the_process_table():
    assert peak_bytes(lambda: "Name:\tpython\nVmHWM:\t  500000 kB\nVmRSS:\t 1 kB\n") == 512_000_000
