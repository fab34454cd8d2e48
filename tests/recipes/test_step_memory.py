# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5_VLForConditionalGeneration

from polyv import PolyVConfig, PolyVForConditionalGeneration
from polyv.evaluation.shapes import make_config
from polyv.recipes.step_memory import Load, trace_step
from tests import tiny


# 4 x 6 visual tokens: more than a window, and some windows are smaller than others.
LOAD = dict(tokens=48, patches=96, answers=8)


def make_model(kind: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32, large: bool = False):
    experts = {"decoder_sparse_step": 2}
    if large:
        config = make_config("small", 2, vision_start_token_id=8003, image_token_id=8001, video_token_id=8002)
        config = PolyVConfig.from_dense(config, synergy_token_id=8000, **experts) if kind == "polyv" else config
    elif kind == "polyv":
        config = tiny.polyv(text={"num_hidden_layers": 2, **experts}).config
    else:
        config = tiny.dense(num_hidden_layers=2).config
    classes = {"polyv": PolyVForConditionalGeneration, "dense": Qwen2_5_VLForConditionalGeneration}
    torch.manual_seed(0)
    return classes[kind]._from_config(config, attn_implementation=attention, dtype=dtype).train()


def make_batch(model, load: Load) -> dict[str, torch.Tensor]:
    """The batch that a `Load` describes, of real numbers."""
    vision = model.config.vision_config
    height, width = load.grid(vision)
    ids = torch.randint(3, 100, (load.batch_size, load.tokens), generator=torch.Generator().manual_seed(0))
    ids[:, 1 : height * width // 4 + 1] = model.config.image_token_id
    mask = torch.ones_like(ids)
    mask[1:, -1] = 0
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        "image_grid_thw": torch.tensor([[1, height, width]] * load.batch_size),
        "pixel_values": torch.randn(load.batch_size * height * width, size),
    }


def count_kept(model, batch: dict[str, torch.Tensor], autocast: bool) -> int:
    """Bytes of all storages that autograd keeps of a real forward pass up to the last hidden states."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        outputs = model.model(**batch, use_cache=False)
    assert outputs.last_hidden_state.requires_grad
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)


@pytest.mark.parametrize(
    "kind, attention, dtype, settings",
    [
        ("dense", "sdpa", torch.float32, {}),
        ("dense", "eager", torch.float32, {"gradient_checkpointing": True}),
        ("polyv", "sdpa", torch.float32, {"batch_size": 2}),
        ("polyv", "eager", torch.bfloat16, {}),
        ("polyv", "sdpa", torch.float32, {"gradient_checkpointing": True}),
        ("large polyv", "sdpa", torch.bfloat16, {"batch_size": 2, "tokens": 128, "patches": 240}),
    ],
)
def test_activations_are_those_that_autograd_keeps(kind, attention, dtype, settings):
    model = make_model(kind.split()[-1], attention, dtype, large="large" in kind)
    load = Load(**{**LOAD, "gradient_checkpointing": False, **settings})
    autocast = dtype == torch.float32
    traced = trace_step(model, load, dtype=None, autocast=autocast)
    assert (traced["weight_copies"] > 0) == autocast
    if load.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = count_kept(model, make_batch(model, load), autocast)
    assert traced["activations"] + traced["weight_copies"] == pytest.approx(kept, rel=0.01)  # 0.1 was promised


def test_the_peak_is_the_allocators():
    # Checkpointing and autocast: most of it is no activation, but logits, copies of weights and a layer computed again.
    model, load = make_model("polyv", large=True), Load(tokens=128, patches=240, answers=20)
    planned = sum(trace_step(model, load, dtype=None, autocast=True).values())
    batch = make_batch(model, load)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**batch, use_cache=False, logits_to_keep=torch.arange(107, 127)).logits
        targets = torch.ones(1, 20, dtype=torch.long)
        return model.loss_function(logits.float(), None, logits.shape[-1], shift_labels=targets)

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward().backward()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert planned == pytest.approx(peak, rel=0.05)


def test_nothing_of_the_model_is_touched():
    model = make_model("polyv")
    before = {name: (id(weight), weight.requires_grad) for name, weight in model.named_parameters()}
    window = model.model.visual.window_size
    trace_step(model, Load(tokens=16, patches=0), dtype=torch.bfloat16, autocast=False)
    assert {name: (id(weight), weight.requires_grad) for name, weight in model.named_parameters()} == before
    assert not model.is_gradient_checkpointing and model.model.visual.window_size == window
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("patches, grid", [(0, (0, 0)), (4, (2, 2)), (96, (8, 12)), (28, (2, 14))])
def test_patches_are_one_image_as_square_as_can_be(patches, grid):
    assert Load(tokens=100, patches=patches).grid(tiny.polyv_config().vision_config) == grid


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 0}, "batch_size=0: expected 1 or more"),
        ({"patches": -4}, "patches=-4: expected 0"),
        ({"patches": 10}, "patches=10: 2x2 make a visual token, so expected a multiple of 4, as 8"),
        ({"patches": 400, "tokens": 100}, "tokens=100: 400 patches make 100 visual tokens, so expected at least 104"),
        ({"tokens": 1, "patches": 0}, "tokens=1: .* at least 2"),
        ({"answers": 100, "tokens": 100, "patches": 0}, "answers=100: expected 1 to 99"),
        ({"answers": 0}, "answers=0: expected 1 to 2047"),
    ],
)
def test_a_load_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Load(**settings).grid(tiny.polyv_config().vision_config)
