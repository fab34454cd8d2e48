# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which weights a stage trains, by one word of its recipe."""

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2MLP
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from polyv.hub.adapters import require_peft
from polyv.modeling_polyv.encodings import PolyVSinusoidalEncoding, PolyVSynergyHead
from polyv.modeling_polyv.moe import PolyVExperts


if TYPE_CHECKING:
    from peft import LoraConfig

WORDS = {
    "full": "all weights",
    "projection": "the projection of visual tokens, and the encodings of time and coordinates (stage 1a)",
    "ffn": "the feed-forward networks of the decoder, experts and routers included (stage 1b)",
    "experts": "experts and routers, the synergy heads, and the encodings",
    "lora": "low-rank additions to attention and experts; routers, heads, encodings and `<synergy>` in full",
}


def set_trainable(model: PreTrainedModel, word: str, freeze_vision: bool = False) -> None:
    """Freeze all of `model` but what `word` names, see `WORDS`. "lora" freezes nothing: PEFT does, see `lora_config`.

    Args:
        freeze_vision: of "full", leave out the vision encoder; its projection still trains.

    Raises:
        ValueError: `word` is none of those, or names nothing that the model has.
    """
    if word not in WORDS:
        raise ValueError(f"trainable={word!r}: expected one of {', '.join(WORDS)}.")
    visual = model.get_encoder(modality="image")
    if word in ("full", "lora"):
        if freeze_vision:
            visual.requires_grad_(False)
            visual.merger.requires_grad_(True)
        return
    decoder = model.get_decoder()
    kinds: dict[str, tuple[type[nn.Module], ...]] = {
        "projection": (PolyVSinusoidalEncoding,),
        "ffn": (Qwen2MLP, PolyVExperts, Qwen3MoeTopKRouter),
        "experts": (PolyVExperts, Qwen3MoeTopKRouter, PolyVSynergyHead, PolyVSinusoidalEncoding),
    }
    if word == "experts" and not any(isinstance(module, PolyVExperts) for module in decoder.modules()):
        raise ValueError("trainable='experts': the model is dense. Upcycle it, or train 'ffn'.")
    model.requires_grad_(False)
    root = decoder if word == "ffn" else model
    for module in root.modules():
        if isinstance(module, kinds[word]):
            module.requires_grad_(True)
    if word == "projection":
        visual.merger.requires_grad_(True)


def lora_config(model: PreTrainedModel, rank: int, alpha: int) -> "LoraConfig":
    """What PEFT adds to a PolyV, or to a Qwen2.5-VL: low-rank matrices beside the decoder's attention and its experts'
    fused weights (or its dense FFNs), and whole copies of what is new and small.

    Raises:
        ImportError: PEFT is not installed.
    """
    require_peft("trainable='lora'")
    from peft import LoraConfig

    polyv = model.config.model_type == "polyv"
    names = [name for name, _ in model.named_modules()]
    whole = ["time_encoding", "coordinate_encoding", "temporal_head", "spatial_head", "mlp.gate"]
    sparse = any(name.endswith("mlp.experts") for name in names)
    token = model.config.synergy_token_id if polyv else None
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # By their place: "all-linear" would reach into the vision tower, and miss the experts.
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if sparse else None,
        modules_to_save=[end for end in whole if any(name.endswith(end) for name in names)] or None,
        trainable_token_indices=None if token is None else {"embed_tokens": [token]},
    )


__all__ = ["WORDS", "lora_config", "set_trainable"]
