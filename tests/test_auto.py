# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A Qwen2.5-VL folder, weights and processor together, upcycled and used as its users would: by Auto classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    pipeline,
)
from transformers.utils import logging

from polyv import PolyVForConditionalGeneration, PolyVProcessor, PosedViews
from tests import tiny
from tests.tiny_tokenizer import build_qwen_processor


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """264 tokens in 272 rows: eight rows are unused, as Qwen2.5-VL's checkpoints leave some."""
    folder = tmp_path_factory.mktemp("qwen")
    processor = build_qwen_processor()
    token_id = processor.tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={**tiny.TEXT, "vocab_size": 272, "eos_token_id": token_id("<|im_end|>")},
        vision_config=dict(tiny.VISION),
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def polyv(qwen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("polyv")
    PolyVForConditionalGeneration.from_pretrained(qwen).save_pretrained(folder)
    PolyVProcessor.from_pretrained(qwen).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def ask(kind, medium, text="What is it?"):
    return [{"role": "user", "content": [{"type": kind, kind: medium}, {"type": "text", "text": text}]}]


def random_views() -> PosedViews:
    rng = np.random.default_rng(1)
    return PosedViews.from_arrays(
        images=rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
        depths=rng.uniform(1, 3, (2, 64, 64)).astype(np.float32),
        intrinsics=np.tile(np.array([[60.0, 0, 32], [0, 60.0, 32], [0, 0, 1]]), (2, 1, 1)),
        poses=np.tile(np.eye(4), (2, 1, 1)),
    )


def test_model_and_processor_agree_on_synergy(qwen, polyv):
    processor, model = AutoProcessor.from_pretrained(polyv), AutoModelForImageTextToText.from_pretrained(polyv)
    assert type(processor) is PolyVProcessor and type(model) is PolyVForConditionalGeneration
    synergy = processor.tokenizer.convert_tokens_to_ids("<synergy>")
    assert synergy == model.config.synergy_token_id == 264  # the first row that Qwen's tokenizer leaves unused
    dense = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    assert torch.equal(model.get_input_embeddings().weight, dense.get_input_embeddings().weight)


def test_the_parity_prompt_gives_the_dense_models_logits(qwen, polyv, picture):
    arguments = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    theirs = AutoProcessor.from_pretrained(qwen).apply_chat_template(ask("image", picture), **arguments)
    ours = AutoProcessor.from_pretrained(polyv).apply_chat_template(
        ask("image", picture), add_synergy=False, **arguments
    )
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    with torch.no_grad():
        expected = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)(**theirs).logits
        measured = PolyVForConditionalGeneration.from_pretrained(polyv)(**ours).logits
    torch.testing.assert_close(measured, expected, atol=2e-5, rtol=1e-4)


def test_prompts_end_with_synergy_and_the_heads_answer(polyv, picture):
    processor, model = AutoProcessor.from_pretrained(polyv), AutoModelForImageTextToText.from_pretrained(polyv)
    inputs = processor.apply_chat_template(
        ask("image", picture), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["input_ids"][0, -1] == model.config.synergy_token_id
    with torch.no_grad():
        output = model(**inputs)
    assert output.synergy_temporal.shape == (1, model.config.temporal_teacher_size)


@pytest.mark.parametrize("kind", ["image", "video", "scene"])
def test_image_text_to_text_pipeline(polyv, picture, kind):
    medium = {"image": picture, "video": [picture] * 4, "scene": random_views()}[kind]
    messages = ask(kind, medium)
    if kind == "video":
        messages[0]["content"][0]["fps"] = 2
    pipe = pipeline("image-text-to-text", model=str(polyv), device="cpu")
    assert type(pipe.model) is PolyVForConditionalGeneration
    output = pipe(text=messages, max_new_tokens=4, return_full_text=False)
    assert isinstance(output[0]["generated_text"], str)


def test_a_scene_generates_as_it_does_alone_when_batched_with_others(polyv, picture):
    processor, model = AutoProcessor.from_pretrained(polyv), AutoModelForImageTextToText.from_pretrained(polyv)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.model.coordinate_encoding.weight, std=0.2)
    views = random_views()
    conversations = [
        ask("scene", views, "Where?"),
        ask("image", picture, "What is it, then?"),
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    ]
    arguments = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True)
    generate = dict(max_new_tokens=6, do_sample=False, eos_token_id=-1)
    batch = processor.apply_chat_template(conversations, padding_side="left", **arguments)
    together = model.generate(**batch, **generate)[:, batch["input_ids"].shape[1] :]
    for conversation, expected in zip(conversations, together.tolist(), strict=True):
        single = processor.apply_chat_template([conversation], **arguments)
        assert model.generate(**single, **generate)[0, single["input_ids"].shape[1] :].tolist() == expected


def test_a_checkpoint_loads_without_a_warning(polyv, recwarn, caplog):
    logging.enable_propagation()  # else caplog sees nothing of transformers
    PolyVForConditionalGeneration.from_pretrained(polyv)
    PolyVProcessor.from_pretrained(polyv)
    logging.disable_propagation()
    assert not [record.message for record in caplog.records]
    assert not [str(warning.message) for warning in recwarn if "polyv" in str(warning.message).lower()]
