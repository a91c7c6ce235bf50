"""Engines in several threads: streams keep order, errors and memory in place, and closing waits for calls."""

from __future__ import annotations

import itertools
import queue
import threading
import time

import numpy as np
import pytest

from derain_engine.base.errors import InputError

from .sessions import FakeSession, an_engine, cleaned, noise

PATIENCE = 20  # seconds until a test that hangs gives up


class Gated(FakeSession):
    """Frames wait inside until the gate opens."""

    def __init__(self, **options):
        super().__init__(**options)
        self.entered, self.gate = threading.Semaphore(0), threading.Event()

    def network(self, x):
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        return super().network(x)


def stream_threads():
    return [each for each in threading.enumerate() if each.name.startswith("derain-engine-stream")]


# Streams


@pytest.mark.parametrize("parallelism", [1, 3])
def test_streams_keep_their_order(parallelism):
    class Uneven(FakeSession):
        def network(self, x):
            time.sleep(0.01 * (x.shape[1] % 64 == 0))  # later frames overtake
            return super().network(x)

    frames = [noise(32 * (1 + i % 2), 40, 3, seed=i) for i in range(12)]
    session = Uneven(parallelism=parallelism)
    results = list(an_engine(session).stream(iter(frames)))
    assert len(results) == len(frames)
    for frame, clean in zip(frames, results, strict=True):
        np.testing.assert_array_equal(clean, cleaned(frame))
    assert session.most_inside <= parallelism
    assert stream_threads() == []


def test_streams_keep_every_thread_of_the_session_busy():
    session = Gated(parallelism=3)
    stream = an_engine(session).stream(noise(8, 8, 3, seed=i) for i in range(6))
    results = []
    consumer = threading.Thread(target=lambda: results.extend(stream))
    consumer.start()
    for _ in range(3):
        assert session.entered.acquire(timeout=PATIENCE)
    assert session.inside == 3
    session.gate.set()
    consumer.join(PATIENCE)
    assert len(results) == 6 and session.most_inside == 3


@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_streams_draw_only_a_few_frames_ahead(parallelism):
    drawn, ahead = [], []

    def source():
        for i in range(30):
            drawn.append(i)
            yield noise(8, 8, 3)

    for given_back, _ in enumerate(an_engine(FakeSession(parallelism=parallelism)).stream(source())):
        ahead.append(len(drawn) - given_back)
    assert len(ahead) == 30 and max(ahead) <= parallelism + 1


def test_streams_give_what_is_done_though_more_could_be_in_work():
    results: queue.Queue[np.ndarray] = queue.Queue()
    frames: queue.Queue[np.ndarray] = queue.Queue()
    ended = threading.Event()

    def camera():
        while not ended.is_set():
            yield frames.get(timeout=PATIENCE)

    def consume():
        for clean in an_engine(FakeSession(parallelism=100)).stream(camera()):
            results.put(clean)

    consumer = threading.Thread(target=consume)
    consumer.start()
    sent = []
    while results.empty() and len(sent) < 100:
        sent.append(noise(8, 8, 3, seed=len(sent)))
        frames.put(sent[-1])
        time.sleep(0.02)  # slower than the network
    assert len(sent) < 100
    ended.set()
    sent.append(noise(8, 8, 3, seed=len(sent)))
    frames.put(sent[-1])
    consumer.join(PATIENCE)
    assert results.qsize() == len(sent)
    for frame in sent:
        np.testing.assert_array_equal(results.get_nowait(), cleaned(frame))
    assert stream_threads() == []


def test_sizes_and_kinds_may_change_within_a_stream():
    frames = [noise(1, 1, 3), noise(33, 65, 3, dtype="float32"), noise(2, 3, 7, 13, dtype="uint16")]
    for frame, clean in zip(frames, an_engine(FakeSession(parallelism=2)).stream(frames), strict=True):
        assert clean.dtype == frame.dtype
        np.testing.assert_array_equal(clean, cleaned(frame))


def test_an_empty_stream_is_empty():
    assert list(an_engine().stream([])) == []


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("broken", [0, 1, 4, 7])
def test_errors_come_in_the_place_of_their_frame(parallelism, broken):
    frames = [noise(8, 8, 3, seed=i) for i in range(8)]

    def breaking_source():
        for i, frame in enumerate(frames):
            if i == broken:
                raise OSError("the camera is gone")
            yield frame

    bad_frames = [np.zeros((8, 8)) if i == broken else frame for i, frame in enumerate(frames)]

    class BreakingSession(FakeSession):
        def network(self, x):
            if x.shape[1] == 64:
                raise MemoryError("no room")
            return super().network(x)

    too_large = [noise(40, 8, 3) if i == broken else frame for i, frame in enumerate(frames)]

    for session, source, error in (
        (FakeSession, breaking_source(), OSError),
        (FakeSession, bad_frames, InputError),
        (BreakingSession, too_large, MemoryError),
    ):
        results = []
        with pytest.raises(error):
            for clean in an_engine(session(parallelism=parallelism)).stream(source):
                results.append(clean)
        assert len(results) == broken
        for frame, clean in zip(frames, results, strict=False):
            np.testing.assert_array_equal(clean, cleaned(frame))
        assert stream_threads() == []


def test_a_stream_may_be_left_early():
    session = FakeSession(parallelism=2)
    engine = an_engine(session)
    stream = engine.stream(noise(8, 8, 3, seed=i % 5) for i in itertools.count())
    np.testing.assert_array_equal(next(stream), cleaned(noise(8, 8, 3)))
    assert stream_threads() != []
    stream.close()
    assert stream_threads() == []
    assert len(session.seen) <= 1 + 2 + 1
    engine.stream(iter([])).close()  # never begun: nothing to stop
    np.testing.assert_array_equal(engine(noise(8, 8, 3)), cleaned(noise(8, 8, 3)))


def test_frames_are_drawn_in_the_callers_thread():
    threads = set()

    def source():
        for i in range(5):
            threads.add(threading.current_thread())
            yield noise(8, 8, 3, seed=i)

    list(an_engine(FakeSession(parallelism=2)).stream(source()))
    assert threads == {threading.current_thread()}


# Closing


def test_a_closed_engine_says_so():
    session = FakeSession()
    with an_engine(session) as engine:
        engine(noise(8, 8, 3))
        stream = engine.stream(noise(8, 8, 3, seed=i) for i in range(9))
        next(stream)
    engine.close()
    assert session.closed == 1
    for use in (lambda: engine(noise(8, 8, 3)), lambda: engine.stream([]), lambda: engine.warmup(8, 8)):
        with pytest.raises(InputError, match="closed"):
            use()
    with pytest.raises(InputError, match="closed"):
        list(stream)


def test_closing_waits_for_calls_in_the_session():
    session = Gated()
    engine = an_engine(session)
    caller = threading.Thread(target=engine, args=(noise(8, 8, 3),))
    caller.start()
    assert session.entered.acquire(timeout=PATIENCE)
    closer = threading.Thread(target=engine.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive() and not session.closed
    session.gate.set()
    closer.join(PATIENCE)
    caller.join(PATIENCE)
    assert session.closed == 1


def test_many_threads_share_an_engine_within_its_parallelism():
    session = Gated(parallelism=2)
    engine = an_engine(session)
    callers = [threading.Thread(target=engine, args=(noise(8, 8, 3),)) for _ in range(5)]
    for caller in callers:
        caller.start()
    for _ in range(2):
        assert session.entered.acquire(timeout=PATIENCE)
    assert not session.entered.acquire(timeout=0.05)
    session.gate.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert len(session.seen) == 5 and session.most_inside == 2
