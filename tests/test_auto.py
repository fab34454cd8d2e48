# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A Qwen2.5-VL folder, weights and processor together, upcycled and used as its users would: by Auto classes."""

import json
import shutil

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
from polyv.processing.chat_template_polyv import CHAT_TEMPLATE
from tests import tiny
from tests.tiny_tokenizer import build_qwen_processor


def save_qwen(folder, vocab_size=272, tied=False):
    """264 tokens in 272 rows: eight rows are unused, as Qwen2.5-VL's checkpoints leave some."""
    processor = build_qwen_processor()
    token_id = processor.tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={**tiny.TEXT, "vocab_size": vocab_size, "eos_token_id": token_id("<|im_end|>")},
        vision_config=dict(tiny.VISION),
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def upcycle(qwen, folder):
    PolyVForConditionalGeneration.from_pretrained(qwen).save_pretrained(folder)
    PolyVProcessor.from_pretrained(qwen).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tiny.publish(save_qwen(tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="module")
def polyv(qwen, tmp_path_factory):
    return upcycle(qwen, tmp_path_factory.mktemp("polyv"))


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


@pytest.mark.parametrize("layout", ["qwen", "published"])
def test_the_parity_prompt_gives_the_dense_models_logits(request, tmp_path, picture, layout):
    qwen = request.getfixturevalue(layout)
    polyv = upcycle(qwen, tmp_path)
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


def test_the_processor_of_a_published_checkpoint_is_taken_over(published, picture):
    files = {file.name for file in published.iterdir()}
    assert {"preprocessor_config.json", "chat_template.json", "vocab.json", "merges.txt"} < files
    assert not {"processor_config.json", "video_preprocessor_config.json", "chat_template.jinja"} & files
    stock, processor = build_qwen_processor(), PolyVProcessor.from_pretrained(published)
    assert processor.tokenizer.get_vocab() == {**stock.tokenizer.get_vocab(), "<synergy>": 264}
    for part in ("image_processor", "video_processor"):
        theirs, ours = getattr(stock, part), getattr(processor, part)
        assert type(ours) is type(theirs)
        for name in ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        # `min_pixels` and `max_pixels` of the one file, which serves both; neither is a default
        assert (ours.size["shortest_edge"], ours.size["longest_edge"]) == (4 * 8**2, 112**2)

    prompt = ask("image", picture)
    told = [*prompt, {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]
    for conversation, add_prompt in ((prompt, True), (told, False), (told + ask("image", picture), True)):
        theirs, ours, plain = (
            one.apply_chat_template(conversation, add_generation_prompt=add_prompt, **arguments)
            for one, arguments in ((stock, {}), (processor, {}), (processor, {"add_synergy": False}))
        )
        assert plain == theirs
        assert ours == theirs.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<synergy>") != theirs


def test_the_chat_template_of_a_published_checkpoint_is_read(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    for template in (CHAT_TEMPLATE + "{#- mine -#}", "{{ messages[0]['content'] }}"):
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        assert PolyVProcessor.from_pretrained(folder).chat_template == template


@pytest.mark.parametrize("tied", [True, False])
def test_where_every_row_is_taken_the_embedding_grows_by_the_processors_synergy(tmp_path, picture, tied):
    """264 tokens in 264 rows: the model finds the id in the tokenizer's files, the processor by adding the token."""
    qwen = save_qwen(tmp_path / "qwen", vocab_size=264, tied=tied)
    polyv = upcycle(qwen, tmp_path / "polyv")
    processor, model = AutoProcessor.from_pretrained(polyv), AutoModelForImageTextToText.from_pretrained(polyv)
    assert processor.tokenizer.convert_tokens_to_ids("<synergy>") == model.config.synergy_token_id == 264
    assert processor.synergy_token_id == 264 and model.config.text_config.vocab_size == 265
    dense = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    for ours, theirs in (
        (model.get_input_embeddings(), dense.get_input_embeddings()),
        (model.get_output_embeddings(), dense.get_output_embeddings()),
    ):
        assert len(theirs.weight) == 264 and len(ours.weight) == 265
        assert torch.equal(ours.weight[:264], theirs.weight)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied

    arguments = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    inputs = processor.apply_chat_template(ask("image", picture), **arguments)
    plain = processor.apply_chat_template(ask("image", picture), add_synergy=False, **arguments)
    with torch.no_grad():
        assert model(**inputs).synergy_spatial.shape == (1, model.config.spatial_teacher_size)
        torch.testing.assert_close(model(**plain).logits[..., :264], dense(**plain).logits, atol=2e-5, rtol=1e-4)
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


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
