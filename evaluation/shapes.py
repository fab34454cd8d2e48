# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The shapes of the published Qwen2.5-VL models, and of one small enough to be timed on a CPU."""

from typing import Any

from transformers import Qwen2_5_VLConfig


_TEXT: dict[str, dict[str, Any]] = {
    # Of Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen2.5-VL-7B-Instruct, as their config.json have them.
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
    },
}
SHAPES = tuple(_TEXT)


def make_config(shape: str, num_hidden_layers: int | None = None, **overrides: Any) -> Qwen2_5_VLConfig:
    """The dense model's configuration.

    Args:
        shape: one of `SHAPES`.
        num_hidden_layers: of the decoder, if other than the model's; then the vision tower has half as many.
        overrides: of `Qwen2_5_VLConfig`.
    """
    is_small = shape == "small"
    text = {**_TEXT[shape], "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    text["rope_parameters"]["mrope_section"] = [8, 12, 12] if is_small else [16, 24, 24]
    vision: dict[str, Any] = {"out_hidden_size": text["hidden_size"], "hidden_size": 1280, "intermediate_size": 3420}
    if is_small:
        vision.update(hidden_size=256, intermediate_size=704, num_heads=4)
    if num_hidden_layers is not None:
        text["num_hidden_layers"] = num_hidden_layers
        vision.update(depth=num_hidden_layers // 2, fullatt_block_indexes=[num_hidden_layers // 2 - 1])
    dtype = {"dtype": overrides["dtype"]} if "dtype" in overrides else {}
    tied = {"tie_word_embeddings": shape != "7b"}
    return Qwen2_5_VLConfig(text_config={**text, **dtype}, vision_config={**vision, **dtype}, **{**tied, **overrides})


__all__ = ["SHAPES", "make_config"]
