# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Videos as callers give them, files or frames, brought to frames of a known rate: the one rule for both.

A file tells its own times: it is sampled by `fps`, or to `num_frames`. Frames given as such (an array, a list) have
been sampled by somebody else. Their rate is told by `video_metadata`, otherwise by `fps`; without either it is taken
as 24 with a warning, as PolyV encodes seconds. All of them are kept unless they are more than `max_frames`, or
`num_frames` asks for fewer, or `fps` does beside `video_metadata`; what is dropped is dropped evenly in time. One
video never changes what happens to another.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from polyv.processing.given_media import check_positive, is_file
from polyv.processing.still_images import load_image, to_eight_bits, unambiguous
from polyv.processing.view_sampling import Sampling, read_video, sample_indices


def load_videos(
    videos: list, options: dict[str, Any], processor: Any, max_pixels: int
) -> list[tuple[Any, VideoMetadata]]:
    """Decode and sample each video, once.

    Args:
        videos: paths, bytes, http(s) or data: URLs, arrays `[T, H, W, C]` or `[T, C, H, W]`, or lists of frames.
        options: of a call: `fps` and `video_metadata` (one, or one each; a dict or None), `num_frames`, `min_frames`,
            `max_frames`, `do_rescale`, and `do_sample_frames`: False keeps every frame, True samples frames given as
            such by the processor's own settings, as if they were a file.
        processor: the video processor, for what `options` leave open.

    Raises:
        ValueError: a number is not above 0, there are not as many of `fps` or `video_metadata` as videos, `num_frames`
            stands beside an `fps` to sample by, pictures of unknown rate are to be sampled, a video has no frames, or as
            `read_video` and `to_eight_bits` say.
    """
    for name in ("num_frames", "min_frames", "max_frames"):
        check_positive(name, options.get(name))
    rates = one_each("fps", options.get("fps"), len(videos))
    for rate in rates:
        check_positive("fps", rate, most=1e6)
    rescale = options.get("do_rescale", processor.do_rescale) is not False
    loaded = []
    for video, rate, told in zip(
        videos, rates, _metadata_each(options.get("video_metadata"), len(videos)), strict=True
    ):
        if is_file(video):
            loaded.append(read_video(video, _sampling(rate, options, processor), max_pixels))
        else:
            if isinstance(video, (list, tuple)) and any(map(is_file, video)):
                _refuse_sampling_without_rate(rate, told, options)
            loaded.append(_take(load_frames(video, max_pixels, rescale), rate, told, options, processor))
    return loaded


def _refuse_sampling_without_rate(fps: float | None, told: Any, options: dict[str, Any]) -> None:
    """As transformers does: pictures on disk are no video whose rate could be guessed."""
    if options.get("do_sample_frames") is True and fps is None and (told or {}).get("fps") is None:
        raise ValueError(
            "videos: Sampling frames from a list of images is not supported! Set `do_sample_frames=False`, or tell "
            "their rate by `video_metadata`."
        )


def load_frames(frames: Any, max_pixels: int, rescale: bool = True) -> Any:
    """One video's frames, given as an array or a list of images, as one array `[T, H, W, 3]` (or `[T, 3, H, W]`)."""
    if isinstance(frames, (list, tuple)):
        if not all(hasattr(frame, "shape") and frame.shape == frames[0].shape for frame in frames):
            frames = [_on_host(load_image(frame, max_pixels, rescale)) for frame in frames]
        for index, frame in enumerate(frames):
            if frame.shape != frames[0].shape:
                raise ValueError(
                    f"videos: frame {index} has shape {list(frame.shape)}, but frame 0 {list(frames[0].shape)}. "
                    "All frames of a video must have one size."
                )
        # Together: floats over 0..1 are told from those over 0..255 by the whole video.
        tensors = all(isinstance(frame, torch.Tensor) for frame in frames)
        frames = torch.stack(frames) if tensors and frames else np.stack([_on_host(frame) for frame in frames])
        frames = frames[..., None] if frames.ndim == 3 else frames
    elif frames.ndim < 3:
        raise ValueError(
            f"videos: got an array of shape {list(frames.shape)}, expected [T, H, W, C] or [T, C, H, W] with C of 1, 3 or 4."
        )
    elif frames.ndim == 3:
        frames = frames[None]
    if len(frames) == 0:
        raise ValueError("videos: one of them has no frames.")
    return unambiguous(to_eight_bits(frames, max_pixels, rescale, "videos"))


