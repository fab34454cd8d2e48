# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a frozen vision encoder makes of media, kept: the same numbers and gradients, computed once."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from polyv.recipes import pretrain
from polyv.recipes.trainable import set_trainable
from polyv.recipes.vision_cache import VisionCache


GRIDS = torch.tensor([[1, 4, 6], [2, 4, 4], [1, 10, 8]])  # the last is of several windows


@pytest.fixture
def encoder() -> Qwen2_5_VisionTransformerPretrainedModel:
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=24,
        patch_size=4,
        window_size=16,
        fullatt_block_indexes=[1],
    )
    encoder = Qwen2_5_VisionTransformerPretrainedModel(config)
    encoder.requires_grad_(False)
    encoder.merger.requires_grad_(True)
    return encoder


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(int(GRIDS.prod(-1).sum()), 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(1))


def run(encoder, pixels, grids=GRIDS) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What it makes of media, and the gradients of its projection."""
    encoder.zero_grad()
    output = encoder(pixels, grid_thw=grids).pooler_output
    (output * torch.arange(output.numel()).reshape(output.shape).cos()).sum().backward()
    return output.detach(), [weight.grad.clone() for weight in encoder.merger.parameters()]


def test_features_and_gradients_are_the_encoders_own(encoder, pixels, tmp_path):
    expected, gradients = run(encoder, pixels)
    VisionCache(encoder, tmp_path)
    for _ in range(2):  # made, then read
        found, of_found = run(encoder, pixels)
        torch.testing.assert_close(found, expected)
        for each, other in zip(of_found, gradients, strict=True):
            torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-4)
    assert encoder.merger.training == encoder.training


def test_each_medium_is_encoded_once_and_in_any_company_to_the_same_bits(encoder, pixels, tmp_path, monkeypatch):
    calls = []
    block = encoder.blocks[0]
    block.register_forward_hook(lambda *_: calls.append(1))
    VisionCache(encoder, tmp_path)
    together, _ = run(encoder, pixels)
    assert len(calls) == 3 == len(list(tmp_path.rglob("*.safetensors")))
    alone = pixels[24:56]
    found, _ = run(encoder, alone, GRIDS[1:2])
    assert len(calls) == 3 and torch.equal(found, together[6:14])
    # The projection has learned: what is kept holds.
    with torch.no_grad():
        encoder.merger.ln_q.weight.mul_(2)
    assert not torch.equal(run(encoder, alone, GRIDS[1:2])[0], found) and len(calls) == 3


def test_what_changes_the_numbers_is_not_taken_for_the_same(encoder, pixels, tmp_path):
    def count(change) -> int:
        change()
        encoder.__dict__.pop("forward", None)
        VisionCache(encoder, tmp_path)
        run(encoder, pixels[:24], GRIDS[:1])
        return len(list(tmp_path.rglob("*.safetensors")))

    assert count(lambda: None) == 1 == count(lambda: None)
    assert count(lambda: encoder.blocks[0].norm1.weight.data.mul_(2)) == 2
    assert count(lambda: setattr(encoder.config, "_attn_implementation", "eager")) == 3
    with torch.autocast("cpu", torch.bfloat16):
        run(encoder, pixels[:24], GRIDS[:1])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    run(encoder, pixels[:24], torch.tensor([[1, 6, 4]]))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".safetensors"]


def test_an_encoder_that_trains_is_refused(encoder, tmp_path):
    encoder.requires_grad_(True)
    with pytest.raises(ValueError, match=r"the vision encoder trains \(patch_embed.* Add freeze_vision: true"):
        VisionCache(encoder, tmp_path)


def test_a_run_trains_from_it(start, data, tmp_path):
    common = ["--dataset", str(data / "rows.jsonl"), "--max_steps", "3", "--use_cpu", "--bf16", "false"]
    common += ["--gradient_checkpointing", "false", "--report_to", "none", "--logging_steps", "1"]
    common += ["--config_name", str(start), "--freeze_vision", "--per_device_train_batch_size", "5"]
    losses = {}
    for name, more in {
        "plain": [],
        "made": ["--vision_cache", str(tmp_path / "cache")],
        "read": ["--vision_cache", str(tmp_path / "cache")],
    }.items():
        pretrain.main([*common, *more, "--output_dir", str(tmp_path / name)])
        log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        losses[name] = [entry["loss"] for entry in log if "loss" in entry]
    assert losses["made"] == losses["read"] and len(losses["made"]) == 3
    assert losses["made"] == pytest.approx(losses["plain"], rel=1e-4)
    made, read = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / name).state_dict() for name in ("made", "read")
    )
    assert all(torch.equal(made[name], read[name]) for name in made)


def test_lora_leaves_the_encoder_frozen(start, tmp_path):
    from trl import SFTConfig

    from polyv.recipes.stage import ModelArguments, load_model

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(start))
    set_trainable(model, "projection")
    VisionCache(model.get_encoder(modality="image"), tmp_path / "fit")
    model.save_pretrained(tmp_path / "dense")
    training = SFTConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match="the vision encoder trains"):
        load_model(ModelArguments(str(tmp_path / "dense"), vision_cache=str(tmp_path / "c")), training)
    lora = ModelArguments(
        str(tmp_path / "dense"), vision_cache=str(tmp_path / "c"), freeze_vision=True, trainable="lora"
    )
    load_model(lora, training)
