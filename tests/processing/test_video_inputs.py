# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLVideoProcessor
from transformers.video_utils import VideoMetadata

from polyv.processing.video_inputs import load_frames, load_videos
from tests.processing.conftest import write_video


PROCESSOR = Qwen2VLVideoProcessor()
LIMIT = 10_000


def clip(count):
    """Frame k is grey of level k."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3)).copy()


def load(*videos, **options):
    """Of each video: which frames are kept, and seconds between them."""
    loaded = load_videos(list(videos), options, PROCESSOR, LIMIT)
    return [(frames[:, 0, 0, 0].tolist(), 1 / metadata.sampled_fps) for frames, metadata in loaded]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Frames given as such: kept, or dropped evenly in time


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(
    "options, count, interval",
    [
        ({"fps": 25}, 100, 1 / 25),
        ({"fps": 25, "max_frames": 8}, 8, 0.5),
        ({"fps": 25, "num_frames": 4}, 4, 1.0),
        ({"video_metadata": {"fps": 25}}, 100, 1 / 25),
        ({"video_metadata": [{"fps": 25}], "fps": 5}, 20, 0.2),
        ({"video_metadata": [[{"fps": 25}]], "fps": 5, "max_frames": 10}, 10, 0.4),
        ({"video_metadata": VideoMetadata(total_num_frames=100, fps=25.0), "num_frames": 2}, 2, 2.0),
        ({"fps": 25, "do_sample_frames": True}, 8, 0.5),  # as a file: 2 a second
        ({"fps": 25, "max_frames": 8, "do_sample_frames": False}, 100, 1 / 25),
    ],
)
def test_frames_are_kept_up_to_the_cap(as_list, options, count, interval):
    [(kept, seconds)] = load(list(clip(100)) if as_list else clip(100), **options)
    assert kept == [k * 100 // count for k in range(count)]
    assert seconds == pytest.approx(interval)


@given(
    count=st.integers(1, 60),
    rate=st.floats(0.5, 60),
    cap=st.integers(2, 70),
    density=st.none() | st.floats(0.1, 80),
)
def test_seconds_stay_true_whatever_is_dropped(count, rate, cap, density):
    options = {"fps": rate} if density is None else {"fps": density, "video_metadata": [{"fps": rate}]}
    [(frames, metadata)] = load_videos([clip(count)], {**options, "max_frames": cap}, PROCESSOR, LIMIT)
    assert len(frames) <= cap and (
        density is not None or len(frames) == min(count, cap // 2 * 2 if cap < count else count)
    )
    assert len(frames) / metadata.sampled_fps == pytest.approx(count / rate)  # the whole duration
    if len(frames) < count:
        np.testing.assert_allclose(metadata.timestamps, frames[:, 0, 0, 0] / rate)


def test_frames_sampled_from_a_longer_video_keep_its_seconds():
    told = {"fps": 25, "total_num_frames": 1000, "frames_indices": list(range(0, 1000, 10))}
    assert load(clip(100), video_metadata=told)[0][1] == pytest.approx(0.4)
    [(kept, seconds)] = load(clip(100), video_metadata=told, max_frames=10)
    assert kept == list(range(0, 100, 10)) and seconds == pytest.approx(4.0)


def test_the_processor_s_own_cap_holds_for_frames_too():
    [(frames, _)] = load_videos([clip(50)], {"fps": 5}, Qwen2VLVideoProcessor(max_frames=6), LIMIT)
    assert len(frames) == 6


def test_a_rate_that_nobody_told_is_assumed_aloud():
    with pytest.warns(
        UserWarning, match="nobody told the rate of frames given as such; 24 frames a second are assumed"
    ):
        assert load(clip(48))[0][1] == pytest.approx(1 / 24)
    with pytest.warns(UserWarning, match="24 frames a second"):
        assert load(clip(48), num_frames=4) == [([0, 12, 24, 36], pytest.approx(0.5))]
    with pytest.warns(UserWarning, match="24 frames a second"):
        load(clip(4), video_metadata=[{"total_num_frames": 4}])


# One rule for all


def test_a_file_changes_nothing_for_the_frames_beside_it(tmp_path):
    file = write_video(tmp_path / "a.mp4", range(0, 240, 15))  # 16 frames, 2 s
    for options in ({"num_frames": 4, "video_metadata": {"fps": 25}}, {"fps": 4, "max_frames": 4}, {"fps": [8, 25]}):
        together = load_videos([file, clip(100)], options, PROCESSOR, LIMIT)
        for index, video in enumerate([file, clip(100)]):
            own = {**options, "fps": options["fps"][index]} if isinstance(options.get("fps"), list) else options
            [(frames, metadata)] = load_videos([video], own, PROCESSOR, LIMIT)
            np.testing.assert_array_equal(together[index][0], frames)
            assert together[index][1] == metadata
    (frames, _), (given, metadata) = load_videos(
        [file, clip(100)], {"num_frames": 4, "video_metadata": [None, {"fps": 25}]}, PROCESSOR, LIMIT
    )
    assert len(frames) == len(given) == 4 and metadata.sampled_fps == pytest.approx(1)


@pytest.mark.parametrize("name", ["fps", "num_frames", "min_frames", "max_frames"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2"])
def test_numbers_that_are_not_above_zero_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r}: expected a number above 0"):
        load(clip(4), **{name: value})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"video_metadata": {"fps": 0}}, "video_metadata: fps=0: expected a number above 0"),
        ({"video_metadata": {"fps": 8}, "fps": 4, "num_frames": 2}, "fps=4 and num_frames=2: give one of the two"),
        ({"fps": 8, "num_frames": 5}, "num_frames=5: the video has only 4 frames"),
        ({"fps": [8, 8]}, "fps: got 2 values for 1 videos"),
        ({"video_metadata": [{"fps": 8}] * 2}, "video_metadata: got 2 values for 1 videos"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load(clip(4), **options)


# Frames of every kind


def test_frames_of_every_kind_are_the_same_video(tmp_path):
    levels = clip(5) * 50
    files = [tmp_path / f"{index}.png" for index in range(5)]
    for frame, path in zip(levels, files, strict=True):
        Image.fromarray(frame).save(path)
    for frames in (
        levels, list(levels), [Image.fromarray(frame) for frame in levels], files,
        levels[..., :1], list(levels[..., 0]), levels.astype(np.uint16) * 257,
        levels / 255, list(levels / 255), list(torch.from_numpy(levels / 255)),
    ):  # fmt: skip
        np.testing.assert_array_equal(load_frames(frames, LIMIT), levels)
    np.testing.assert_array_equal(load_frames(levels[0], LIMIT), levels[:1])  # one picture is a video of one frame
    tensor = torch.from_numpy(levels).permute(0, 3, 1, 2)
    assert load_frames(tensor, LIMIT) is tensor
    assert load_frames(levels / 255, LIMIT, rescale=False).max() < 1


@pytest.mark.parametrize(
    "frames, message",
    [
        (clip(0), "one of them has no frames"),
        ([clip(1)[0], clip(1)[0, :4]], r"frame 1 has shape \[4, 8, 3\], but frame 0 \[8, 8, 3\]"),
        (np.zeros((5, 101, 100, 3), np.uint8), "videos: 100x101 pixels are more than max_image_pixels=10000"),
        ([np.zeros((101, 100, 3), np.uint8)], "videos: 100x101 pixels are more than max_image_pixels=10000"),
        ([Image.new("RGB", (101, 100))], "101x100 pixels are more than max_image_pixels=10000"),
        (np.zeros((5, 8, 8, 2), np.uint8), r"videos: got an array of shape \[5, 8, 8, 2\]"),
        (np.zeros((5, 8, 8), np.uint8), r"videos: got an array of shape \[1, 5, 8, 8\]"),
        (np.zeros((5, 0, 8, 3), np.uint8), "videos: 8x0 pixels: it is empty"),
    ],
)
def test_bad_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        load_frames(frames, LIMIT)
