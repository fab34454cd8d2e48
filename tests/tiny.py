# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Random PolyV and Qwen2.5-VL models of a few thousand weights, and inputs for them, built from tensors alone."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from polyv import PolyVConfig, PolyVForConditionalGeneration


VOCAB_SIZE = 320
IMAGE, VIDEO, VISION_START, VISION_END, SYNERGY = 300, 301, 302, 303, 304
VISION = dict(
    depth=2, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=8, window_size=32, out_hidden_size=48,
    fullatt_block_indexes=[1], tokens_per_second=4,
)  # fmt: skip
TEXT = dict(
    vocab_size=VOCAB_SIZE, hidden_size=48, intermediate_size=64, num_hidden_layers=8, num_attention_heads=4,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.1,
    rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 2, 2]},
)  # fmt: skip
TOKENS = dict(
    image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END
)  # fmt: skip


def polyv_config(text: dict | None = None, **overrides) -> PolyVConfig:
    values = dict(TOKENS, synergy_token_id=SYNERGY, temporal_teacher_size=12, spatial_teacher_size=20)
    return PolyVConfig(text_config={**TEXT, **(text or {})}, **{"vision_config": dict(VISION), **values, **overrides})


def polyv(seed: int = 0, text: dict | None = None, **overrides) -> PolyVForConditionalGeneration:
    """A random PolyV whose encodings are random too, so that tests see what they do."""
    torch.manual_seed(seed)
    model = PolyVForConditionalGeneration(polyv_config(text, **overrides)).eval()
    for encoding in (model.model.time_encoding, model.model.coordinate_encoding):
        torch.nn.init.normal_(encoding.weight, std=0.1)
    return model


