# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from polyv import PolyVForConditionalGeneration, PolyVModel
from polyv.modeling_polyv.modeling_polyv import PolyVTextModel
from polyv.modeling_polyv.moe import load_balancing_loss
from tests import tiny


@pytest.fixture(scope="module")
def model() -> PolyVForConditionalGeneration:
    return tiny.polyv()


# --- Auto classes and outputs --------------------------------------------------------------------------------------


def test_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert type(AutoModel.from_pretrained(tmp_path)) is PolyVModel
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is PolyVForConditionalGeneration
    assert type(AutoModelForMultimodalLM.from_pretrained(tmp_path)) is PolyVForConditionalGeneration
    assert type(AutoModel.from_config(model.config.text_config)) is PolyVTextModel


def test_save_load_save_gives_the_same_bytes(model, tmp_path):
    model.save_pretrained(tmp_path / "made")
    # Loading writes the dtype into the sub-configs, as for every composite model of transformers.
    PolyVForConditionalGeneration.from_pretrained(tmp_path / "made").save_pretrained(tmp_path / "one")
    PolyVForConditionalGeneration.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_output_carries_everything(model):
    batch = tiny.inputs(tiny.MIXED)
    labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
    with torch.no_grad():
        output = model(**batch, labels=labels, output_router_logits=True)
        plain = model(**batch, labels=labels)
    num_tokens, rows = batch["input_ids"].numel(), len(tiny.MIXED)
    assert output.logits.shape == (*batch["input_ids"].shape, tiny.VOCAB_SIZE)
    assert [logits.shape for logits in output.router_logits] == [(num_tokens, 4)] * 2
    assert output.synergy_temporal.shape == (rows, 12)
    assert output.synergy_spatial.shape == (rows, 20)
    assert output.synergy_batch_index.tolist() == list(range(rows))
    expected = load_balancing_loss(output.router_logits, 4, 2, batch["attention_mask"])
    torch.testing.assert_close(output.aux_loss, expected)
    torch.testing.assert_close(output.loss, plain.loss + model.config.text_config.router_aux_loss_coef * expected)
    assert plain.aux_loss is None and plain.router_logits is None


def test_padding_does_not_count_in_the_aux_loss(model):
    batch = tiny.inputs([[]])
    padded = {key: torch.nn.functional.pad(value, (6, 0)) for key, value in batch.items()}
    with torch.no_grad():
        one, other = (model(**inputs, output_router_logits=True).aux_loss for inputs in (batch, padded))
    torch.testing.assert_close(one, other)


def test_a_dense_placement_has_no_aux_loss():
    model = tiny.polyv(text=dict(num_experts=0))
    with torch.no_grad():
        output = model(**tiny.inputs([[]]), labels=tiny.inputs([[]])["input_ids"], output_router_logits=True)
    assert output.aux_loss is None and output.router_logits is None and output.loss.isfinite()


def test_synergy_states_are_row_major_with_their_rows(model):
    batch = tiny.inputs([[], [], []])
    ids = batch["input_ids"]
    ids[0, -1] = 5  # this row has none
    ids[2, 4] = tiny.SYNERGY  # and this one two, as a second turn would
    with torch.no_grad():
        output = model(**batch)
        hidden = model.model(**batch).last_hidden_state
    assert output.synergy_batch_index.tolist() == [1, 2, 2]
    expected = model.temporal_head(torch.stack([hidden[1, -1], hidden[2, 4], hidden[2, -1]]))
    torch.testing.assert_close(output.synergy_temporal, expected)


def test_heads_read_the_layer_that_the_configuration_names(model):
    batch = tiny.inputs([[], []])
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True)
        for layer in (3, 8):
            lower = tiny.polyv(synergy_layer=layer)
            lower.load_state_dict(model.state_dict())
            output = lower(**batch)
            states = expected.hidden_states[layer][:, -1]
            states = states if layer == 8 else model.model.language_model.norm(states)
            torch.testing.assert_close(output.synergy_temporal, model.temporal_head(states))
            assert torch.equal(output.logits, expected.logits) and output.hidden_states is None
            assert len(lower(**batch, output_hidden_states=True).hidden_states) == 9
            tokens = [each.generate(**batch, max_new_tokens=3, do_sample=False) for each in (lower, model)]
            assert torch.equal(*tokens)


