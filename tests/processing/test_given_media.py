# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from polyv.processing import given_media
from polyv.processing.given_media import check_counts, check_positive, content_entries, flatten, is_image, is_video


PICTURE = Image.new("RGB", (4, 4))
FRAMES = np.zeros((3, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "given, count",
    [
        (None, 0),
        ([], 0),
        ("a.png", 1),
        (b"a", 1),
        (PICTURE, 1),
        (FRAMES[0], 1),
        (FRAMES, 3),
        ([["a.png"], [], [PICTURE] * 2], 3),
    ],
)
def test_images_are_counted(given, count):
    assert len(flatten("images", given, is_image)) == count


@pytest.mark.parametrize(
    "given, count",
    [
        ("a.mp4", 1),
        (["a.mp4", "b.mp4"], 2),
        (["0.png", "1.PNG"], 1),
        (["0.png"], 1),
        ([["0.png"], ["a.mp4"]], 2),
        (["data:image/png;base64,iVBO", "data:image/jpeg;base64,/9j/"], 1),
        ([["0.png", "1.png"], ["a.mp4"]], 2),
        (FRAMES, 1),
        (list(FRAMES), 1),
        ([PICTURE] * 2, 1),
        ([FRAMES, [PICTURE] * 2], 2),
        (FRAMES[None], 1),
    ],
)
def test_videos_are_told_from_lists_of_them(given, count):
    assert len(flatten("videos", given, is_video)) == count


def test_bounds_that_only_qwen_vl_utils_reads_are_remarked_on(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(given_media.logger, "warning_once", told.append)
    image = {"type": "image", "image": "a.png", "max_pixels": 3136}
    video = {"type": "video", "video": "a.mp4", "nframes": 4, "fps": 2}
    list(content_entries([{"role": "user", "content": [image, video, {"type": "text", "text": "Why?"}]}]))
    assert [text.split(",")[0] for text in told] == [
        "A content entry holds max_pixels",
        "A content entry holds nframes",
    ]


@pytest.mark.parametrize(
    "is_one, given, placeholders, message",
    [
        (is_image, None, [0, 0], None),
        (is_image, PICTURE, [1, 0], None),
        (is_image, [PICTURE] * 3, [2, 1], None),
        (is_image, FRAMES, [3], None),
        (is_image, [[PICTURE], [], None], [1, 0, 0], None),
        (is_image, [FRAMES, FRAMES[:1]], [3, 1], None),
        (is_image, [FRAMES[:1], FRAMES], [3, 1], r"media\[0\]: got 1, but text\[0\] holds 3 <x>"),
        (is_image, [PICTURE] * 3, [1, 1], r"media: got 3, but the text holds 2 <x>"),
        (is_video, [list(FRAMES), FRAMES], [2, 0], None),  # two videos, not the lists of two samples
        (is_video, [[list(FRAMES)], [FRAMES]], [1, 1], None),
        (is_video, [[list(FRAMES)], [FRAMES]], [2, 0], r"media\[0\]: got 1, but text\[0\] holds 2 <x>"),
        (is_video, [["a.mp4"]], [1, 0], r"media: got 1 lists for 2 text\(s\)"),
    ],
)
def test_lists_are_counted_a_sample_and_others_in_all(is_one, given, placeholders, message):
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        check_counts("media", given, is_one, "<x>", placeholders)


def user(*content):
    return [{"role": "user", "content": list(content)}]


def test_entries_are_found_in_one_conversation_and_in_many():
    one = user({"type": "image", "image": PICTURE}, {"type": "text", "text": "a", "image": None, "scene": None})
    assert len(list(content_entries(one))) == 2
    assert len(list(content_entries([one, [{"role": "user", "content": "text"}], tuple(one)]))) == 4


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "image"},
        {"type": "image", "url": "a"},
        {"type": "image", "base64": "a", "scene": None},
        {"type": "image_url", "image_url": {"url": "a"}},
        {"type": "video", "path": "a", "fps": 2},
        {"type": "scene", "scene": "a"},
        {"type": "tool_result", "value": 3},
    ],
)
def test_good_entries_pass(entry):
    assert list(content_entries(user(entry))) == [entry]


@pytest.mark.parametrize(
    "entry, message",
    [
        (
            {"type": "scnee", "scene": "a"},
            r"entry of type 'scnee' holds 'scene'\. Expected .*'image', 'video' or 'scene'",
        ),
        ({"scene": "a"}, r"entry of type None holds 'scene'"),
        ({"text": "a"}, r"entry of type None has the keys \['text'\]"),
        ({"type": "image", "scene": "a"}, r"entry of type 'image' holds 'scene'"),
        ({"type": "text", "text": "a", "video": "b"}, r"entry of type 'text' holds 'video'"),
        ({"type": "audio", "path": "a"}, r"entry of type 'audio' holds 'path'"),
    ],
)
def test_media_that_would_be_dropped_are_refused(entry, message):
    for conversation in (user(entry), [user(), user(entry)]):
        with pytest.raises(ValueError, match=message):
            list(content_entries(conversation))


@pytest.mark.parametrize("conversation", [[], [[]], [user(), []], ()])
def test_empty_conversations_are_refused(conversation):
    with pytest.raises(ValueError, match="conversation: it is empty"):
        list(content_entries(conversation))


def test_check_positive_lets_defaults_and_numbers_pass():
    for value in (None, 1, 0.5, np.float32(2), np.int64(3)):
        check_positive("fps", value)
