# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Conversations that are none, or odd ones, through `apply_chat_template`, and prompts through the processor."""

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz import inputs
from tests.fuzz.judge import check_batch, fuzz, judge
from tests.recipes.conftest import pan


PICTURE = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
CLIP = np.zeros((4, 16, 16, 3), np.uint8)
MEDIA = {"image": PICTURE, "video": CLIP, "scene": pan(1)}
TOKENS = [
    "<|image_pad|>",
    "<|video_pad|>",
    "<|scene_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<synergy>",
    "<|im_end|>",
]

texts = st.one_of(
    st.text(max_size=20), st.lists(st.sampled_from([*TOKENS, "a", "é", "\ud800", "{{ 1/0 }}"])).map("".join)
)
kinds = st.sampled_from(["text", "image", "video", "scene", "image_url", "audio", "", "Image"])
keys = st.sampled_from(["text", "image", "video", "scene", "path", "url", "image_url", "fps", "base64", "x"])
values = st.one_of(
    texts, inputs.junk, st.sampled_from(list(MEDIA.values())), inputs.strings, st.sampled_from(["user", {"url": "x"}])
)


@st.composite
def entries(draw):
    """A content entry: a right one mostly."""
    if draw(st.integers(0, 7)):
        kind = draw(st.sampled_from(["text", *MEDIA]))
        return {"type": kind, kind: draw(texts) if kind == "text" else MEDIA[kind]}
    entry = draw(st.dictionaries(keys, values, max_size=3))
    return draw(st.one_of(values, st.just(entry), kinds.map(lambda kind: {**entry, "type": kind})))


right = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", ""]),
        "content": texts | st.lists(entries(), max_size=3),
    }
)
odd = st.one_of(
    values,
    st.dictionaries(st.sampled_from(["role", "content", "x"]), st.one_of(texts, values, st.lists(values)), max_size=3),
)


@st.composite
def conversations(draw):
    """Messages, or conversations of them: right ones, and in a third of them an odd one somewhere."""
    turns: list = draw(st.lists(right, min_size=1, max_size=3))
    oddity = draw(st.integers(0, 8))
    if oddity == 0:
        turns.insert(draw(st.integers(0, len(turns))), draw(odd))
    elif oddity == 1:
        turns = draw(odd | st.lists(st.lists(right, max_size=2), max_size=2))
    elif oddity == 2:
        return draw(st.sampled_from([[turns, turns[0]], [turns, []], [[turns]], turns[0], tuple(turns), iter(turns)]))
    return [turns, turns] if oddity == 3 else turns


@fuzz(conversations(), st.booleans())
def test_a_conversation(processor, conversation, generation):
    batch = judge(
        lambda: processor.apply_chat_template(
            conversation,
            add_generation_prompt=generation,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ),
        "conversation|image|video|scene|text|fps",
    )
    if batch is not None:
        check_batch(processor, batch)
        kinds = list(kinds_of(conversation))
        # Each scene is one view, which is an image.
        assert len(batch.get("image_grid_thw", ())) == kinds.count("image") + kinds.count("scene")
        assert len(batch.get("video_grid_thw", ())) == kinds.count("video")


def kinds_of(part):
    """The type of each content entry, wherever it is."""
    for one in part if isinstance(part, (list, tuple)) else [part]:
        if isinstance(one, (list, tuple)):
            yield from kinds_of(one)
        elif isinstance(one, dict):
            yield from kinds_of(one["content"]) if "content" in one else [one.get("type")]


@fuzz(st.data())
def test_a_prompt_and_its_media(processor, data):
    """Whatever stands in the prompt, media are as many as their placeholders, or refused."""
    several = st.lists(texts, max_size=3)
    text = data.draw(st.one_of(texts, several, inputs.junk))
    media = {}
    for name, kind in (("images", "image"), ("videos", "video"), ("scenes", "scene")):
        count = data.draw(st.integers(0, 2))
        media[name] = data.draw(st.sampled_from([None, [MEDIA[kind]] * count, [[MEDIA[kind]] * count], MEDIA[kind]]))
    batch = judge(
        lambda: processor(text=text, **media, padding=True, return_tensors="pt"),
        "text|images|videos|scenes|placeholder",
    )
    if batch is not None and "input_ids" in batch:
        check_batch(processor, batch)
        views = len(batch.get("image_grid_thw", ()))
        given = sum(_count(media[name]) for name in ("images", "scenes"))
        assert views == given and len(batch.get("video_grid_thw", ())) == _count(media["videos"])


def _count(media) -> int:
    if media is None:
        return 0
    return sum(map(_count, media)) if isinstance(media, list) else 1