def test_a_lower_layer_is_read_through_gradient_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = tiny.polyv(synergy_layer=3).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**tiny.inputs([[], []]), use_cache=False).synergy_temporal.square().mean().backward()
        gradients.append({n: w.grad for n, w in model.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(".layers.2." in name for name in gradients[0]) and not any(
        ".layers.3." in name for name in gradients[0]
    )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_no_synergy_token_no_synergy_output(model):
    with torch.no_grad():
        output = model(**tiny.inputs([[]], synergy=False))
    assert output.synergy_temporal is None and output.synergy_spatial is None and output.synergy_batch_index is None


def test_heads_can_be_left_out():
    model = tiny.polyv(temporal_teacher_size=None)
    with torch.no_grad():
        output = model(**tiny.inputs([[]]))
    assert output.synergy_temporal is None and output.synergy_spatial.shape == (1, 20)


def test_return_dict_false_gives_a_tuple(model):
    batch = tiny.inputs([tiny.SCENE_ROW])
    with torch.no_grad():
        torch.testing.assert_close(model(**batch, return_dict=False)[0], model(**batch).logits)


def test_hidden_states_and_attentions():
    model = tiny.polyv()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**tiny.inputs([[]]), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 9 and len(output.attentions) == 8


def test_eager_attention_equals_sdpa():
    """In both towers: the vision encoder's is per window, the decoder's causal and padded."""
    batch, logits = tiny.inputs(tiny.MIXED), []
    for implementation in ("eager", "sdpa"):
        model = tiny.polyv()
        model.set_attn_implementation(implementation)
        for part in (model.model.visual, model.model.language_model):
            assert part.config._attn_implementation == implementation
        with torch.no_grad():
            logits.append(model(**batch).logits[batch["attention_mask"].bool()])
    torch.testing.assert_close(*logits, atol=2e-5, rtol=1e-4)


# --- Encodings -----------------------------------------------------------------------------------------------------


def test_encodings_start_at_zero():
    model = PolyVForConditionalGeneration(tiny.polyv_config())
    assert model.model.time_encoding.weight.abs().max() == 0
    assert model.model.coordinate_encoding.weight.abs().max() == 0


def test_coordinates_reach_scenes_and_only_scenes(model):
    batch = tiny.inputs([tiny.SCENE_ROW, tiny.IMAGE_ROW])
    moved = {**batch, "image_coords": batch["image_coords"] + 1.0}
    with torch.no_grad():
        scene, image = (model(**batch).logits - model(**moved).logits).abs().amax(dim=(1, 2))
    assert scene > 1e-3 and image == 0


def test_each_coordinate_reaches_its_own_token_alone(model):
    """Among views of several windows, which the vision encoder sorts its tokens by, and an image that has none."""
    batch = tiny.inputs([[("scene", 8, 12), ("scene", 4, 4)], tiny.IMAGE_ROW])
    images, coords = (batch["pixel_values"], batch["image_grid_thw"]), batch["image_coords"]
    encoding, scene_tokens = model.model.coordinate_encoding, 24 + 4
    assert coords.isnan().all(dim=1).tolist() == [False] * scene_tokens + [True] * 6

    def features(coords):
        return torch.cat(model.get_image_features(*images, image_coords=coords).pooler_output)

    def embeddings(coords):
        return model(**{**batch, "image_coords": coords}, output_hidden_states=True).hidden_states[0]

    with torch.no_grad():
        for token in range(scene_tokens):
            moved = coords.clone()
            moved[token] += torch.tensor([0.3, -0.2, 0.1])
            difference = features(moved) - features(coords)
            assert difference.any(dim=1).nonzero().flatten().tolist() == [token]
            torch.testing.assert_close(difference[token], (encoding(moved) - encoding(coords))[token])
        place = (batch["input_ids"] == tiny.IMAGE).nonzero()[token]
        assert (embeddings(moved) - embeddings(coords)).any(dim=2).nonzero().tolist() == [place.tolist()]


def test_an_image_is_a_view_without_coordinates(model):
    batch = tiny.inputs([tiny.SCENE_ROW])
    unknown = {**batch, "image_coords": torch.full_like(batch["image_coords"], torch.nan)}
    without = {key: value for key, value in batch.items() if key != "image_coords"}
    with torch.no_grad():
        torch.testing.assert_close(model(**unknown).logits, model(**without).logits)


def test_time_reaches_videos(model):
    batch = tiny.inputs([tiny.VIDEO_ROW])
    features = [
        model.get_video_features(
            batch["pixel_values_videos"], batch["video_grid_thw"], second_per_grid_ts=seconds
        ).pooler_output[0]
        for seconds in (torch.tensor([0.5]), torch.tensor([1.0]), None)
    ]
    per_grid = (features[0] - features[1]).reshape(3, -1).abs().amax(dim=1)
    assert per_grid[0] == 0 and per_grid[1:].min() > 0  # the first grid is at 0 s either way
    torch.testing.assert_close(features[1], features[2])


def test_wrong_number_of_coordinates_is_named(model):
    batch = tiny.inputs([tiny.SCENE_ROW])
    batch["image_coords"] = batch["image_coords"][:-1]
    with pytest.raises(ValueError, match=r"`image_coords` has shape \(7, 3\).*\(8, 3\)"):
        model(**batch)


def test_features_come_as_a_tuple_too(model):
    batch = tiny.inputs([tiny.IMAGE_ROW])
    named = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    unnamed = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=False)
    assert isinstance(unnamed, tuple) and torch.equal(unnamed[0], named[0])


@pytest.mark.parametrize("row", [tiny.SCENE_ROW, tiny.VIDEO_ROW], ids=["scene", "video"])
def test_encodings_may_lie_on_another_device_than_the_vision_tower(row):
    """As `device_map="auto"` places them on several GPUs; a hook that moves their output stands in for one."""
    model, batch = tiny.polyv(), tiny.inputs([row])
    moved = []

    class Elsewhere(torch.Tensor):
        def to(self, *arguments, **kwargs):
            moved.append(arguments)
            return self.as_subclass(torch.Tensor).to(*arguments, **kwargs)

    encoding = model.model.time_encoding if row is tiny.VIDEO_ROW else model.model.coordinate_encoding
    encoding.register_forward_hook(lambda module, inputs, output: output.as_subclass(Elsewhere))
    with torch.no_grad():
        model(**batch)
    assert moved and moved[0][0] == torch.device("cpu")


def test_pixels_and_encoded_media_together_are_refused(model):
    batch = tiny.inputs([tiny.IMAGE_ROW])
    encoded = {"image": model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])}
    with pytest.raises(ValueError, match="mm_encoder_outputs"):
        model(**batch, mm_encoder_outputs=encoded)


