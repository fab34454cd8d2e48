# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A model is the same in one file or many, on one device or spread, and under an adapter that has learnt nothing."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from polyv import PolyVForConditionalGeneration
from tests import tiny


ROWS = {"image": tiny.IMAGE_ROW, "video": tiny.VIDEO_ROW, "scene": tiny.SCENE_ROW, "mixed": tiny.MIXED[-1]}
GREEDY = dict(max_new_tokens=6, do_sample=False, eos_token_id=-1)


@pytest.fixture(scope="module")
def model() -> PolyVForConditionalGeneration:
    return tiny.polyv()


def assert_same(one, other, exactly: bool = True) -> None:
    for row in ROWS.values():
        batch = tiny.inputs([row, []])
        with torch.no_grad():
            wanted, got = one(**batch).logits, other(**batch).logits
        torch.testing.assert_close(got, wanted, **({"atol": 0, "rtol": 0} if exactly else {}))
        assert other.generate(**batch, **GREEDY).tolist() == one.generate(**batch, **GREEDY).tolist()


def test_in_many_files_it_is_the_same(model, tmp_path):
    for name in ("first", "second", "third"):  # a model made in memory is split elsewhere than a loaded one
        model.save_pretrained(tmp_path / name, max_shard_size="60KB")
        model_again, info = PolyVForConditionalGeneration.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        assert model_again._weight_conversions in (None, [])
        assert_same(model, model_again)
        model = model_again
    files = sorted(path.name for path in (tmp_path / "second").iterdir())
    assert len([name for name in files if name.endswith(".safetensors")]) > 10
    for name in files:
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "third" / name).read_bytes(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loaded_in_half_precision_it_generates_finite_logits_for_every_modality(model, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    half = PolyVForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert {weight.dtype for weight in half.parameters()} == {dtype}
    for row in ROWS.values():
        batch = tiny.inputs([row, []])
        out = half.generate(**batch, **GREEDY, output_logits=True, return_dict_in_generate=True)
        assert all(logits.isfinite().all() for logits in out.logits)
        with torch.no_grad():
            wanted = model(**batch).logits
            assert (half(**batch).logits.float() - wanted).abs().mean() < 0.1 * wanted.std()


@pytest.mark.parametrize("layers_on_disk", [0, 3, 8])
def test_spread_over_memory_and_disk_it_is_the_same(model, tmp_path, layers_on_disk):
    model.save_pretrained(tmp_path / "model")
    device_map: dict[str, str] = {
        "model.visual": "cpu",
        "model.time_encoding": "cpu",
        "model.coordinate_encoding": "cpu",
    }
    device_map |= {"model.language_model.embed_tokens": "cpu", "model.language_model.norm": "cpu", "lm_head": "cpu"}
    device_map |= {"model.language_model.rotary_emb": "cpu", "temporal_head": "cpu", "spatial_head": "cpu"}
    device_map |= {
        f"model.language_model.layers.{layer}": "disk" if layer < layers_on_disk else "cpu" for layer in range(8)
    }
    spread = PolyVForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    on_disk = {name for name, weight in spread.named_parameters() if weight.is_meta}
    assert bool(on_disk) == bool(layers_on_disk)
    assert any("experts" in name for name in on_disk) == (layers_on_disk > 3)
    assert_same(model, spread)


def test_device_map_auto_places_everything(model, tmp_path):
    model.save_pretrained(tmp_path)
    placed = PolyVForConditionalGeneration.from_pretrained(tmp_path, device_map="auto")
    assert {weight.device.type for weight in placed.parameters()} <= {"cpu", "cuda"}
    assert_same(model, placed.to("cpu"), exactly=not torch.cuda.is_available())


def lora() -> LoraConfig:
    """Attention, experts and routers, as the field notes have it: `all-linear` would miss the fused experts."""
    return LoraConfig(
        r=4,
        target_modules=r".*language_model.*self_attn\.(q|k|v|o)_proj",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        modules_to_save=["mlp.gate"],
    )


def test_under_an_adapter_it_generates_trains_saves_and_merges(tmp_path):
    model = tiny.polyv()
    wrapped = get_peft_model(tiny.polyv(), lora()).eval()
    assert_same(model, wrapped, exactly=False)

    batch = tiny.inputs([tiny.MIXED[-1], tiny.VIDEO_ROW])
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    wrapped.train()
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = wrapped(**batch, labels=batch["input_ids"], output_router_logits=True).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(weight.grad is not None for weight in weights)

    wrapped.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.polyv(), tmp_path).eval()
    assert_same(wrapped, loaded)
    assert_same(wrapped, loaded.merge_and_unload(), exactly=False)
