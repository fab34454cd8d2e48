# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import processing_utils

from polyv.processing.posed_views import PosedViews
from polyv.processing.processing_polyv import PolyVProcessor
from tests.processing.conftest import intrinsics_for, look_at, photograph_floor, user, write_video


RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 90), (112, 112), (33, 20))]
RATE = [{"fps": 8.0, "total_num_frames": 6}] * 2
CLIP = RNG.integers(0, 256, (6, 40, 56, 3), dtype=np.uint8)
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
SCENE = "<|scene_pad|>"


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """One image, one video and one scene as ordinary files."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(PICTURES[0]).save(folder / "image.png")
    write_video(folder / "video.mp4", range(0, 240, 15))
    photograph_floor([look_at((2, 0, 2)), look_at((-1, 2, 2)), look_at((0, -2, 2))]).save(folder / "scene")
    return folder


def tensors(processor, messages, **kwargs):
    kwargs = {"return_dict": True, "return_tensors": "pt", **kwargs}
    return processor.apply_chat_template(messages, tokenize=True, **kwargs)


# Parity with Qwen2.5-VL


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(value), err_msg=name)


@pytest.mark.parametrize("as_pil", [True, False])
def test_images_are_qwens(processor, qwen, as_pil):
    images = [Image.fromarray(picture) if as_pil else picture for picture in PICTURES]
    text = [f"{IMAGE}a{IMAGE}", "only text", f"b{IMAGE}"]
    kwargs = {"return_tensors": "pt", "padding": True}
    assert_same(processor(images=images, text=text, **kwargs), qwen(images=images, text=text, **kwargs))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.filterwarnings("ignore:videos. nobody told the rate")),
        {"video_metadata": [{"fps": 8.0, "total_num_frames": 6, "frames_indices": list(range(6))}] * 2},
        {"video_metadata": RATE, "fps": 4, "do_sample_frames": True},
        {"video_metadata": RATE, "num_frames": 2, "do_sample_frames": True},
        {"videos_kwargs": {"video_metadata": RATE, "num_frames": 4, "do_sample_frames": True}},
    ],
)
def test_videos_are_qwens(processor, qwen, options):
    text = [f"{VIDEO}{VIDEO}a"]
    ours = processor(videos=[CLIP, CLIP[::-1].copy()], text=text, return_tensors="pt", **options)
    assert_same(ours, qwen(videos=[CLIP, CLIP[::-1].copy()], text=text, return_tensors="pt", **options))


def test_the_parity_prompt_is_qwens(processor, qwen):
    messages = [
        user({"type": "image", "image": PICTURES[0]}, "a"),
        [*user("b"), {"role": "assistant", "content": "c"}],
    ]
    ours = tensors(processor, messages, padding=True, add_synergy=False, add_generation_prompt=True)
    theirs = tensors(qwen, messages, processor_kwargs={"padding": True}, add_generation_prompt=True)
    assert_same(ours, theirs)


def test_token_counts_for_serving_engines(processor, qwen):
    sizes = {"image_sizes": [(50, 90), (112, 112)], "video_sizes": [(6, 40, 56)]}
    assert processor._get_num_multimodal_tokens(**sizes) == qwen._get_num_multimodal_tokens(**sizes)


# Images and videos as files


def test_images_of_any_kind(processor, media):
    rgba = Image.new("RGBA", (48, 32), (0, 0, 0, 0))
    sources = [
        media / "image.png",
        str(media / "image.png"),
        (media / "image.png").read_bytes(),
        rgba,
        np.asarray(rgba),
    ]
    out = processor(images=[sources[:2], sources[2:]], text=[IMAGE * 2, IMAGE * 3], return_tensors="pt", padding=True)
    parts = out["pixel_values"].split(out["image_grid_thw"].prod(-1).tolist())
    assert torch.equal(parts[0], parts[1]) and torch.equal(parts[0], parts[2]) and torch.equal(parts[3], parts[4])
    assert parts[3].min() > 1.9  # transparent: white


def test_bad_images_are_named(processor, media):
    with pytest.raises(FileNotFoundError, match=r"image nowhere\.png: no such file"):
        processor(images=["nowhere.png"], text=IMAGE)
    with pytest.raises(ValueError, match=r"scene/pose/0\.txt: not a picture"):
        processor(images=[media / "scene/pose/0.txt"], text=IMAGE)


def test_a_video_file_is_sampled_once_and_its_seconds_are_true(processor, media):
    out = tensors(processor, user({"type": "video", "video": str(media / "video.mp4")}, "q"))
    assert out["video_grid_thw"][0, 0] == 2 and out["second_per_grid_ts"].tolist() == [1.0]  # 2 s at 2 fps, in pairs
    dense = tensors(processor, user({"type": "video", "path": str(media / "video.mp4"), "fps": 8}, "q"))
    assert dense["video_grid_thw"][0, 0] == 8 and dense["second_per_grid_ts"].tolist() == [0.25]
    for kwargs in (
        {"fps": 4},
        {"processor_kwargs": {"fps": 4}},
        {"num_frames": 8},
        {"videos_kwargs": {"num_frames": 8}},
    ):
        out = tensors(processor, user({"type": "video", "video": str(media / "video.mp4")}, "q"), **kwargs)
        assert out["video_grid_thw"][0, 0] == 4 and out["second_per_grid_ts"].tolist() == [0.5], kwargs
    whole = processor(videos=[media / "video.mp4"], text=VIDEO, do_sample_frames=False, return_tensors="pt")
    assert whole["video_grid_thw"][0, 0] == 8
    capped = processor(videos=[media / "video.mp4"], text=VIDEO, fps=8, max_frames=4, return_tensors="pt")
    assert capped["video_grid_thw"][0, 0] == 2 and capped["second_per_grid_ts"].tolist() == [1.0]
    with pytest.raises(ValueError, match="fps=2 and num_frames=2: give one"):
        processor(videos=[media / "video.mp4"], text=VIDEO, fps=2, num_frames=2)


def test_frames_given_as_such_carry_their_rate(processor, media, tmp_path):
    paths = []
    for index, frame in enumerate(CLIP):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
        paths.append(str(tmp_path / f"{index}.png"))
    for frames in (CLIP, list(CLIP), [Image.fromarray(frame) for frame in CLIP], paths):
        for out in (
            tensors(processor, user({"type": "video", "video": frames, "fps": 4}, "q")),
            processor(videos=[frames], text=VIDEO, fps=4, return_tensors="pt"),
        ):
            assert out["video_grid_thw"][0, 0] == 3 and out["second_per_grid_ts"].tolist() == [0.5]
    file = str(media / "video.mp4")
    both = processor(videos=[file, list(CLIP)], text=VIDEO * 2, fps=[8, 4], return_tensors="pt")
    assert both["video_grid_thw"][:, 0].tolist() == [8, 3] and both["second_per_grid_ts"].tolist() == [0.25, 0.5]


def test_bad_videos_are_named(processor, media):
    with pytest.raises(ValueError, match="one of them has no frames"):
        processor(videos=[CLIP[:0]], text=VIDEO)
    with pytest.raises(FileNotFoundError, match=r"video nowhere\.mp4: no such file"):
        processor(videos=["nowhere.mp4"], text=VIDEO)
    with pytest.raises(ValueError, match=r"image\.png: not a video file"):
        processor(videos=str(media / "image.png"), text=VIDEO)
    with pytest.raises(ValueError, match="fps: got 2 values for 1 videos"):
        processor(videos=[CLIP], text=VIDEO, fps=[1, 2])


# Scenes


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(24, 150), st.integers(24, 150)),
    depth_size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    pixels=st.sampled_from([40 * 40, 64 * 64, 112 * 112]),
)
def test_each_token_gets_the_coordinates_of_what_it_shows(processor, size, depth_size, pixels):
    """Paint world x and y into red and green: what a token shows must then say where it is, whatever the resize."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.stack([255 * (columns + 0.5) / size[1], 255 * (rows + 0.5) / size[0], 0 * rows], axis=-1).astype(
        np.uint8
    )
    k = intrinsics_for(*depth_size)
    scene = PosedViews.from_arrays([image] * 2, np.ones((2, *depth_size), np.float32), k, [np.eye(4), np.eye(4)])
    out = processor(scenes=[scene], text=SCENE, scenes_kwargs={"max_pixels": pixels}, return_tensors="pt")

    _, grid_rows, grid_columns = out["image_grid_thw"][0].tolist()
    assert grid_rows * grid_columns * 64 <= pixels
    patches = out["pixel_values"].reshape(2, -1, 4, 3, 2, 8, 8)  # view, token, 2x2 patches, colour, time, patch
    mean = torch.tensor(processor.image_processor.image_mean)
    shown = patches.mean(dim=(2, 4, 5, 6)) * torch.tensor(processor.image_processor.image_std) + mean
    half = np.array([depth_size[1] / k[0, 0] / 2, depth_size[0] / k[1, 1] / 2])
    told = out["image_coords"].reshape(2, -1, 3)[..., :2].numpy() / half / 2 + 0.5  # 0..1 over the picture
    assert np.abs(told - shown[..., :2].numpy()).max() < 0.03
    assert told.shape[1] == grid_rows * grid_columns // 4


