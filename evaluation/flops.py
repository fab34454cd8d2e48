# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Floating-point operations of a forward pass, counted by hand: a multiplication and an addition are two.

Matrix products only: norms, rotations, softmax and routing's bookkeeping are left out. A backward pass takes twice as
many, which changes no ratio.
"""

from typing import Any


def block_flops(width: int, inner: int, tokens: int, experts: int = 0, chosen: int = 1) -> float:
    """Of a dense FFN of three matrices, or of `chosen` such experts a token and their router."""
    return 2 * tokens * (chosen * 3 * width * inner + width * experts)


def decoder_flops(config: Any, tokens: int, context: int, logits: int) -> float:
    """Of one row through a decoder: Qwen2.5-VL's, or PolyV's.

    Args:
        config: the text configuration.
        tokens: how many positions are computed (T).
        context: how many positions the last of them attends to (the prompt's length in a prefill).
        logits: for how many positions the vocabulary's logits are computed.
    """
    width, inner = config.hidden_size, config.intermediate_size
    key_values = config.num_key_value_heads * (width // config.num_attention_heads)
    projections = 2 * tokens * (2 * width * width + 2 * width * key_values)  # q and o, k and v
    # Scores and their sum over values: position t attends to as many as stand before it.
    attended = sum(range(context - tokens + 1, context + 1))
    attention = 4 * attended * width
    dense_ffn = block_flops(width, inner, tokens)
    moe_layers = getattr(config, "moe_layers", [])
    moe_ffn = 0.0
    if moe_layers:
        moe_ffn = block_flops(
            width, config.moe_intermediate_size, tokens, config.num_experts, config.num_experts_per_tok
        )
    layers = config.num_hidden_layers
    return (
        layers * (projections + attention)
        + (layers - len(moe_layers)) * dense_ffn
        + len(moe_layers) * moe_ffn
        + 2 * logits * width * config.vocab_size
    )


def vision_flops(config: Any, patches: int) -> float:
    """Of one picture through Qwen2.5-VL's vision encoder, as if every layer attended to all of it."""
    width, merged = config.hidden_size, config.hidden_size * config.spatial_merge_size**2
    embed = 2 * patches * config.in_channels * config.temporal_patch_size * config.patch_size**2 * width
    layer = 2 * patches * (4 * width * width + 3 * width * config.intermediate_size) + 4 * patches * patches * width
    tokens = patches // config.spatial_merge_size**2
    merge = 2 * tokens * (merged * merged + merged * config.out_hidden_size)
    return embed + config.depth * layer + merge


__all__ = ["block_flops", "decoder_flops", "vision_flops"]
