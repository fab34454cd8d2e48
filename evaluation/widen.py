# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The dense model that costs what the experts cost: its feed-forward networks are wider where they would be.

With two of four experts a token, an MoE layer computes two feed-forward networks. Here one of twice the width stands
in its place, so that a gain of the experts is told from a gain of what they compute.
"""

import os
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from polyv.configuration.configuration_polyv import PolyVConfig
from polyv.hub.checkpoints import save_whole
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.processing.processing_polyv import PolyVProcessor


def widen(source: str | os.PathLike, out: str | os.PathLike, seed: int = 0, times: int = 2) -> Path:
    """Write a dense PolyV (`num_experts=0`) whose feed-forward networks are `times` as wide in each 4th layer.

    What is added is drawn at random and leaves through zeros, so that the model computes what it did. In PolyV's terms a
    layer has one expert, which every token goes to.

    Args:
        source: folder of a PolyV without experts.
        out: folder to write.
        seed: of the new weights.
        times: how many experts a token would go to.

    Raises:
        ValueError: `source` is no PolyV without experts.
    """
    dense = AutoModelForImageTextToText.from_pretrained(source)
    if not isinstance(dense, PolyVForConditionalGeneration) or dense.config.text_config.num_experts:
        raise ValueError(f"source={source}: expected a PolyV without experts (num_experts=0).")
    width = dense.config.text_config.intermediate_size
    config = PolyVConfig.from_dense(
        dense.config, num_experts=1, num_experts_per_tok=1, moe_intermediate_size=times * width
    )
    torch.manual_seed(seed)
    wide = PolyVForConditionalGeneration(config).to(dense.dtype)
    weights = dense.state_dict()
    made = wide.state_dict()
    made.update({name: weight for name, weight in weights.items() if name in made})
    for layer in config.text_config.moe_layers:
        name = f"model.language_model.layers.{layer}.mlp"
        fused = made[f"{name}.experts.gate_up_proj"][0]
        for part, start in (("gate_proj", 0), ("up_proj", times * width)):
            fused[start : start + width] = weights[f"{name}.{part}.weight"]
        down = made[f"{name}.experts.down_proj"][0].zero_()
        down[:, :width] = weights[f"{name}.down_proj.weight"]
    wide.load_state_dict(made)
    return save_whole(wide, PolyVProcessor.from_pretrained(source), Path(out))


__all__ = ["widen"]