def _on_host(frame: Any) -> np.ndarray:
    """A picture or an array as NumPy's."""
    if isinstance(frame, torch.Tensor) and not frame.is_meta:
        frame = (frame.float() if frame.dtype == torch.bfloat16 else frame).detach().cpu()
    return np.asarray(frame)


def one_each(name: str, values: Any, count: int) -> list:
    """A value for all, or one each, as one each."""
    values = list(values) if isinstance(values, (list, tuple)) else [values] * count
    if len(values) != count:
        raise ValueError(f"{name}: got {len(values)} values for {count} videos. Give one for all, or one each.")
    return values


def _metadata_each(metadata: Any, count: int) -> list:
    if metadata is None or isinstance(metadata, Mapping):
        metadata = [metadata] * count
    if not isinstance(metadata, (list, tuple)):
        raise TypeError(f"video_metadata: got {type(metadata).__name__}, expected a dict, or a list of one a video.")
    if any(isinstance(entry, (list, tuple)) for entry in metadata):  # a list a sample
        metadata = [entry for part in metadata for entry in part]
    for entry in metadata:
        unknown = set(entry or ()) - set(VideoMetadata.__dataclass_fields__) if isinstance(entry, Mapping) else set()
        if unknown or not (entry is None or isinstance(entry, Mapping)):
            raise TypeError(
                f"video_metadata: got {entry!r:.80}, expected a dict of some of {', '.join(VideoMetadata.__dataclass_fields__)}."
            )
    return one_each("video_metadata", metadata, count)


def _sampling(fps: float | None, options: dict[str, Any], processor: Any) -> Sampling:
    num_frames = options.get("num_frames")
    if fps is not None and num_frames is not None:
        raise ValueError(f"fps={fps} and num_frames={num_frames}: give one of the two.")
    if fps is None and num_frames is None:
        num_frames = processor.num_frames
    return Sampling(
        fps=fps or processor.fps or Sampling().fps,
        num_frames=num_frames,
        min_frames=options.get("min_frames") or processor.min_frames,
        max_frames=options.get("max_frames") or processor.max_frames,
        multiple=processor.temporal_patch_size,
        every_frame=options.get("do_sample_frames") is False,
    )


def _take(
    frames: Any, fps: float | None, told: Any, options: dict[str, Any], processor: Any
) -> tuple[Any, VideoMetadata]:
    """Those of the frames given as such that are wanted, and when they were taken."""
    count = len(frames)
    metadata = VideoMetadata(**{"total_num_frames": count, **(told or {"frames_indices": list(range(count))})})
    if metadata.fps is None:
        if fps is None:
            warnings.warn(
                "videos: nobody told the rate of frames given as such; 24 frames a second are assumed, and PolyV will "
                "read seconds from that. Give the rate by fps, by video_metadata, or by 'fps' in the content entry.",
                stacklevel=2,
            )
        metadata.fps, fps = fps, None
    check_positive("video_metadata: fps", metadata.fps, most=1e6)
    rate = metadata.sampled_fps  # 24 where None
    sampling = _sampling(fps, options, processor)
    if fps is None and options.get("num_frames") is None and options.get("do_sample_frames") is not True:
        every = sampling.every_frame or count <= sampling.max_frames
        sampling = sampling._replace(fps=rate, num_frames=None, every_frame=every)
    chosen = sample_indices(np.arange(count) / rate, count / rate, sampling)
    if len(chosen) == count:
        return frames, metadata
    # Counted over the frames given, at their own rate, so that timestamps and `sampled_fps` stay seconds.
    metadata.total_num_frames, metadata.fps, metadata.frames_indices = count, rate, chosen.tolist()
    return frames[chosen], metadata
