"""Live sources, which are streams over TCP that the tests themselves serve."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import types
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.error import FFmpegError

from derain_engine.base.errors import InputError, MediaError
from derain_engine.engine.runtime import Engine
from derain_engine.media.video import live as live_module
from derain_engine.media.video import live_source
from derain_engine.media.video.live import LiveReport, clean_live
from derain_engine.media.video.live_source import shown_name
from derain_engine.media.video.writer import VideoWriter

from ..clips import MANIFEST, Shifting, engine, make_clip, random_frame, read

RATE = 50


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Camera:
    """Serves MPEG-TS on a port, one connection for each number of frames; then nobody listens.

    paced: in real time, and not as fast as frames are taken.
    """

    def __init__(self, *lengths: int, size: tuple[int, int] = (64, 48), paced: bool = True) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._size, self._paced = size, paced
        threading.Thread(target=self._serve, args=(lengths,), daemon=True).start()

    def _serve(self, lengths: tuple[int, ...]) -> None:
        with self._listening:
            for length in lengths:
                connection, _ = self._listening.accept()
                # Who watches may leave at any time.
                with connection, contextlib.suppress(OSError, ValueError, FFmpegError):
                    self._send(connection, length)

    def _opened(self, connection: socket.socket) -> Any:
        """Return what the stream is written to."""
        return connection.makefile("wb", buffering=0)

    def _send(self, connection: socket.socket, length: int) -> None:
        with av.open(
            self._opened(connection), "w", format="mpegts", options={"flush_packets": "1"}
        ) as container:
            stream: Any = container.add_stream("mpeg2video", RATE, options={"g": "5", "bf": "0"})
            stream.width, stream.height = self._size
            stream.pix_fmt = "yuv420p"
            began = time.monotonic()
            for number in range(length):
                frame = random_frame("yuv420p", number, *self._size)
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
                if self._paced:
                    time.sleep(max(began + number / RATE - time.monotonic(), 0))


class RtspCamera(Camera):
    """The same as RTSP (RFC 2326): MPEG-TS in RTP packets, which come through the connection of the requests."""

    def __init__(self, *lengths: int) -> None:
        super().__init__(*lengths)
        self.url = self.url.replace("tcp://", "rtsp://") + "/live"

    def _opened(self, connection: socket.socket) -> Any:
        requests = connection.makefile("r", encoding="ascii", newline="\r\n")
        while True:
            method, *_ = requests.readline().split()
            fields = dict(line.rstrip().split(": ", 1) for line in iter(requests.readline, "\r\n"))
            answer = [f"CSeq: {fields['CSeq']}", "Session: 1"]
            body = ""
            if method == "DESCRIBE":
                body = "v=0\r\ns=rain\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:1\r\n"
                answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif method == "SETUP":
                assert "RTP/AVP/TCP" in fields["Transport"]
                answer += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
            connection.sendall("\r\n".join(["RTSP/1.0 200 OK", *answer, "", body]).encode())
            if method == "PLAY":
                return Rtp(connection)


class Rtp:
    """Sends what is written as RTP packets of seven of MPEG-TS (RFC 2250), interleaved."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._number, self._left = connection, 0, b""

    def write(self, data: bytes) -> int:
        self._left += data
        while len(self._left) >= 7 * 188:
            packets, self._left = self._left[: 7 * 188], self._left[7 * 188 :]
            clock = int(90_000 * time.monotonic()) & 0xFFFFFFFF
            header = struct.pack(">BBHII", 0x80, 33, self._number & 0xFFFF, clock, 1)
            self._connection.sendall(struct.pack(">cBH", b"$", 0, 12 + 7 * 188) + header + packets)
            self._number += 1
        return len(data)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "_FIRST_PAUSE", 0.05)


def watch(runs: Engine, url: str, target: Path, **options: Any) -> LiveReport:
    return clean_live(runs, url, target, give_up=0.5, **options)


@pytest.mark.parametrize("kind", [Camera, RtspCamera])
def test_a_stream_is_cleaned_as_it_comes(tmp_path: Path, kind: type[Camera]) -> None:
    camera, target = kind(50), tmp_path / "out.mkv"
    with engine(-20) as runs:
        report = watch(runs, camera.url, target, latency=5.0, codec="ffv1")
    written = read(target)
    assert report.frames == len(written.frames) > 10
    assert report.frames + report.replaced + report.late == report.received
    assert len(report.latencies) == report.frames
    assert 0 < report.percentiles()[0] <= report.percentiles()[2]
    assert written.times == sorted(set(written.times))
    assert 0.3 < float(written.times[-1]) < 3
    assert report.failure is not None and "gave no frame for 0.5 s" in report.failure
    assert written.video["pix_fmt"] == "yuv420p"


def test_frames_that_come_at_once_have_times_of_their_own(tmp_path: Path) -> None:
    camera, target = Camera(100, paced=False), tmp_path / "out.mkv"
    with engine() as runs:
        report = watch(runs, camera.url, target, latency=5.0, codec="ffv1")
    written = read(target)
    assert report.frames == len(written.frames) > 0
    assert report.frames + report.replaced + report.late == report.received > 90
    assert written.times == sorted(set(written.times))


