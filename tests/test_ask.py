# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Asking: PolyV and a plain Qwen2.5-VL, every kind of medium, alone and in a batch. The weights are random."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from polyv import PolyVForConditionalGeneration, PolyVProcessor, PosedViews, ask
from polyv.ask import _as_images, _videos_as_frames, answer, answer_one, conversation, load, run
from tests import tiny
from tests.evaluation.tiny_llava import ONE_IMAGE, save_llava
from tests.tiny_tokenizer import QWEN_CHAT_TEMPLATE, build_tokenizer


@pytest.fixture(scope="module", params=["backbone", "polyv"])
def loaded(request, untrained):
    return load(str(getattr(untrained, request.param)))


@pytest.fixture(scope="module")
def media(small_world):
    scene = small_world / "scenes" / "000000"
    return {"image": scene / "image.png", "video": scene / "video.mp4", "scene": scene / "scene"}


def test_load_gives_each_checkpoint_its_classes(untrained):
    model, processor = load(str(untrained.polyv))
    assert type(model) is PolyVForConditionalGeneration and type(processor) is PolyVProcessor
    model, processor = load(str(untrained.backbone))
    assert type(model) is Qwen2_5_VLForConditionalGeneration and isinstance(processor, Qwen2_5_VLProcessor)
    assert not model.training


def test_a_plain_qwen_gets_its_own_prompt(untrained):
    messages = conversation("How many?", [("image", "i.png"), ("video", "v.mp4")])
    prompts = [
        processor.apply_chat_template(messages, add_generation_prompt=True)
        for processor in (load(str(untrained.backbone))[1], AutoProcessor.from_pretrained(untrained.backbone))
    ]
    assert prompts[0] == prompts[1]


def test_any_other_processor_gets_the_views_as_images(media):
    messages = [{"role": "system", "content": "Be brief."}, *conversation("Why?", [("scene", str(media["scene"]))])]
    system, user = _as_images(messages, {"scene"})
    assert system == messages[0]
    assert [entry["type"] for entry in user["content"]] == ["image"] * 6 + ["text"]
    assert user["content"][0]["image"].shape == (112, 112, 3)
    assert messages[1]["content"][0]["type"] == "scene"


@pytest.fixture(scope="module")
def other_family(tmp_path_factory):
    """A Qwen2-VL with random weights: its processor would read video files with torchcodec."""
    folder = tmp_path_factory.mktemp("qwen2-vl")
    tokenizer = build_tokenizer()
    sizes = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": 56 * 56}
    image_processor, video_processor = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
    Qwen2VLProcessor(image_processor, tokenizer, video_processor, QWEN_CHAT_TEMPLATE).save_pretrained(folder)
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={**tiny.TEXT, "vocab_size": 272, "eos_token_id": token_id("<|im_end|>")},
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8, "hidden_size": 48},
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    return load(str(folder))


def test_another_family_gets_videos_as_frames_and_scenes_as_images(other_family, media):
    model, processor = other_family
    assert type(model) is Qwen2VLForConditionalGeneration and type(processor) is Qwen2VLProcessor
    conversations = [conversation("How many?", [(kind, str(path))]) for kind, path in media.items()]
    assert len(answer(model, processor, conversations, max_new_tokens=3)) == 3


def test_a_family_that_knows_no_videos_gets_every_medium_as_images(media, tmp_path, monkeypatch):
    model, processor = load(str(save_llava(tmp_path)))
    assert type(model) is LlavaForConditionalGeneration and type(processor) is LlavaProcessor
    pictures, generate = [], model.generate

    def count(**inputs):
        pictures.append(len(inputs["pixel_values"]))
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", count)
    conversations = [conversation("How many?", [(kind, str(path))]) for kind, path in media.items()]
    together = answer(model, processor, conversations, max_new_tokens=3)
    assert together == [answer(model, processor, [one], max_new_tokens=3)[0] for one in conversations]
    # An image, a clip of 2 s at 2 frames a second, a scene of 6 views.
    assert pictures == [1 + 4 + 6, 1, 4, 6]


def test_a_family_that_cannot_take_a_medium_says_so(media, tmp_path, capsys):
    folder = str(save_llava(tmp_path, ONE_IMAGE))
    image, scene = ("image", str(media["image"])), ("scene", str(media["scene"]))
    run(folder, "How many?", [image], as_json=True, max_new_tokens=2)
    assert json.loads(capsys.readouterr().out)["model"] == folder
    for asked, named in (([scene], "scene"), ([image, image], "image + image")):
        refusal = f"model={folder}, of the family llava, cannot be asked about {named} ("
        with pytest.raises(ValueError, match=re.escape(refusal)):
            run(folder, "How many?", asked, as_json=True, max_new_tokens=2)


def test_faults_of_our_own_and_of_files_are_no_refusals(untrained, monkeypatch):
    model, processor = load(str(untrained.polyv))
    for fault, of in ((KeyError("ours"), processor), (FileNotFoundError("theirs"), None)):

        def fail(*args, _fault=fault):
            raise _fault

        monkeypatch.setattr("polyv.ask.answer", fail)
        with pytest.raises(type(fault)):
            answer_one("m", model, of, conversation("Why?", []))