def test_a_scene_is_one_image_a_view(processor, media):
    out = tensors(processor, user({"type": "scene", "scene": str(media / "scene")}, "q"))
    assert out["image_grid_thw"].shape == (3, 3) and (out["image_grid_thw"][:, 0] == 1).all()
    tokens = (out["mm_token_type_ids"] == 1).sum()
    assert out["image_coords"].shape == (tokens, 3) and out["image_coords"].dtype == torch.float32
    assert tokens == out["image_grid_thw"].prod(-1).sum() // 4
    ids, start = out["input_ids"][0].tolist(), processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert ids.count(start) == 3 and (ids.index(start) + 1) == ids.index(processor.image_token_id)
    assert processor.tokenizer.decode(ids).endswith("<|vision_end|>q<|im_end|>\n")


@pytest.mark.parametrize("key", ["scene", "path", "url"])
def test_scenes_come_as_folder_object_or_file(processor, media, key):
    by_path = tensors(processor, user({"type": "scene", key: str(media / "scene")}))
    by_object = tensors(processor, user({"type": "scene", key: PosedViews.load(media / "scene")}))
    assert_same(by_path, by_object)


def test_the_number_and_size_of_views_are_limited(processor, qwen_folder, media):
    content = {"type": "scene", "scene": str(media / "scene")}
    out = tensors(processor, user(content), scenes_kwargs={"num_views": 2, "max_pixels": 32 * 32})
    assert len(out["image_grid_thw"]) == 2 and out["image_grid_thw"].prod(-1).max() <= 16
    large = tensors(processor, user(content), scenes_kwargs={"min_pixels": 256 * 256, "max_pixels": 300 * 300})
    assert (large["image_grid_thw"].prod(-1) * 64 >= 256 * 256).all()
    images = tensors(processor, user(content), scenes_kwargs={"max_pixels": 32 * 32}, max_pixels=64 * 64)
    assert images["image_grid_thw"].prod(-1).max() <= 16  # the images' limit is not the views'
    limited = PolyVProcessor.from_pretrained(qwen_folder, max_image_pixels=100)
    with pytest.raises(ValueError, match="max_image_pixels=100"):
        tensors(limited, user(content))


