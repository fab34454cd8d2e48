# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLTextConfig, Qwen3MoeConfig

from polyv import PolyVConfig, PolyVTextConfig
from polyv.modeling_polyv.outputs_polyv import PolyVCausalLMOutput
from tests import tiny


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        (dict(), [3, 7]),
        (dict(decoder_sparse_step=1), [0, 1, 2, 3, 4, 5, 6, 7]),
        (dict(decoder_sparse_step=1, mlp_only_layers=[4, 5, 6, 7]), [0, 1, 2, 3]),
        (dict(num_experts=2), [3, 7]),
        (dict(num_experts=0), []),
    ],
    ids=["every 4th", "every layer", "front half", "2 experts", "dense"],
)
def test_placements(arguments, layers):
    assert PolyVTextConfig(num_hidden_layers=8, **arguments).moe_layers == layers


def test_the_papers_placement():
    assert PolyVTextConfig(num_hidden_layers=28).moe_layers == [3, 7, 11, 15, 19, 23, 27]


@given(
    layers=st.integers(1, 12), step=st.integers(1, 12), dense=st.sets(st.integers(0, 11)), experts=st.integers(1, 6)
)
def test_a_layer_rule_that_leaves_no_experts_is_refused(layers, step, dense, experts):
    dense = sorted(layer for layer in dense if layer < layers)
    expected = [layer for layer in range(layers) if (layer + 1) % step == 0 and layer not in dense]
    arguments = dict(
        num_hidden_layers=layers,
        decoder_sparse_step=step,
        mlp_only_layers=dense,
        num_experts=experts,
        num_experts_per_tok=1,
    )
    if expected:
        assert PolyVTextConfig(**arguments).moe_layers == expected
    else:
        with pytest.raises(ValueError, match="decoder_sparse_step"):
            PolyVTextConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(num_experts=2, num_experts_per_tok=3), "num_experts_per_tok"),
        (dict(num_experts_per_tok=0), "num_experts_per_tok"),
        (dict(num_experts=-1), "num_experts"),
        (dict(decoder_sparse_step=0), "decoder_sparse_step"),
        (dict(mlp_only_layers=[99]), "mlp_only_layers"),
        (dict(moe_intermediate_size=0), "moe_intermediate_size"),
        (dict(moe_intermediate_size=52), "moe_intermediate_size"),
        (dict(hidden_size=60), "hidden_size"),
        (dict(num_experts=0, router_aux_loss_coef=-0.1), "router_aux_loss_coef"),
        (dict(router_aux_loss_coef=-0.1), "router_aux_loss_coef"),
    ],
)
def test_impossible_experts_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        tiny.polyv_config(text=arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(synergy_token_id=tiny.VOCAB_SIZE), "synergy_token_id"),
        (dict(synergy_token_id=tiny.IMAGE), "image_token_id"),
        (dict(vision_config={**tiny.VISION, "out_hidden_size": 64}), "vision_config.out_hidden_size"),
        (dict(num_synergy_tokens=0), "num_synergy_tokens"),
        (dict(synergy_layer=9), "synergy_layer"),
        (dict(synergy_layer=0), "synergy_layer"),
        (dict(temporal_teacher_size=0), "temporal_teacher_size"),
        (dict(spatial_teacher_size=-3), "spatial_teacher_size"),
        (dict(time_num_frequencies=0), "time_num_frequencies"),
        (dict(time_periods=[2.0, 1.0]), "time_periods"),
        (dict(time_periods=[1.0, float("inf")]), "time_periods"),
        (dict(coordinate_periods=[0.0, 1.0]), "coordinate_periods"),
        (dict(coordinate_periods=[1.0]), "coordinate_periods"),
        (dict(coordinate_box=[[0, 0, 0], [1, 0, 1]]), "coordinate_box"),
        (dict(coordinate_box=[[0, 0], [1, 1]]), "coordinate_box"),
    ],
)
def test_impossible_encodings_and_synergy_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        tiny.polyv_config(**arguments)


def test_visual_tokens_are_as_wide_as_text_tokens_where_nothing_is_said():
    text = dict(tiny.TEXT)
    assert (
        PolyVConfig(text_config=text, synergy_token_id=None).vision_config.out_hidden_size == tiny.TEXT["hidden_size"]
    )
    assert PolyVConfig().vision_config.out_hidden_size == PolyVConfig().text_config.hidden_size


def test_fields_are_strict():
    with pytest.raises(Exception, match="num_experts"):
        PolyVTextConfig(num_experts="four")
    with pytest.raises(Exception, match="mrope_upstream"):
        PolyVConfig(mrope_upstream="yes")


def test_save_and_load(tmp_path):
    config = tiny.polyv_config(text=dict(num_experts=3, mlp_only_layers=[3]), mrope_upstream=True)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is PolyVConfig and type(loaded.text_config) is PolyVTextConfig
    assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": loaded._name_or_path}
    assert loaded.text_config.moe_layers == [7]


def test_from_dense_takes_over_the_backbone():
    dense = Qwen2_5_VLConfig(text_config=dict(tiny.TEXT), vision_config=dict(tiny.VISION), **tiny.TOKENS)
    config = PolyVConfig.from_dense(dense, num_experts=2, synergy_token_id=5, decoder_sparse_step=2)
    assert config.text_config.moe_layers == [1, 3, 5, 7]
    assert config.synergy_token_id == 5
    assert config.text_config.moe_intermediate_size == dense.text_config.intermediate_size
    assert config.vision_config.to_dict() == dense.vision_config.to_dict()
    for name in ("hidden_size", "rope_parameters", "num_key_value_heads", "vocab_size"):
        assert getattr(config.text_config, name) == getattr(dense.text_config, name)
    with pytest.raises(TypeError, match="text_config"):
        PolyVConfig.from_dense(dense, text_config={"num_experts": 2})
    with pytest.raises(TypeError, match="num_expert`"):
        PolyVConfig.from_dense(dense, num_expert=2)


def test_parallel_plans_cover_dense_layers_and_experts():
    plan = PolyVTextConfig.base_model_tp_plan
    assert plan.items() >= Qwen2_5_VLTextConfig.base_model_tp_plan.items()
    for pattern in ("layers.*.mlp.experts.gate_up_proj", "layers.*.mlp.experts.down_proj"):
        assert plan[pattern] == Qwen3MoeConfig.base_model_tp_plan[pattern]
    assert PolyVTextConfig.base_model_ep_plan == Qwen3MoeConfig.base_model_ep_plan


def test_nothing_but_the_logits_is_a_prediction():
    returned = {field.name for field in dataclasses.fields(PolyVCausalLMOutput)}
    asked_for = {"hidden_states", "attentions"}
    assert returned - set(PolyVConfig.keys_to_ignore_at_inference) - asked_for == {"loss", "logits"}