def dense(seed: int = 0, tied: bool = False, **text) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, **text}, vision_config=dict(VISION), tie_word_embeddings=tied, **TOKENS
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def save_dense(
    model: Qwen2_5_VLForConditionalGeneration, folder: Path, legacy_names: bool = True, max_shard_size: str = "5GB"
) -> Path:
    """Saves a Qwen2.5-VL checkpoint under the names of the published ones (`model.layers.*`, `visual.*`), or under
    the names its modules have today (`model.language_model.layers.*`, `model.visual.*`)."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return _rename_weights(Path(folder), legacy_names)


def _rename_weights(folder: Path, legacy: bool) -> Path:
    for file in folder.glob("*.safetensors"):
        tensors = {_name(key, legacy): value for key, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {_name(key, legacy): file for key, file in content["weight_map"].items()}
        index.write_text(json.dumps(content))
    return folder


def _name(key: str, legacy: bool) -> str:
    today = key
    if key.startswith("visual."):
        today = f"model.{key}"
    elif key.startswith("model.") and not key.startswith(("model.language_model.", "model.visual.")):
        today = key.replace("model.", "model.language_model.", 1)
    return today.replace("model.language_model.", "model.").replace("model.visual.", "visual.") if legacy else today


# Written by hand after the index of Qwen/Qwen2.5-VL-7B-Instruct. 3B, tied, has all but `lm_head.weight`.
PUBLISHED_LAYER = {
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.post_attention_layernorm.weight",
    "model.layers.0.self_attn.k_proj.bias",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.v_proj.bias",
    "model.layers.0.self_attn.v_proj.weight",
}
PUBLISHED_VISION_BLOCK = {
    "visual.blocks.0.attn.proj.bias",
    "visual.blocks.0.attn.proj.weight",
    "visual.blocks.0.attn.qkv.bias",
    "visual.blocks.0.attn.qkv.weight",
    "visual.blocks.0.mlp.down_proj.bias",
    "visual.blocks.0.mlp.down_proj.weight",
    "visual.blocks.0.mlp.gate_proj.bias",
    "visual.blocks.0.mlp.gate_proj.weight",
    "visual.blocks.0.mlp.up_proj.bias",
    "visual.blocks.0.mlp.up_proj.weight",
    "visual.blocks.0.norm1.weight",
    "visual.blocks.0.norm2.weight",
}
PUBLISHED_REST = {
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.norm.weight",
    "visual.merger.ln_q.weight",
    "visual.merger.mlp.0.bias",
    "visual.merger.mlp.0.weight",
    "visual.merger.mlp.2.bias",
    "visual.merger.mlp.2.weight",
    "visual.patch_embed.proj.weight",
}
# What the published config.json says of the decoder, beside everything else, and of the vision encoder.
_FLAT = (
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "max_window_layers", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "use_cache", "use_sliding_window", "vocab_size",
)  # fmt: skip
_VISION = (
    "depth", "hidden_act", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size",
    "spatial_merge_size", "window_size", "fullatt_block_indexes", "tokens_per_second", "temporal_patch_size",
)  # fmt: skip
_PREPROCESSOR = (
    "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "image_processor_type"
)  # fmt: skip


def publish(folder: Path) -> Path:
    """Rewrites a saved Qwen2.5-VL, and its processor where the folder has one, as the Hub holds the published ones.

    Those were written by transformers 4.41: a flat config.json, `visual.*` and `model.layers.*`, and one file for each
    part of the processor. Today's transformers writes none of this, so no other test would notice if it broke.
    """
    config = Qwen2_5_VLConfig.from_pretrained(folder).to_dict()
    text, vision, rope = config["text_config"], config["vision_config"], config["text_config"]["rope_parameters"]
    flat = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        **{name: text[name] for name in _FLAT},
        **{name: config[name] for name in TOKENS},
        "vision_token_id": config["vision_end_token_id"] + 1,
        "model_type": "qwen2_5_vl",
        "rope_theta": rope["rope_theta"],
        "sliding_window": 32768,  # which `use_sliding_window` switches off
        "tie_word_embeddings": config["tie_word_embeddings"],
        "torch_dtype": "float32",  # theirs is bfloat16, which would hide what parity is to show
        "transformers_version": "4.41.2",
        "vision_config": {
            "model_type": "qwen2_5_vl",
            **{name: vision[name] for name in _VISION},
            "in_chans": vision["in_channels"],
            "spatial_patch_size": vision["patch_size"],
        },
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    generation = {
        "bos_token_id": text["bos_token_id"],
        "pad_token_id": text["bos_token_id"],
        "do_sample": True,
        "eos_token_id": [text["eos_token_id"], text["bos_token_id"]],
        "repetition_penalty": 1.05,
        "temperature": 0.000001,
        "transformers_version": "4.49.0",
    }
    _write(folder / "config.json", flat)
    _write(folder / "generation_config.json", generation)
    if (folder / "processor_config.json").exists():
        _publish_processor(folder)
    return _rename_weights(folder, legacy=True)


def _publish_processor(folder: Path) -> None:
    image = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    template = (folder / "chat_template.jinja").read_text()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {str(token.pop("id")): token for token in tokenizer["added_tokens"]}
    names = [token["content"] for token in added.values()]
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [name for name in names if name != "<|endoftext|>"],
        "bos_token": None,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    preprocessor = {
        "min_pixels": image["size"]["shortest_edge"],
        "max_pixels": image["size"]["longest_edge"],
        **{name: image[name] for name in _PREPROCESSOR},
        "processor_class": "Qwen2_5_VLProcessor",
    }
    _write(folder / "preprocessor_config.json", preprocessor)
    _write(folder / "chat_template.json", {"chat_template": template})
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "vocab.json", tokenizer["model"]["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    for modern in ("processor_config.json", "chat_template.jinja"):
        (folder / modern).unlink()


def _write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2))


def inputs(rows: list[list], seed: int = 0, synergy: bool = True, padding_side: str = "left") -> dict:
    """Model inputs for a batch. Each row is a list of its media, in order: ("image", h, w), ("scene", h, w) or
    ("video", t, h, w, seconds per grid), sizes in patches; an empty list is a text-only row."""
    generator = torch.Generator().manual_seed(seed)
    grids: dict[str, list] = {"image": [], "video": []}
    seconds, coords, ids = [], [], []
    for row_index, media in enumerate(rows):
        row = torch.randint(3, 290, (4 + row_index,), generator=generator).tolist()
        for kind, *size in media:
            is_video = kind == "video"
            grid = size[:3] if is_video else [1, *size]
            num_tokens = grid[0] * grid[1] * grid[2] // 4
            row += [VISION_START, *[VIDEO if is_video else IMAGE] * num_tokens, VISION_END]
            grids["video" if is_video else "image"].append(grid)
            if is_video:
                seconds.append(size[3])
            else:
                values = torch.randn(num_tokens, 3, generator=generator)
                coords.append(values if kind == "scene" else torch.full_like(values, torch.nan))
        row += torch.randint(3, 290, (5,), generator=generator).tolist()
        ids.append(row + [SYNERGY] * synergy)
    width = max(map(len, ids))
    left = padding_side == "left"
    padded = [[0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in ids]
    mask = [
        [0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row)) for row in ids
    ]
    input_ids = torch.tensor(padded)
    batch = {
        "input_ids": input_ids,
        "attention_mask": torch.tensor(mask),
        "mm_token_type_ids": (input_ids == IMAGE).int() + 2 * (input_ids == VIDEO).int(),
    }
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if grids[kind]:
            grid = torch.tensor(grids[kind])
            batch[f"{kind}_grid_thw"] = grid
            batch[pixels] = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 8 * 8, generator=generator)
    if seconds:
        batch["second_per_grid_ts"] = torch.tensor(seconds)
    if any(kind == "scene" for media in rows for kind, *_ in media):
        batch["image_coords"] = torch.cat(coords)
    return batch


IMAGE_ROW = [("image", 4, 6)]
VIDEO_ROW = [("video", 3, 4, 4, 1.0)]
SCENE_ROW = [("scene", 4, 4), ("scene", 4, 4)]
MIXED = [IMAGE_ROW, [], VIDEO_ROW, SCENE_ROW, [("image", 4, 4), ("video", 2, 4, 4, 0.5), ("scene", 4, 4)]]
