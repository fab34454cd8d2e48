# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import base64
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from polyv.processing.view_sampling import Sampling, read_video, sample_indices, select_views
from tests.processing.conftest import write_video


LEVELS = list(range(20, 250, 14))  # 17 greys, far enough apart to survive H.264


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def seen(frames) -> list[int]:
    """Which of LEVELS each frame shows."""
    means = np.asarray(frames, dtype=np.float64).mean(axis=(1, 2, 3))
    return [int(np.abs(np.array(LEVELS) - mean).argmin()) for mean in means]


# Sampling


@given(count=st.integers(0, 500), limit=st.integers(1, 50))
def test_select_views_spreads_over_all(count, limit):
    chosen = select_views(count, limit)
    assert len(chosen) == min(count, limit) and len(set(chosen.tolist())) == len(chosen)
    if count > 1 and limit > 1:
        assert chosen[0] == 0 and chosen[-1] == count - 1
        assert np.ptp(np.diff(chosen)) <= 1


def test_select_views_refuses_none():
    with pytest.raises(ValueError, match="num_views=0: at least 1"):
        select_views(5, 0)


@given(
    gaps=st.lists(st.floats(0.01, 0.5), min_size=1, max_size=80),
    fps=st.floats(0.2, 30),
    cap=st.integers(2, 40),
)
def test_samples_are_even_in_time_and_never_from_the_future(gaps, fps, cap):
    times = np.cumsum([0, *gaps[:-1]])
    duration = float(sum(gaps))
    chosen = sample_indices(times, duration, Sampling(fps=fps, min_frames=1, max_frames=cap))
    assert 1 <= len(chosen) <= min(cap, len(times)) or len(times) == 1
    assert len(chosen) % 2 == 0 or len(times) == 1
    moments = np.arange(len(chosen)) * duration / len(chosen)
    shown_until = np.append(times[1:], duration)
    assert (times[chosen] <= moments + 2e-4).all() and (shown_until[chosen] >= moments - 1e-9).all()


def test_sampling_by_fps_count_and_caps():
    times = np.arange(80) / 8  # 10 s at 8 fps
    at = lambda **options: sample_indices(times, 10.0, Sampling(**options)).tolist()  # noqa: E731
    assert at(fps=2) == list(range(0, 80, 4))
    assert at(fps=8) == at(fps=100) == list(range(80))
    assert at(fps=2, max_frames=8) == list(range(0, 80, 10))
    assert at(fps=0.1, min_frames=4) == [0, 20, 40, 60]
    assert at(num_frames=10) == list(range(0, 80, 8))
    assert len(at(num_frames=7)) == 6  # a multiple of the temporal patch
    assert at(every_frame=True) == list(range(80))
    with pytest.raises(ValueError, match="num_frames=81: the video has only 80 frames"):
        at(num_frames=81)
    with pytest.raises(ValueError, match="expected a positive number"):
        at(fps=-1)


# Videos


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov"])
def test_a_file_is_sampled_by_fps(tmp_path, name):
    path = write_video(tmp_path / name, LEVELS[:16])
    frames, metadata = read_video(path, Sampling(fps=4))
    assert frames.shape == (8, 48, 64, 3) and frames.dtype == np.uint8
    assert seen(frames) == metadata.frames_indices == list(range(0, 16, 2))
    assert metadata.sampled_fps == pytest.approx(4, rel=0.01)
    assert metadata.duration == pytest.approx(2, rel=0.01)
    again, _ = read_video(path.read_bytes(), Sampling(fps=4))
    np.testing.assert_array_equal(frames, again)


def test_a_variable_frame_rate_is_resampled_by_timestamps(tmp_path):
    """Twelve frames in the first second, then one a second: even in time means mostly the late ones."""
    times = [index / 12 for index in range(12)] + [1.0, 2.0, 3.0]
    path = write_video(tmp_path / "vfr.mp4", LEVELS[:15], times)
    frames, metadata = read_video(path, Sampling(fps=2))
    duration = metadata.duration
    moments = np.arange(len(frames)) * duration / len(frames)
    expected = [max(k for k, time in enumerate(times) if time <= moment + 0.002) for moment in moments]
    assert seen(frames) == expected
    assert len(frames) >= 6 and expected.count(12) >= 2  # one frame shown for long is met more than once
    assert metadata.sampled_fps == pytest.approx(len(frames) / duration)


def test_a_video_that_starts_late_starts_at_zero(tmp_path):
    path = write_video(tmp_path / "late.mkv", LEVELS[:8], [5 + index / 8 for index in range(8)])
    frames, metadata = read_video(path, Sampling(fps=8))
    assert seen(frames) == list(range(8)) and metadata.duration == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("codec, name", [("libx264", "h264"), ("libx265", "hevc")])
def test_bare_streams_are_videos(tmp_path, codec, name):
    """FFmpeg does not seek in them."""
    path = write_video(tmp_path / f"bare.{name}", LEVELS[:8], codec=codec)
    for source in (path, path.read_bytes()):
        frames, _ = read_video(source, Sampling(num_frames=8))
        assert seen(frames) == list(range(8))


def test_one_frame_is_a_video(tmp_path):
    frames, metadata = read_video(write_video(tmp_path / "one.mp4", LEVELS[:1]), Sampling())
    assert len(frames) == 1 and metadata.sampled_fps > 0


