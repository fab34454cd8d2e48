# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A byte-level tokenizer with Qwen2.5-VL's special tokens, and its processor, without a download."""

from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLVideoProcessor


# Qwen2.5-VL's published chat template, character for character.
QWEN_CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in "
    "content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == "
    "'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video "
    "{{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)

# In the order in which Qwen2.5's tokenizer adds them.
QWEN_ADDED_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def build_tokenizer() -> Qwen2Tokenizer:
    """256 byte tokens and Qwen's special ones: 264 in all, so that `<synergy>` becomes 264."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_ADDED_TOKENS])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def build_qwen_processor(patch_size: int = 8, max_pixels: int = 112 * 112) -> Qwen2_5_VLProcessor:
    """A stock processor: 16 pixels a merged token at patch 8, so a 112x112 image gives 49 tokens."""
    sizes = {"patch_size": patch_size, "min_pixels": 4 * patch_size**2, "max_pixels": max_pixels}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**sizes),
        build_tokenizer(),
        Qwen2VLVideoProcessor(**sizes),
        chat_template=QWEN_CHAT_TEMPLATE,
    )
