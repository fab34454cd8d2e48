# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A conversation of several turns, as a user holds it: template, answer, template again, and on from the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polyv import PolyVForConditionalGeneration, PolyVProcessor, PosedViews


NANO = Path(__file__).parents[1] / "checkpoints" / "polyv-nano"
QUESTIONS = {
    "image": "How many balls are there?",
    "scene": "What colour is the ball?",
    "video": "What happens first?",
}


@pytest.fixture(scope="module")
def model() -> PolyVForConditionalGeneration:
    return PolyVForConditionalGeneration.from_pretrained(NANO, dtype=torch.float32)


def medium(kind: str):
    rng = np.random.default_rng(list(QUESTIONS).index(kind))
    pictures = rng.integers(0, 255, (4, 112, 112, 3), dtype=np.uint8)
    if kind == "image":
        return Image.fromarray(pictures[0])
    if kind == "video":
        return pictures
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 1, 4)
    camera = np.array([[100.0, 0, 55.5], [0, 100, 55.5], [0, 0, 1]])
    return PosedViews.from_arrays(pictures, np.full((4, 112, 112), 2.0), camera, poses)


@pytest.mark.parametrize("order", ["image scene video", "video image scene", "scene video image"])
def test_each_turn_goes_on_from_the_cache_of_the_one_before(model, order):
    processor = PolyVProcessor.from_pretrained(NANO)

    def prompt(messages: list[dict]):
        settings = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return processor.apply_chat_template(messages, **settings, fps=4.0)

    def answer(inputs, cache=None):
        settings = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        return model.generate(**inputs, **settings, past_key_values=cache)

    encoded: list[int] = []
    messages: list[dict] = []
    cache, in_cache = None, []
    with model.model.visual.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0]))):
        for kind in order.split():
            content = [{"type": kind, kind: medium(kind)}, {"type": "text", "text": QUESTIONS[kind]}]
            messages.append({"role": "user", "content": content})
            inputs = prompt(messages)
            # The template writes the earlier turns as the cache has them, `<synergy>` and all.
            assert inputs["input_ids"][0, : len(in_cache)].tolist() == in_cache
            afresh = answer(inputs)
            encoded.clear()
            turn = answer(inputs, cache)
            alone = prompt(messages[-1:])
            assert encoded == [len(alone["pixel_values_videos" if kind == "video" else "pixel_values"])]
            assert turn.sequences.tolist() == afresh.sequences.tolist()
            for one, other in zip(turn.logits, afresh.logits, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
            cache = turn.past_key_values
            in_cache = turn.sequences[0, : cache.get_seq_length()].tolist()
            text = processor.decode(turn.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