def test_a_phone_s_rotation_is_obeyed(tmp_path):
    path = write_video(tmp_path / "a.mp4", LEVELS[:4])
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # ISO 14496-12: the track header's display matrix
    quarter = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    path.write_bytes(content)
    frames, metadata = read_video(path, Sampling(every_frame=True))
    assert frames.shape == (4, 64, 48, 3) and (metadata.height, metadata.width) == (64, 48)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("index_last.mp4", {}, "not a video file, whatever its name says, or cut short before its index"),
        ("index_first.mp4", {"movflags": "faststart"}, "cut short: its data end within frame"),
        ("a.mkv", {}, "cut short: it claims 2.00 s, but its frames end at"),
        ("a.avi", {}, "cut short"),
    ],
)
def test_truncated_videos_are_refused(tmp_path, name, options, message):
    path = write_video(tmp_path / name, LEVELS[:16], noise=15, **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match=message):
        read_video(path, Sampling())


def end_of_frame(path, number):
    """How many bytes of the file there are up to the end of its k-th frame."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number - 1]
        return packet.pos + packet.size


LATE = [5 + index / 8 for index in range(80)]


@pytest.mark.parametrize(
    "name, times, options",
    [
        ("a.mp4", None, {"movflags": "faststart"}),
        ("late.mp4", LATE, {"movflags": "faststart"}),
        ("a.mov", None, {"movflags": "faststart"}),
        ("a.avi", None, {}),
    ],
)
def test_where_frames_are_counted_a_twentieth_is_missed(tmp_path, name, times, options):
    path = write_video(tmp_path / name, range(0, 240, 3), times, noise=15, **options)
    content = path.read_bytes()
    assert read_video(path, Sampling())[1].total_num_frames == 80
    for end in [end_of_frame(path, 76), end_of_frame(path, 70)]:
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"cut short: it claims 10\.0. s, but its frames end at [89]\."):
            read_video(path, Sampling())
    if name != "a.avi":  # there the last twentieth is but an index
        path.write_bytes(content[: len(content) * 95 // 100])
        with pytest.raises(ValueError, match=r"cut short: its data end within frame 7\d"):
            read_video(path, Sampling())


@pytest.mark.parametrize("start, length", [(0, 5), (0, 9.5), (3.3, 6.66), (2.53, 2.5), (5.06, 5.06)])
def test_a_trimmed_video_is_whole_until_it_is_cut(tmp_path, start, length):
    """Phones trim by an edit list: the file keeps frames that it does not show."""
    path = write_video(tmp_path / "a.mp4", range(0, 240, 3), noise=15, movflags="faststart")
    with av.open(str(path)) as container:
        ticks = 1 / container.streams.video[0].time_base
    end = end_of_frame(path, int(8 * min(start + length, 10)) - 4)
    content = bytearray(path.read_bytes())
    entry = content.index(b"elst") + 12  # ISO 14496-12: length in ms, start in the track's ticks
    content[entry : entry + 8] = round(length * 1000).to_bytes(4, "big") + round(start * ticks).to_bytes(4, "big")
    path.write_bytes(content)
    frames, _ = read_video(path, Sampling(every_frame=True))
    assert abs(len(frames) - 8 * length) < 2
    path.write_bytes(content[:end])
    with pytest.raises(ValueError, match="cut short: it claims"):
        read_video(path, Sampling())


def test_pauses_that_avi_counts_as_frames_are_not_missed(tmp_path):
    times = [index / 12 for index in range(12)] + [1.0, 2.0, 3.0]
    path = write_video(tmp_path / "a.avi", LEVELS[:15], times)
    frames, metadata = read_video(path, Sampling(every_frame=True))
    assert seen(frames) == list(range(15)) and metadata.duration > 3


def test_damaged_data_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", LEVELS[:16], movflags="faststart")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = b"\x00" * (len(content) - start)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged or cut short|cut short: only"):
        read_video(path, Sampling())


def test_addresses_are_fetched_and_read_as_the_file_would_be(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = write_video(tmp_path / "a.mp4", LEVELS[:16])
    (tmp_path / "page.html").write_text("<html></html>")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        frames, metadata = read_video(f"{site}/a.mp4", Sampling())
        with pytest.raises(OSError, match=rf"video {site}/none\.mp4: it cannot be fetched .*404"):
            read_video(f"{site}/none.mp4", Sampling())
        with pytest.raises(ValueError, match=rf"video {site}/page\.html: not a video file"):
            read_video(f"{site}/page.html", Sampling())
        server.shutdown()
    inline = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    for source in (path, inline):
        same, of_file = read_video(source, Sampling())
        assert (same == frames).all() and of_file == metadata
    with pytest.raises(ValueError, match="frames of 64x48 pixels are more than") as caught:
        read_video(inline, Sampling(), max_pixels=100)
    assert len(str(caught.value)) < 300, "a message does not repeat a whole file"


def test_files_that_are_no_videos_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such file"):
        read_video(tmp_path / "none.mp4", Sampling())
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.mp4", format="PNG")
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    (tmp_path / "art.txt").write_text("hello\n" * 100)  # FFmpeg would render it as a terminal
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_video(tmp_path / "other.mp4", LEVELS[:4])
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nother.mp4\n")  # a play list reads other files
    for name in ("picture.mp4", "text.mp4", "art.txt", "empty.mp4", "list.mp4"):
        with pytest.raises(ValueError, match=rf"{name}: not a video file, whatever its name says"):
            read_video(tmp_path / name, Sampling())


def test_a_video_without_pictures_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="it holds no video stream, only 1 other"):
        read_video(tmp_path / "sound.mp4", Sampling())
    write_video(tmp_path / "none.mkv", [])
    with pytest.raises(ValueError, match=r"it has no frames|not a video file"):
        read_video(tmp_path / "none.mkv", Sampling())


def test_a_video_beyond_the_pixel_limit_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", LEVELS[:4])
    with pytest.raises(ValueError, match="frames of 64x48 pixels are more than max_image_pixels=3000"):
        read_video(path, Sampling(), max_pixels=3000)