def test_the_images_least_size_does_not_keep_scenes_out(qwen_folder, media):
    """A least size that nobody asked of scenes gives way to their largest; one that was asked for is refused."""
    processor = PolyVProcessor.from_pretrained(qwen_folder, min_pixels=96 * 96)
    content = {"type": "scene", "scene": str(media / "scene")}
    out = tensors(processor, user(content), scenes_kwargs={"max_pixels": 32 * 32})
    assert out["image_grid_thw"].prod(-1).max() <= 16
    with pytest.raises(ValueError, match="scenes_kwargs: min_pixels=9216 is more than the 1024 allowed"):
        tensors(processor, user(content), scenes_kwargs={"min_pixels": 96 * 96, "max_pixels": 32 * 32})


@pytest.mark.parametrize("height", [1, 3])
def test_pictures_as_high_as_channels_are_many_are_no_channels(processor, height):
    """transformers would take [3, W, 3] for [C, H, W]."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, 40, 3), dtype=np.uint8)
    expected = processor(images=Image.fromarray(pixels), text="<|image_pad|>", return_tensors="pt")
    for array in (pixels, torch.from_numpy(pixels)):
        assert_same(processor(images=array, text="<|image_pad|>", return_tensors="pt"), expected)
    clip = {"text": "<|video_pad|>", "fps": 8.0, "return_tensors": "pt"}
    frames = np.stack([pixels] * 4)
    tall = processor(videos=frames.repeat(2, axis=1), **clip)["video_grid_thw"]
    assert processor(videos=frames, **clip)["video_grid_thw"][0, 1] <= tall[0, 1]


def test_a_tool_call_needs_no_content(processor):
    template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] or message['tool_calls'] }};{% endfor %}"
    calls = [{"type": "function", "function": {"name": "look", "arguments": {}}}]
    for content in ({"content": None}, {}):
        messages = [*user("Is it red?"), {"role": "assistant", **content, "tool_calls": calls}]
        text = processor.apply_chat_template(messages, chat_template=template, add_synergy=False)
        assert "assistant: [{'type': 'function'" in text


def test_images_and_scenes_interleave_in_the_order_of_the_text(processor, media):
    scene = PosedViews.load(media / "scene")
    images = [Image.fromarray(picture) for picture in PICTURES[:2]]
    out = processor(
        images=images,
        scenes=[scene, scene.select(1)],
        text=[IMAGE + SCENE, SCENE + IMAGE],
        return_tensors="pt",
        padding=True,
    )
    alone = [processor(images=[image], text=IMAGE, return_tensors="pt") for image in images]
    views = processor(scenes=[scene], text=SCENE, return_tensors="pt")
    first_view = views["image_grid_thw"][0].prod()
    expected = [
        alone[0]["pixel_values"],
        views["pixel_values"],
        views["pixel_values"][:first_view],
        alone[1]["pixel_values"],
    ]
    assert torch.equal(out["pixel_values"], torch.cat(expected))
    known = [torch.full((len(part) // 4,), index in (1, 2)) for index, part in enumerate(expected)]
    assert torch.equal(out["image_coords"].isfinite().all(-1), torch.cat(known))


def test_a_batch_mixes_text_images_videos_and_scenes(processor, media):
    conversations = [
        user("only text"),
        user({"type": "image", "image": str(media / "image.png")}, "image"),
        user({"type": "video", "video": str(media / "video.mp4")}, "video"),
        user({"type": "scene", "scene": str(media / "scene")}, "scene"),
        user({"type": "scene", "scene": str(media / "scene")}, {"type": "image", "image": PICTURES[2]}, "both"),
    ]
    batch = tensors(processor, conversations, padding=True, add_generation_prompt=True)
    singles = [tensors(processor, conversation, add_generation_prompt=True) for conversation in conversations]
    for row, single in enumerate(singles):
        kept = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][kept], single["input_ids"][0])
        assert torch.equal(batch["mm_token_type_ids"][row][kept], single["mm_token_type_ids"][0])
        assert single["input_ids"][0, -1] == processor.synergy_token_id
        assert ("image_coords" in single) == (row >= 3)
    for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts"):
        assert torch.equal(batch[name], torch.cat([single[name] for single in singles if name in single])), name
    coordinates = [
        single.get("image_coords", torch.full((int(single["image_grid_thw"].prod(-1).sum()) // 4, 3), torch.nan))
        for single in singles
        if "image_grid_thw" in single
    ]
    torch.testing.assert_close(batch["image_coords"], torch.cat(coordinates), equal_nan=True, rtol=0, atol=0)
    assert set(batch["mm_token_type_ids"].unique().tolist()) == {0, 1, 2}


def test_answers_are_masked_in_the_right_place_after_scenes(processor, media):
    first = user({"type": "scene", "scene": str(media / "scene")}, "q", {"type": "image", "image": PICTURES[0]})
    messages = [*first, {"role": "assistant", "content": "one"}, *user("r"), {"role": "assistant", "content": "two"}]
    out = tensors(processor, [messages, user("x")], padding=True, return_assistant_tokens_mask=True)
    mask = torch.as_tensor(out["assistant_masks"]).bool()
    assert processor.tokenizer.decode(out["input_ids"][0][mask[0]]) == "one<|im_end|>two<|im_end|>"
    assert not mask[1].any()


@pytest.mark.parametrize(
    "text, media, message",
    [
        (IMAGE, {}, r"images: got 0, but the text holds 1 <\|image_pad\|> placeholder"),
        ("a", {"images": PICTURES[:2]}, r"images: got 2, but the text holds 0"),
        (VIDEO * 2, {"videos": [CLIP], "fps": 4}, r"videos: got 1, but the text holds 2 <\|video_pad\|>"),
        (SCENE, {}, r"scenes: got 0, but the text holds 1 <\|scene_pad\|>"),
        (IMAGE, {"scenes": [None]}, r"images: got 0, but the text holds 1"),
        ([IMAGE, "b"], {"images": [PICTURES[:1], PICTURES[:1]]}, r"images\[1\]: got 1, but text\[1\] holds 0"),
    ],
)
def test_counts_that_differ_are_refused(processor, text, media, message):
    with pytest.raises(ValueError, match=message):
        processor(text=text, **media)


@pytest.mark.parametrize(
    "name, text, token, file",
    [
        ("images", IMAGE, "image_pad", "image.png"),
        ("videos", VIDEO, "video_pad", "video.mp4"),
        ("scenes", SCENE, "scene_pad", "scene"),
    ],
)
def test_no_medium_of_one_sample_goes_to_another(processor, media, name, text, token, file):
    one = str(media / file)
    for lists, texts, message in (
        ([[one], [one]], [text * 2, "b"], r"\[0\]: got 1, but text\[0\] holds 2"),
        ([[one], [one, one]], [text, text], r"\[1\]: got 2, but text\[1\] holds 1"),
        ([[], [one]], [text, "b"], r"\[0\]: got 0, but text\[0\] holds 1"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}{message} <\|{token}\|> placeholder\(s\)\. Give as many media"):
            processor(text=texts, **{name: lists})
    with pytest.raises(ValueError, match=rf"^{name}: got 1 lists for 2 text\(s\)\. Give one list a text"):
        processor(text=[text, text], **{name: [[one, one]]})
    kwargs = {"padding": True, "return_tensors": "pt"}
    alone = processor(text=["b", text * 2], **{name: [one, one]}, **kwargs)  # a flat list is counted in all
    assert_same(processor(text=["b", text * 2], **{name: [None, [one, one]]}, **kwargs), alone)


def test_other_misuse_is_refused(processor):
    with pytest.raises(ValueError, match="nothing to process"):
        processor()
    with pytest.raises(TypeError, match=r"text: got .*, expected a string, or a list of strings"):
        processor(text=[["a"]])
    with pytest.raises(TypeError, match="images: got int"):
        processor(images=[3], text=IMAGE)
    with pytest.raises(ValueError, match=r"scene: a content entry with keys \['type'\] names none"):
        tensors(processor, user({"type": "scene"}))
    with pytest.raises(FileNotFoundError, match="scene nowhere: no such file or folder"):
        tensors(processor, user({"type": "scene", "scene": "nowhere"}))


@pytest.mark.skipif(not hasattr(processing_utils, "_UNMARKED"), reason="this transformers cannot sanitize")
@pytest.mark.parametrize("literal", ["<|image_pad|>", "<|video_pad|>", "<|scene_pad|>", "<synergy>"])
def test_placeholders_typed_by_a_user_are_text(processor, media, literal):
    content = ({"type": "image", "image": PICTURES[0]}, {"type": "scene", "scene": str(media / "scene")})
    out = tensors(processor, user(f"a {literal} b", *content), sanitize_control_tokens=True)
    plain = tensors(processor, user("a  b", *content))
    assert f"a {literal} b" in processor.tokenizer.decode(out["input_ids"][0])
    assert out["input_ids"].shape[1] == plain["input_ids"].shape[1] + len(literal)  # a token a byte
    assert torch.equal(out["pixel_values"], plain["pixel_values"])
    assert (out["mm_token_type_ids"] == 1).sum() == (plain["mm_token_type_ids"] == 1).sum()


# Options and messages


def test_one_video_s_own_fps_leaves_the_call_s_to_the_others(processor, media):
    file = str(media / "video.mp4")
    messages = user({"type": "video", "video": file, "fps": 1}, {"type": "video", "video": file}, "q")
    for kwargs in ({"fps": 4}, {"processor_kwargs": {"fps": 4}}, {"videos_kwargs": {"fps": 4}}, {"fps": [8, 4]}):
        out = tensors(processor, messages, min_frames=2, **kwargs)
        assert out["second_per_grid_ts"].tolist() == [2.0, 0.5], kwargs
    out = tensors(processor, messages, min_frames=2)
    assert out["second_per_grid_ts"].tolist() == [2.0, 1.0]
    frames = {"type": "video", "video": np.repeat(CLIP, 4, axis=0), "fps": 12}
    out = tensors(processor, user(frames, {"type": "video", "video": file}, "q"), max_frames=4)
    assert out["video_grid_thw"][:, 0].tolist() == [2, 2] and out["second_per_grid_ts"].tolist() == [1.0, 1.0]


def test_messages_that_would_lose_a_medium_are_refused(processor, media):
    with pytest.raises(ValueError, match="entry of type 'scnee' holds 'scene'"):
        processor.apply_chat_template(user({"type": "scnee", "scene": str(media / "scene")}))
    with pytest.raises(ValueError, match="conversation: it is empty"):
        tensors(processor, [])


def test_options_and_pictures_of_no_use_are_refused(processor):
    with pytest.raises(ValueError, match="fps=0: expected a number above 0"):
        tensors(processor, user({"type": "video", "video": CLIP, "fps": 0}))
    with pytest.raises(ValueError, match="max_frames=0: expected"):
        processor(videos=[CLIP], text=VIDEO, fps=8, max_frames=0)
    processor = copy.copy(processor)
    processor.max_image_pixels = 40 * 56
    processor(videos=[CLIP], text=VIDEO, fps=8)
    for oversized in ({"images": PICTURES[0], "text": IMAGE}, {"videos": [[PICTURES[0]]], "text": VIDEO}):
        with pytest.raises(ValueError, match="90x50 pixels are more than max_image_pixels=2240"):
            processor(**oversized)


def test_floats_over_one_are_the_picture_and_stay_so_without_rescaling(processor):
    whole = processor(images=[PICTURES[1]], text=IMAGE, return_tensors="pt")["pixel_values"]
    floats = PICTURES[1] / np.float32(255)
    for kwargs in ({}, {"do_rescale": False}, {"images_kwargs": {"do_rescale": False}}):
        out = processor(images=[floats], text=IMAGE, return_tensors="pt", **kwargs)
        torch.testing.assert_close(out["pixel_values"], whole, atol=0.02, rtol=0)
