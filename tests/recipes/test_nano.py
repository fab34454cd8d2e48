# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.nano import SCENES, SPECIAL_TOKENS, VOCAB_SIZE, main, make_config, make_tokenizer
from polyv.world.media import write_video
from tests.recipes.conftest import SENTENCES, pan, turn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    files = tmp_path_factory.mktemp("nano")
    rows = [{"messages": [turn("user", "What is red?"), turn("assistant", "The small ball")]}] * 3
    (files / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for out in ("one", "two"):
        main(["--texts", str(files / "a.jsonl"), "--out", str(files / out)])
    return files / "one"


def test_the_same_texts_give_the_same_bytes(folder):
    for file in folder.iterdir():
        assert file.read_bytes() == (folder.parent / "two" / file.name).read_bytes()


def test_common_words_and_special_tokens_are_one_token_each(folder):
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    for word in (*SPECIAL_TOKENS, "user", "assistant", " small", " ball"):
        assert len(tokenizer.encode(word)) == 1, word
    assert len(tokenizer) < VOCAB_SIZE  # rows are left for `<synergy>`


@given(text=st.text())
def test_the_tokenizer_loses_nothing(text):
    tokenizer = make_tokenizer(SENTENCES)
    composed = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == composed


def test_plain_transformers_reads_the_folder_and_media_take_few_tokens(folder, tmp_path):
    plain, ours = AutoProcessor.from_pretrained(folder), PolyVProcessor.from_pretrained(folder, add_synergy=False)
    assert type(plain) is Qwen2_5_VLProcessor
    assert ours.scenes_kwargs == SCENES
    image = Image.fromarray(np.zeros((112, 112, 3), np.uint8))
    write_video(tmp_path / "v.mp4", np.zeros((16, 112, 112, 3), np.uint8), 8.0)
    messages = [turn("user", "What is red?", image=image, video=str(tmp_path / "v.mp4"))]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = ours.apply_chat_template(messages, **options)
    assert inputs["image_grid_thw"].tolist() == [[1, 14, 14]]
    assert inputs["video_grid_thw"].tolist() == [[4, 10, 10]]
    assert list(inputs["second_per_grid_ts"]) == [0.5]
    scene = ours.apply_chat_template([turn("user", "?", scene=pan(9))], **options)
    assert scene["image_grid_thw"].tolist() == [[1, 8, 8]] * 6
    messages[0]["content"].pop(1)
    inputs = [processor.apply_chat_template(messages, **options)["input_ids"] for processor in (plain, ours)]
    assert torch.equal(*inputs)


def test_text_after_a_clip_stands_where_generation_resumes(folder):
    # Upstream's get_rope_index lets it start at max(rows, columns), whatever the clip's length in time.
    config = AutoConfig.from_pretrained(folder)
    model = Qwen2_5_VLForConditionalGeneration(config).model
    ids = torch.tensor([[config.vision_start_token_id, *[config.video_token_id] * 100, config.vision_end_token_id, 5]])
    positions, delta = model.get_rope_index(
        ids,
        mm_token_type_ids=2 * (ids == config.video_token_id).int(),
        video_grid_thw=torch.tensor([[4, 10, 10]]),
        second_per_grid_ts=torch.tensor([0.5]),
    )
    assert positions[:, 0, -1].max() + 1 == ids.shape[1] + delta.item() == positions.max() + 1


def test_config_has_layers_enough_for_every_placement(folder):
    config = make_config(AutoProcessor.from_pretrained(folder).tokenizer)
    text = config.text_config
    assert text.num_hidden_layers >= 8
    assert text.intermediate_size % 8 == 0  # grouped_mm in bfloat16
    assert 2 * sum(text.rope_parameters["mrope_section"]) == text.hidden_size // text.num_attention_heads
    assert sum(p.numel() for p in Qwen2_5_VLForConditionalGeneration(config).parameters()) < 4e6
