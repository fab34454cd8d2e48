# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from polyv.processing.chat_template_polyv import CHAT_TEMPLATE, SCENE_TOKEN, with_scenes
from polyv.processing.processing_polyv import PolyVProcessor
from tests.tiny_tokenizer import QWEN_CHAT_TEMPLATE, build_qwen_processor


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, WORDS),
    st.sampled_from([{"type": "image"}, {"type": "image", "image": "a.png"}, {"type": "video", "video": "a.mp4"}]),
    st.sampled_from([{"type": "image_url", "image_url": "a.png"}, {"type": "video"}, {"type": "unknown"}]),
)
CONTENT = st.one_of(WORDS, st.lists(PARTS, max_size=5))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": CONTENT}),
    min_size=1,
    max_size=5,
)


def render(template, messages, **variables) -> str:
    return render_jinja_template([messages], chat_template=template, **variables)[0][0]


@given(messages=MESSAGES, prompt=st.booleans(), numbered=st.booleans())
def test_without_synergy_it_is_qwens_prompt(messages, prompt, numbered):
    variables = {"add_generation_prompt": prompt, "add_vision_id": numbered}
    ours = render(CHAT_TEMPLATE, messages, add_synergy=False, **variables)
    assert ours == render(QWEN_CHAT_TEMPLATE, messages, **variables)


@given(messages=MESSAGES, prompt=st.booleans(), count=st.integers(1, 3))
def test_synergy_opens_every_assistant_turn_and_nothing_else(messages, prompt, count):
    messages = [message for message in messages if "<synergy>" not in str(message)]
    plain = render(CHAT_TEMPLATE, messages, add_generation_prompt=prompt, add_synergy=False)
    opened = render(CHAT_TEMPLATE, messages, add_generation_prompt=prompt, num_synergy_tokens=count)
    head = "<|im_start|>assistant\n"
    assert opened == plain.replace(head, head + "<synergy>" * count)
    assert opened.count("<synergy>") == count * (sum(m["role"] == "assistant" for m in messages) + prompt)


def test_the_whole_prompt():
    messages = [
        {"role": "user", "content": [{"type": "scene", "scene": "s"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Here."}]},
        {"role": "user", "content": "Sure?"},
    ]
    assert render(CHAT_TEMPLATE, messages, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|scene_pad|>Where?<|im_end|>\n"
        "<|im_start|>assistant\n<synergy>Here.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n<synergy>"
    )
    two = [{"role": "user", "content": [{"type": "scene"}, {"type": "image"}, {"type": "scene"}]}]
    assert "Scene 1: <|scene_pad|>Picture 1: <|vision_start|>" in render(CHAT_TEMPLATE, two, add_vision_id=True)


def test_targets_are_answers_with_their_end_but_not_synergy():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]
    texts, spans = render_jinja_template([messages], chat_template=CHAT_TEMPLATE, return_assistant_tokens_mask=True)
    assert [texts[0][start:end] for start, end in spans[0]] == ["yes<|im_end|>"]


def test_only_templates_that_mean_the_same_are_replaced():
    assert with_scenes(None) == with_scenes(QWEN_CHAT_TEMPLATE) == CHAT_TEMPLATE
    pirate = QWEN_CHAT_TEMPLATE.replace("You are a helpful assistant.", "You are a pirate.")
    strict = "{{ raise_exception('one message only') }}"
    for own in ("{{ messages }}<|scene_pad|>", pirate, strict, "no template at all", {"default": pirate}):
        assert with_scenes(own) == own


def test_scenes_are_refused_where_the_template_knows_none():
    parts = build_qwen_processor()
    pirate = QWEN_CHAT_TEMPLATE.replace("You are a helpful assistant.", "You are a pirate.")
    given = {"default": pirate, "ours": CHAT_TEMPLATE}
    processor = PolyVProcessor(parts.image_processor, parts.tokenizer, parts.video_processor, chat_template=given)
    scene = [{"role": "user", "content": [{"type": "scene", "scene": "room"}]}]
    for template in (None, pirate):
        with pytest.raises(
            ValueError, match=r"chat_template: this one cannot place scenes: it has no <\|scene_pad\|>"
        ):
            processor.apply_chat_template(scene, template)
    assert SCENE_TOKEN in processor.apply_chat_template(scene, "ours")
    assert "pirate" in processor.apply_chat_template([{"role": "user", "content": "q"}])