def test_few_images_stand_for_a_long_medium(media, monkeypatch):
    monkeypatch.setattr("polyv.ask.MOST_PICTURES", 3)
    frames = np.zeros((10, 8, 8, 3), np.uint8) + np.arange(10, dtype=np.uint8)[:, None, None, None]
    scene, video = str(media["scene"]), str(media["video"])
    given = [("scene", scene), ("scene", PosedViews.load(scene)), ("video", video), ("video", frames)]
    [message] = _as_images(conversation("Why?", given), {"scene", "video"})
    *pictures, text = message["content"]
    assert [entry["type"] for entry in pictures] == ["image"] * 12 and text["type"] == "text"
    assert [entry["image"].max() for entry in pictures[9:]] == [0, 4, 9]


def test_the_frames_stand_at_their_moments_and_the_rest_stays(media):
    one = conversation("Why?", [("video", str(media["video"])), ("image", "i.png")])
    [[message]], [metadata] = _videos_as_frames([one])
    video, image, text = message["content"]
    # The world's clips: 2 s, 8 frames a second.
    assert video["video"].shape == (4, 112, 112, 3) and [image, text] == one[0]["content"][1:]
    assert (metadata.fps, metadata.duration, metadata.total_num_frames) == (2.0, 2.0, 4)
    assert metadata.timestamps == [0.0, 0.5, 1.0, 1.5]
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    assert _videos_as_frames([conversation("Why?", [("video", frames)])])[1] == [None]


def test_every_medium_alone_equals_the_batch_of_all(loaded, media):
    conversations = [conversation("How many?", [(kind, str(path))]) for kind, path in media.items()]
    conversations.append(conversation("How many red balls are there?", []))
    together = answer(*loaded, conversations, max_new_tokens=6)
    assert together == [answer(*loaded, [one], max_new_tokens=6)[0] for one in conversations]


def test_the_picture_reaches_the_model(loaded, media):
    """Random weights answer differently about black and about noise, or the picture was lost on the way."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8))
    pictures = [Image.new("RGB", (112, 112)), noise]
    conversations = [conversation("How many?", [("image", picture)]) for picture in pictures]
    black, noisy = answer(*loaded, conversations, max_new_tokens=12)
    assert black != noisy


def test_several_media_stand_in_the_order_given():
    messages = conversation("Why?", [("scene", "s"), ("image", "i")])
    assert messages == [
        {
            "role": "user",
            "content": [
                {"type": "scene", "scene": "s"},
                {"type": "image", "image": "i"},
                {"type": "text", "text": "Why?"},
            ],
        }
    ]


def test_run_prints_answer_seconds_and_device(untrained, media, capsys):
    run(str(untrained.polyv), "How many?", [("image", str(media["image"]))], as_json=True, max_new_tokens=4)
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"answer", "seconds", "device", "model"} and printed["seconds"] > 0
    run(str(untrained.polyv), "How many?", [("image", str(media["image"]))], as_json=False, max_new_tokens=4)
    text, took = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert text == printed["answer"] and took.endswith(f"s on {printed['device']})")


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "checkpoints/nano", "a/b/c", "runs/"])
def test_a_missing_checkpoint_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"model={name}: there is no such folder"):
        load(name)


def test_a_missing_file_is_named_before_the_model_is_loaded():
    with pytest.raises(FileNotFoundError, match=r"--scene nowhere: there is no such folder"):
        run("no-such-model", "Why?", [("scene", "nowhere")], as_json=False, max_new_tokens=4)


def test_a_checkpoints_own_penalty_changes_no_answer(untrained, media):
    """Qwen2.5-VL's generation config has one of 1.05, on the words of the question, too."""
    model, processor = load(str(untrained.polyv))
    asked = [conversation("How many red balls are there?", [("image", media["image"])])]
    plain = answer(model, processor, asked, max_new_tokens=12)
    model.generation_config.repetition_penalty = 9.0
    assert answer(model, processor, asked, max_new_tokens=12) == plain


def test_addresses_are_left_to_the_processor(monkeypatch, capsys):
    loaded = SimpleNamespace(device="cpu")
    monkeypatch.setattr(ask, "load", lambda model: (loaded, None))
    monkeypatch.setattr(ask, "answer_one", lambda name, model, processor, asked, most: asked[0]["content"][0]["image"])
    ask.run("m", "What is it?", [("image", "https://example.org/a.png")], as_json=False, max_new_tokens=4)
    assert capsys.readouterr().out.splitlines()[0] == "https://example.org/a.png"
    with pytest.raises(FileNotFoundError, match=r"--scene https://example\.org/room: there is no such folder"):
        ask.run("m", "What is it?", [("scene", "https://example.org/room")], as_json=False, max_new_tokens=4)
    inline = "data:image/png;base64," + "A" * 6000  # no name of a file could be as long
    ask.run("m", "What is it?", [("image", inline)], as_json=False, max_new_tokens=4)
    assert capsys.readouterr().out.splitlines()[0] == inline
