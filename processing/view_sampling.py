# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which frames of a video and which views of a scene to look at, and the reader of video files."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import av
import numpy as np
from transformers.video_utils import VideoMetadata

from polyv.processing.still_images import MAX_IMAGE_PIXELS, fetch, is_address, short


# Only containers of moving pictures. FFmpeg would also "play" text files, single pictures, and play lists that name
# other files or addresses: an uploaded file must not make us read those.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,nut"


def select_views(count: int, limit: int | None) -> np.ndarray:
    """Indices of at most `limit` of `count` views, spread evenly over the trajectory, first and last included.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"num_views={limit}: at least 1 view is needed (None keeps all).")
    if limit is None or count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(int)


class Sampling(NamedTuple):
    """How densely to look at a video. `num_frames` asks for an exact count and overrides the rest; otherwise `fps`
    frames a second, at least `min_frames`, at most `max_frames`; always a multiple of `multiple`, and never more than
    there are. `every_frame` keeps all of them."""

    fps: float = 2.0
    num_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    multiple: int = 2
    every_frame: bool = False


def sample_indices(times: np.ndarray, duration: float, sampling: Sampling) -> np.ndarray:
    """Frames on screen at moments spread evenly over `duration`: the k-th of n is the one shown at k·duration/n.

    Works on timestamps, so that a variable frame rate gives the same moments as a constant one.

    Args:
        times: `[T]` seconds at which frames appear, rising, the first at 0.
        duration: seconds, until the last frame vanishes.

    Raises:
        ValueError: `num_frames` exceeds the frames there are, or a number is not positive.
    """
    total = len(times)
    if sampling.every_frame:
        return np.arange(total)
    wanted = sampling.num_frames if sampling.num_frames is not None else duration * sampling.fps
    if not np.isfinite(wanted) or wanted <= 0:
        raise ValueError(f"fps={sampling.fps}, num_frames={sampling.num_frames}: expected a positive number.")
    if sampling.num_frames is None:
        wanted = min(max(round(wanted, 3), sampling.min_frames), sampling.max_frames, total)
    elif wanted > total:
        raise ValueError(
            f"num_frames={sampling.num_frames}: the video has only {total} frames. Ask for fewer, or by fps."
        )
    count = max(int(wanted) // sampling.multiple * sampling.multiple, min(total, sampling.multiple))
    moments = np.arange(count) * (duration / count)
    return np.searchsorted(times, moments + 1e-4, side="right") - 1  # 0.1 ms: files round their timestamps


def read_video(
    path: str | os.PathLike | bytes, sampling: Sampling, max_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[np.ndarray, VideoMetadata]:
    """Decode a video file (or its bytes, or what an http(s) or data: URL holds) with PyAV and keep the frames that
    `sampling` asks for.

    A file cut short within a frame is mostly told by that frame. One cut between two frames is told by the length that
    it declares: in MP4, MOV and AVI, which count their frames, but for the last two; in Matroska, WebM and FLV, only if
    a tenth is missing and the file holds nothing but the video. MPEG-TS, MPEG, ASF, MP4 in fragments and bare streams
    declare no length that outlives the cut: such a file looks like a shorter video.

    Returns:
        uint8 `[T, H, W, 3]` RGB, upright (a phone's rotation mark is obeyed), and transformers' own metadata, whose
        `sampled_fps` is the true rate of what was kept: frames / duration.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the URL cannot be fetched.
        ValueError: the file is no video, has no frames, is cut short or damaged, or its frames exceed `max_pixels`.
    """
    name = "given as bytes" if isinstance(path, bytes) else short(os.fspath(path))
    if is_address(path):
        path = fetch(path, "video")
    source = io.BytesIO(path) if isinstance(path, bytes) else os.fspath(path)
    if isinstance(source, str) and not os.path.isfile(source):
        raise FileNotFoundError(f"video {name}: no such file.")
    try:
        container = _open(source)
    except (av.FFmpegError, OSError, UnicodeError) as error:  # the last over texts within the file
        why = getattr(error, "strerror", error)
        raise ValueError(
            f"video {name}: not a video file, whatever its name says, or cut short before its index ({why})."
        ) from error
    with container:
        if not container.streams.video:
            raise ValueError(f"video {name}: it holds no video stream, only {len(container.streams)} other stream(s).")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f"video {name}: damaged, or of a codec that FFmpeg does not know.")
        if stream.width * stream.height > max_pixels:
            raise ValueError(
                f"video {name}: frames of {stream.width}x{stream.height} pixels are more than max_image_pixels={max_pixels}."
            )
        try:
            times, duration = _frame_times(container, stream, name)
            indices = sample_indices(times, duration, sampling)
            with _rewound(container, source) as rewound:
                frames = _decode(rewound, indices)
        except (av.FFmpegError, UnicodeError) as error:
            raise ValueError(f"video {name}: damaged or cut short ({getattr(error, 'strerror', error)}).") from error
    if len(frames) < len(indices):
        raise ValueError(
            f"video {name}: cut short: only {len(frames)} of {len(indices)} sampled frames can be decoded."
        )
    metadata = VideoMetadata(
        total_num_frames=len(times),
        fps=len(times) / duration,
        duration=duration,
        video_backend="pyav",
        height=frames[0].shape[0],
        width=frames[0].shape[1],
        frames_indices=indices.tolist(),
    )
    return frames, metadata


def _open(source: str | io.BytesIO) -> Any:
    return av.open(source, options={"format_whitelist": VIDEO_FORMATS})


@contextmanager
def _rewound(container: Any, source: str | io.BytesIO) -> Iterator[Any]:
    try:
        container.seek(0)
    except av.PermissionError:  # a bare stream of H.264 or HEVC, in which FFmpeg does not seek
        if isinstance(source, io.BytesIO):
            source.seek(0)
        container = _open(source)
    with container:
        yield container


def _frame_times(container: Any, stream: Any, name: str) -> tuple[np.ndarray, float]:
    """When each frame appears, in seconds from the first, and for how long all of them last, without decoding."""
    stored = [packet for packet in container.demux(stream) if packet.size]
    packets = [packet for packet in stored if not packet.is_discard]  # edit lists hide frames
    if not packets:
        raise ValueError(f"video {name}: it has no frames.")
    if any(packet.is_corrupt for packet in packets):
        raise ValueError(f"video {name}: cut short: its data end within frame {len(packets)}.")
    stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets]
    if any(stamp is None for stamp in stamps):  # a bare stream without timestamps: frames come evenly
        lasts = (packets[0].duration or 0) * float(stream.time_base)  # truer than the rate, which may be a guess
        stamps, base = list(range(len(packets))), lasts or 1 / float(stream.average_rate or 24)
    else:
        base = float(stream.time_base)
    times = np.sort(np.array(stamps, dtype=np.float64)) * base
    start, times = times[0], times - times[0]
    interval = times[-1] / (len(times) - 1) if times[-1] > 0 else 1 / float(stream.average_rate or 24)
    last = packets[int(np.argmax(stamps))].duration
    duration = float(times[-1] + (last * float(stream.time_base) if last else interval))
    declared = _declared_length(container, stream, start)
    slack = max(0.1 * declared, 2 * interval)
    if len(stored) < stream.frames:
        # No proof by itself: an edit list leaves frames out, and AVI counts pauses. But then the length must agree, up
        # to the two frames within which an edit list may begin and end.
        slack = min(slack, 2 * np.diff(times).max(initial=interval))
    if declared - duration > slack:
        raise ValueError(
            f"video {name}: cut short: it claims {declared:.2f} s, but its frames end at {duration:.2f} s."
        )
    return times, duration


def _declared_length(container: Any, stream: Any, start: float) -> float:
    """Seconds that the file claims to last from its first frame, at `start`; 0 where it claims nothing."""
    if container.format.name == "avi":  # FFmpeg lowers its duration to fit a file cut short
        return float(stream.frames * stream.time_base)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if len(container.streams) == 1 and container.duration is not None:
        return container.duration / av.time_base - max(start, 0)  # Matroska counts from 0
    return 0.0


def _decode(container: Any, indices: np.ndarray) -> np.ndarray:
    """The frames at `indices` (rising, may repeat) of the decoded sequence, [T, H, W, 3]; fewer where it ends early."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    wanted: list[int] = indices.tolist()
    frames, done = np.empty((0, 0, 0, 3), np.uint8), 0
    for position, frame in enumerate(container.decode(stream)):
        if position == wanted[done]:
            picture = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            if not done:  # at once in their place: a list, stacked in the end, would hold a long video twice
                frames = np.empty((len(wanted), *picture.shape), np.uint8)
            count = wanted.count(position)
            frames[done : done + count] = picture
            done += count
        if done == len(wanted):
            break
    return frames[:done]