class Slow(Shifting):
    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        time.sleep(0.1)
        return super().run(batch, out)


def test_a_slow_engine_gets_the_newest_frame(tmp_path: Path) -> None:
    camera = Camera(75)
    with Engine(Slow(), MANIFEST, tile=0) as runs:
        report = watch(runs, camera.url, tmp_path / "out.mkv", latency=5.0)
    assert report.replaced > report.frames
    assert 3 <= report.frames < 20
    # It does not fall behind: no frame waited for others, only for the one in work and its own.
    assert "dropped" in report.line() and f"{report.frames} frames" in report.line()


def test_frames_over_the_budget_are_left_out(tmp_path: Path) -> None:
    camera = Camera(40)
    with engine() as runs:
        report = watch(runs, camera.url, tmp_path / "out.mkv", latency=1e-9)
    # Something is written each second all the same.
    assert report.late > 5 * report.frames > 0


def test_a_lost_connection_comes_back(tmp_path: Path) -> None:
    camera, target = Camera(40, 40), tmp_path / "out.mkv"
    with engine() as runs:
        report = watch(runs, camera.url, target, latency=5.0, codec="ffv1")
    assert report.reconnections == 1
    assert report.received > 45
    times = read(target).times
    assert times == sorted(set(times))


def test_stopping_leaves_a_whole_file(tmp_path: Path) -> None:
    camera, target, stop = Camera(500), tmp_path / "out.mp4", threading.Event()

    def look(report: LiveReport) -> None:
        if report.frames >= 8:
            stop.set()

    with engine() as runs:
        report = watch(runs, camera.url, target, latency=5.0, stop=stop, status=look)
    assert report.failure is None
    assert len(read(target).frames) == report.frames == 8
    assert list(tmp_path.iterdir()) == [target]


def test_stopping_before_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with engine() as runs:
        report = watch(runs, Camera(500).url, tmp_path / "out.mkv", stop=stop)
    assert report.frames == 0 and report.failure is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_before_a_failure_stays(tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    with engine(refuses=(7,)) as runs:
        report = watch(runs, Camera(100).url, target, latency=5.0)
    assert report.frames == len(read(target).frames) == 7
    assert report.failure is not None and "tired" in report.failure


def test_a_failure_at_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    with engine(refuses=(0,)) as runs, pytest.raises(MediaError, match="tired"):
        watch(runs, Camera(100).url, tmp_path / "out.mkv", latency=5.0)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_fails_leaves_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, write = tmp_path / "out.mkv", VideoWriter.write

    def fails(writer: VideoWriter, frame: Any) -> None:
        if writer.frames == 5:
            raise MediaError("out.mkv cannot be written: no.")
        write(writer, frame)

    monkeypatch.setattr(VideoWriter, "write", fails)
    with engine() as runs:
        report = watch(runs, Camera(100).url, target, latency=5.0, codec="ffv1")
    assert report.failure is not None and "cannot be written" in report.failure
    assert len(read(target).frames) == report.frames == 5


def test_only_the_last_latencies_are_kept() -> None:
    report = LiveReport()
    report.latencies.extend([1.0] * 10 + [2.0] * 20_000)
    assert len(report.latencies) == 10_000 and report.percentiles() == (2.0, 2.0, 2.0)


def test_interlaced_streams_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = live_module._first

    def interlaced(*arguments: Any) -> Any:
        frame, came = first(*arguments)  # type: ignore[misc]
        return types.SimpleNamespace(interlaced_frame=True, format=frame.format), came

    monkeypatch.setattr(live_module, "_first", interlaced)
    with engine() as runs, pytest.raises(InputError, match="deinterlace"):
        watch(runs, Camera(100).url, tmp_path / "out.mkv")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_file_that_is_served_over_http_comes_to_its_end(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mkv", codec="libx264")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with engine() as runs:
            report = watch(runs, f"http://127.0.0.1:{server.server_port}/in.mkv?key=1", tmp_path / "out.mkv")
        server.shutdown()
    assert report.failure is None and report.reconnections == 0
    assert 0 < report.frames == len(read(tmp_path / "out.mkv").frames)


def test_nobody_there_leaves_nothing(tmp_path: Path) -> None:
    with engine() as runs, pytest.raises(MediaError, match="tcp://127"):
        clean_live(runs, f"tcp://someone:secret@127.0.0.1:{free_port()}", tmp_path / "out.mkv")
    assert list(tmp_path.iterdir()) == []


def test_passwords_are_not_told() -> None:
    assert shown_name("rtsp://me:secret@cam:554/live?key=1") == "rtsp://cam:554/live"
    assert shown_name("/dev/video0") == "/dev/video0"


@pytest.mark.parametrize("options", [{"latency": 0.0}, {"give_up": -1.0}])
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with engine() as runs, pytest.raises(InputError, match="budget"):
        clean_live(runs, "tcp://127.0.0.1:1", tmp_path / "out.mkv", **options)  # type: ignore[arg-type]


def test_files_are_not_live(tmp_path: Path) -> None:
    (tmp_path / "in.mkv").write_bytes(b"x")
    with engine() as runs, pytest.raises(InputError, match="do without --live"):
        clean_live(runs, str(tmp_path / "in.mkv"), tmp_path / "out.mkv")