def test_logits_to_keep(model):
    batch = tiny.inputs([tiny.VIDEO_ROW])
    with torch.no_grad():
        everything = model(**batch).logits
        torch.testing.assert_close(model(**batch, logits_to_keep=3).logits, everything[:, -3:])
        torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 5])).logits, everything[:, [0, 5]])


# --- Training ------------------------------------------------------------------------------------------------------


def gradients(model, batch, **arguments):
    model.zero_grad()
    labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
    output = model(**batch, labels=labels, output_router_logits=True, **arguments)
    (output.loss + output.synergy_temporal.square().mean() + output.synergy_spatial.square().mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_every_weight_learns_from_a_mixed_batch():
    model = tiny.polyv().train()
    for name, gradient in gradients(model, tiny.inputs(tiny.MIXED)).items():
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients_aux_loss_included():
    model = tiny.polyv(text=dict(router_aux_loss_coef=1.0)).train()
    batch = tiny.inputs(tiny.MIXED)
    plain = gradients(model, batch)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, batch)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_reentrant_checkpointing_is_refused_where_the_routers_would_not_learn():
    model, batch = tiny.polyv().train(), tiny.inputs(tiny.MIXED)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    for labels in (batch["input_ids"], None):  # None: a trainer may add `aux_loss` itself
        with pytest.raises(ValueError, match=r"use_reentrant.*balancing loss would never reach the routers"):
            model(**batch, labels=labels, output_router_logits=True)
    model(**batch, output_router_logits=False)
    with torch.no_grad():
        assert model(**batch, output_router_logits=True).aux_loss > 0
    assert model.eval()(**batch, output_router_logits=True).aux_loss > 0


def test_routers_that_learn_only_in_later_layers_are_no_sign_of_reentrant_checkpointing():
    model, batch = tiny.polyv().train().requires_grad_(False), tiny.inputs([[], []])
    model.model.language_model.layers[5:].requires_grad_(True)
    model(**batch, labels=batch["input_ids"], output_router_logits=True).loss.backward()
    gate = "model.language_model.layers.{}.mlp.gate.weight"
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    assert grads[gate.format(3)] is None and grads[gate.format(7)].abs().max() > 0


def test_the_aux_loss_reaches_the_routers():
    model, batch = tiny.polyv().train(), tiny.inputs([[], []])
    grads = []
    for coefficient in (0.0, 10.0):
        model.config.text_config.router_aux_loss_coef = coefficient
        grads.append(gradients(model, batch)["model.language_model.layers.3.mlp.gate.weight"].clone())
    assert (grads[0] - grads[1]).abs().max() > 1e-3


def test_micro_batches_add_up_to_the_whole_batch_loss():
    model = tiny.polyv()
    batch = tiny.inputs([[], [], []])
    labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
    num_items = (labels[:, 1:] != -100).sum()
    parts = []
    for row in range(3):
        part = {key: value[row : row + 1] for key, value in batch.items()}
        parts.append(model(**part, labels=labels[row : row + 1], num_items_in_batch=num_items).loss)
    torch.testing.assert_close(sum(parts), model(**batch, labels=labels).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_half_precision_stays_finite(dtype, implementation):
    model = tiny.polyv().to(dtype)
    model.set_experts_implementation(implementation)
    batch = tiny.inputs(tiny.MIXED)
    with torch.no_grad():
        output = model(**batch)
    assert output.logits.dtype == dtype and output.logits[batch["attention_mask"].bool()].isfinite().all()


def test_autocast_trains():
    model = tiny.polyv().train()
    with torch.autocast("cpu", torch.bfloat16):
        grads = gradients(model, tiny.inputs(tiny.MIXED))
    assert all(gradient.isfinite().all() for gradient in grads.values())


def test_experts_implementation_is_set_even_after_a_native_model_was_built():
    tiny.dense()
    model = tiny.polyv()
    assert model.config.text_config._experts_implementation == "grouped_mm"
    model.set_experts_implementation("eager")
    assert model.config.text_config._experts_implementation == "eager"
