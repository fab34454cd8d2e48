# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Batches that other processes train beside: all use the same weights in the same order."""

import pytest
import torch

from polyv.modeling_polyv import modeling_polyv
from polyv.recipes.trainable import set_trainable
from tests import tiny


BATCHES = {
    "text": [[], []],
    "image": [tiny.IMAGE_ROW, []],
    "scene": [tiny.SCENE_ROW],
    "video": [[], tiny.VIDEO_ROW],
    "all": [*tiny.MIXED, tiny.VIDEO_ROW],
}
# An image of one visual token, which are four patches, and its coordinates.
BLANK = [("Qwen2_5_VisionTransformerPretrainedModel", 4), ("PolyVSinusoidalEncoding", 1)]


@pytest.fixture(autouse=True)
def others(monkeypatch):
    monkeypatch.setattr(modeling_polyv, "trains_with_others", lambda model: model.training)


def trace(batch: str, trainable: str) -> list[str]:
    """The modules of a step in the order of their calls, of their outputs' gradients, and of their weights' gradients."""
    model = tiny.polyv().train()
    set_trainable(model, trainable)
    for head in (model.temporal_head, model.spatial_head):
        head.requires_grad_(False)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()  # as Trainer and PEFT do where embeddings are frozen
    calls: list[str] = []

    def note(name, what):
        return lambda *_: calls.append(f"{what} {name}")

    def after(name):
        def watch(module, given, output):
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, torch.Tensor) and output.requires_grad:
                output.register_hook(note(name, "gradient of"))

        return watch

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None or name.endswith(tuple("0123456789")):
            module.register_forward_pre_hook(note(name, "call of"))
            module.register_forward_hook(after(name))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(note(name, "weight"))
    inputs = tiny.inputs(BATCHES[batch])
    model(**inputs, labels=inputs["input_ids"], output_router_logits=True).loss.backward()
    return calls


@pytest.mark.parametrize("trainable", ["full", "projection", "ffn", "experts"])
def test_whatever_a_batch_holds_weights_are_used_in_one_order(trainable):
    """Sharded weights (FSDP, ZeRO-3) are gathered as they are used: in another order they would be mixed up."""
    wanted = trace("all", trainable)
    assert len(wanted) > 100 and any("coordinate_encoding" in call for call in wanted)
    for batch in BATCHES:
        assert trace(batch, trainable) == wanted, batch


def test_blank_media_change_nothing(monkeypatch):
    model = tiny.polyv().train()
    inputs = tiny.inputs([tiny.IMAGE_ROW, []])
    beside = model(**inputs).logits
    monkeypatch.setattr(modeling_polyv, "trains_with_others", lambda model: False)
    torch.testing.assert_close(model(**inputs).logits, beside, rtol=0, atol=0)


def test_alone_each_video_is_encoded_by_itself_and_nothing_is_blank(monkeypatch):
    """With more rows a product may differ in its last bits: a video's encoding would depend on what stands beside it."""
    model = tiny.polyv().train()
    calls = []
    for module in (model.model.time_encoding, model.model.coordinate_encoding, model.model.visual):
        module.register_forward_hook(lambda module, given, _: calls.append((type(module).__name__, len(given[0]))))
    inputs = tiny.inputs([tiny.VIDEO_ROW, [], [("video", 2, 4, 4, 0.5)]])
    model(**inputs)
    assert [call for call in calls if call[1] < 6] == [*BLANK, ("PolyVSinusoidalEncoding", 5)]
    calls.clear()
    monkeypatch.setattr(modeling_polyv, "trains_with_others", lambda model: False)
    model(**inputs)
    assert [call for call in calls if call[1] < 6] == [("PolyVSinusoidalEncoding", 3), ("PolyVSinusoidalEncoding", 2)]
