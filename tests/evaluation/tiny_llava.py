# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A random LLaVA: CLIP and Llama, nothing of Qwen's, and a processor that takes images and no videos."""

from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from tests.tiny_tokenizer import build_tokenizer


SIDE, PATCH = 32, 16

# As published: all images of a message, then its text. Nothing else is read.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for entry in message['content'] if entry['type'] == 'image' %}<image>{% endfor %}"
    "{% for entry in message['content'] if entry['type'] == 'text' %}{{ entry['text'] }}{% endfor %}\n"
    "{% endfor %}assistant:"
)
ONE_IMAGE = CHAT_TEMPLATE.replace("<image>", "{% if loop.first %}<image>{% endif %}")
"""The template of a family that takes a single image a message."""


def save_llava(folder: Path, chat_template: str = CHAT_TEMPLATE) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    token_id = tokenizer.convert_tokens_to_ids
    text = {"vocab_size": 272, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1, "bos_token_id": None}
    text |= {"eos_token_id": token_id("<|im_end|>"), "pad_token_id": token_id("<|endoftext|>")}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, **vision},
        image_token_index=token_id("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder
