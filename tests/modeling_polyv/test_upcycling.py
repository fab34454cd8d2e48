# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Parity of an upcycled PolyV with the Qwen2.5-VL it came from. Checkpoints are random, with the published ones' key
names: 3B ties its embeddings, 7B does not; both use the legacy names and a flat config.json (`tiny.publish`)."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyv import PolyVConfig, PolyVForConditionalGeneration, PolyVModel
from tests import tiny


PARITY_INPUTS = {
    "text": [[], []],
    "image": [tiny.IMAGE_ROW, [("image", 4, 4), ("image", 2, 8)]],
    "video": [tiny.VIDEO_ROW, [("video", 9, 4, 4, 1.0)]],
    "mixed": [tiny.IMAGE_ROW, [], tiny.VIDEO_ROW],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.save_dense(tiny.dense(), tmp_path_factory.mktemp("dense"))


def upcycled(folder, **arguments) -> PolyVForConditionalGeneration:
    """Upcycled, with random routers far from their initialisation: parity must not depend on them."""
    model = PolyVForConditionalGeneration.from_pretrained(folder, mrope_upstream=True, **arguments).eval()
    torch.manual_seed(7)
    for layer_idx in model.config.text_config.moe_layers:
        torch.nn.init.normal_(model.model.language_model.layers[layer_idx].mlp.gate.weight, std=5.0)
    return model


@pytest.mark.parametrize("kind", PARITY_INPUTS)
@pytest.mark.parametrize("legacy_names", [True, False], ids=["legacy-names", "new-names"])
@pytest.mark.parametrize(("tied", "shards"), [(True, "5GB"), (False, "60KB")], ids=["3B-tied", "7B-untied-sharded"])
def test_logits_equal_the_dense_models(tmp_path, tied, shards, legacy_names, kind):
    dense = tiny.dense(tied=tied)
    tiny.save_dense(dense, tmp_path, legacy_names, shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if shards == "5GB" else len(set(
        json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values()
    )))  # fmt: skip
    model = upcycled(tmp_path)
    batch = tiny.inputs(PARITY_INPUTS[kind], synergy=False)
    with torch.no_grad():
        expected, measured = dense(**batch).logits, model(**batch).logits
    keep = batch["attention_mask"].bool()
    torch.testing.assert_close(measured[keep], expected[keep], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", PARITY_INPUTS)
def test_decoding_equals_the_dense_models(checkpoint, kind):
    dense, model = tiny.dense(), upcycled(checkpoint)
    batch = tiny.inputs(PARITY_INPUTS[kind], synergy=False)
    arguments = dict(
        max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True, eos_token_id=-1
    )
    expected, measured = dense.generate(**batch, **arguments), model.generate(**batch, **arguments)
    assert measured.sequences.tolist() == expected.sequences.tolist()
    for step, (one, other) in enumerate(zip(measured.logits, expected.logits, strict=True)):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=f"step {step}")


@pytest.mark.parametrize(
    "placement",
    [
        dict(decoder_sparse_step=1),
        dict(decoder_sparse_step=1, mlp_only_layers=[4, 5, 6, 7]),
        dict(num_experts=2),
        dict(num_experts=0),
        dict(num_experts_per_tok=4),
    ],
    ids=str,
)
def test_every_placement_preserves_the_function(checkpoint, placement):
    dense, model = tiny.dense(), upcycled(checkpoint, **placement)
    batch = tiny.inputs(PARITY_INPUTS["mixed"], synergy=False)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, dense(**batch).logits, atol=2e-5, rtol=1e-4)


def test_without_normalised_weights_the_function_changes(checkpoint):
    # Routers near their initialisation, whose top-2 probabilities are far from summing to 1.
    dense, model = tiny.dense(), PolyVForConditionalGeneration.from_pretrained(checkpoint, norm_topk_prob=False)
    batch = tiny.inputs(PARITY_INPUTS["text"], synergy=False)
    with torch.no_grad():
        assert (model(**batch).logits - dense(**batch).logits).abs().max() > 1e-2


# Neither the theta nor the sections are a default of anybody's: what is lost shows.
ROPE = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [1, 2, 3]}


@pytest.fixture(scope="module", params=[True, False], ids=["3B-tied", "7B-untied"])
def published(request, tmp_path_factory):
    dense = tiny.dense(tied=request.param, rope_parameters=dict(ROPE))
    return dense, tiny.publish(tiny.save_dense(dense, tmp_path_factory.mktemp("published"), legacy_names=False))


def test_the_published_layout_is_the_one_on_the_hub(published):
    dense, folder = published
    keys = set(load_file(folder / "model.safetensors"))
    layer = {key for key in keys if key.startswith("model.layers.0.")}
    block = {key for key in keys if key.startswith("visual.blocks.0.")}
    rest = {key for key in keys if not key.startswith(("model.layers.", "visual.blocks."))}
    assert layer == tiny.PUBLISHED_LAYER and block == tiny.PUBLISHED_VISION_BLOCK
    assert rest == tiny.PUBLISHED_REST - ({"lm_head.weight"} if dense.config.tie_word_embeddings else set())
    config = json.loads((folder / "config.json").read_text())
    assert "text_config" not in config and config["hidden_size"] == 48 and config["rope_theta"] == 500
    assert config["rope_scaling"] == {"type": "mrope", "mrope_section": [1, 2, 3]}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_published_checkpoint_gives_the_dense_models_logits(published, kind, tmp_path):
    dense, folder = published
    model = upcycled(folder)
    model.save_pretrained(tmp_path)
    batch = tiny.inputs(PARITY_INPUTS[kind], synergy=False)
    keep = batch["attention_mask"].bool()
    for polyv in (model, PolyVForConditionalGeneration.from_pretrained(tmp_path)):
        config = polyv.config.text_config
        assert {name: config.rope_parameters[name] for name in ROPE} == ROPE
        assert config.layer_types == ["full_attention"] * 8  # `sliding_window` is a number there, and not in use
        tied = polyv.get_input_embeddings().weight is polyv.get_output_embeddings().weight
        assert tied == polyv.config.tie_word_embeddings == dense.config.tie_word_embeddings
        assert polyv.generation_config.eos_token_id == [2, 1] and polyv.generation_config.repetition_penalty == 1.05
        with torch.no_grad():
            expected, measured = dense(**batch).logits, polyv(**batch).logits
        torch.testing.assert_close(measured[keep], expected[keep], atol=2e-5, rtol=1e-4)


def test_experts_are_the_dense_ffn_and_saving_keeps_them(checkpoint, tmp_path):
    dense, model = tiny.dense(), PolyVForConditionalGeneration.from_pretrained(checkpoint)
    ffn, experts = dense.model.language_model.layers[3].mlp, model.model.language_model.layers[3].mlp.experts
    for expert in range(4):
        assert torch.equal(experts.gate_up_proj[expert], torch.cat([ffn.gate_proj.weight, ffn.up_proj.weight]))
        assert torch.equal(experts.down_proj[expert], ffn.down_proj.weight)
    model.save_pretrained(tmp_path)
    again, info = PolyVForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


def test_the_base_model_upcycles_too(checkpoint):
    model = PolyVModel.from_pretrained(checkpoint)
    ffn = tiny.dense().model.language_model.layers[7].mlp
    assert torch.equal(model.language_model.layers[7].mlp.experts.down_proj[2], ffn.down_proj.weight)


def test_dtype_and_config_are_honoured(checkpoint):
    config = PolyVConfig.from_dense(tiny.dense().config, num_experts=3, synergy_token_id=None)
    model = PolyVForConditionalGeneration.from_pretrained(checkpoint, config=config, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.model.language_model.layers[3].mlp.experts.down_proj.shape[0] == 3
    assert model.temporal_head is None


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_and_unexpected_weights_are_listed(tmp_path):
    tiny.save_dense(tiny.dense(), tmp_path)

    def change(tensors):
        del tensors["model.layers.3.mlp.down_proj.weight"], tensors["model.layers.5.input_layernorm.weight"]
        tensors["model.layers.99.strange.weight"] = torch.zeros(1)

    edit(tmp_path, change)
    with pytest.raises(ValueError) as error:
        PolyVForConditionalGeneration.from_pretrained(tmp_path)
    for name in ("layers.3.mlp.(down_proj).weight", "layers.5.input_layernorm.weight", "layers.99.strange.weight"):
        assert name in str(error.value)


def test_half_an_ffn_is_refused(tmp_path):
    tiny.save_dense(tiny.dense(), tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop("model.layers.3.mlp.gate_proj.weight"))
    with pytest.raises(ValueError, match=r"layers\.3\.mlp\.\(gate_proj or up_proj\)"):
        PolyVForConditionalGeneration.from_pretrained(tmp_path)


def test_a_failed_load_leaves_later_loads_alone(checkpoint, tmp_path):
    tiny.save_dense(tiny.dense(), tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"norm\.weight"):
        PolyVForConditionalGeneration.from_pretrained(tmp_path)
    model = PolyVForConditionalGeneration.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "saved")
    fresh = tiny.polyv()
    fresh.save_pretrained(tmp_path / "fresh")
    for folder in ("saved", "fresh"):
        assert "model.language_model.layers.3.mlp.experts.gate_up_proj" in load_file(
            tmp_path / folder / "model.safetensors"
        )


def test_a_whole_checkpoint_is_upcycled_without_a_warning(checkpoint, caplog):
    reporters = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "distributed")]
    before = [(each.level, list(each.filters)) for each in reporters]
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)  # which does not hand on to the root
    try:
        PolyVForConditionalGeneration.from_pretrained(checkpoint, synergy_token_id=tiny.SYNERGY)
    finally:
        transformers_logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [(each.level, list(each.filters)) for each in reporters] == before


def test_a_checkpoint_without_tokenizer_and_with_few_rows_has_no_synergy(checkpoint, caplog):
    with caplog.at_level("WARNING"):
        model = PolyVForConditionalGeneration.from_pretrained(checkpoint)
    assert "without `<synergy>`" in caplog.text and "synergy_token_id=" in caplog.text
    assert model.config.synergy_token_id is None
    assert model.temporal_head is None and model.spatial_head is None
    with torch.no_grad():
        assert model(**tiny.inputs([[]], synergy=False)).synergy_temporal is None


def test_synergy_id_can_be_given(checkpoint):
    model = PolyVForConditionalGeneration.from_pretrained(checkpoint, synergy_token_id=tiny.SYNERGY)
    with torch.no_grad():
        assert model(**tiny.inputs([[], []])).synergy_temporal.shape == (2, model.config.temporal_teacher_size)


@pytest.mark.parametrize("tied", [True, False])
def test_a_full_vocabulary_grows_by_the_mean_row(tmp_path, tied):
    tiny.save_dense(tiny.dense(tied=tied), tmp_path)
    model = PolyVForConditionalGeneration.from_pretrained(tmp_path, synergy_token_id=tiny.VOCAB_SIZE)
    for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert len(weight) == tiny.VOCAB_SIZE + 1
        torch.testing.assert_close(weight[-1], weight[:-1].mean(dim=0))
    assert model.config.synergy_token_id == model.config.text_config.vocab_size - 1 == tiny.VOCAB_SIZE
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    batch = tiny.inputs([[]], synergy=False)
    batch["input_ids"][0, -1] = tiny.VOCAB_SIZE
    assert model(**batch).synergy_temporal.shape == (1, model.config.temporal_teacher_size)
    model.save_pretrained(tmp_path / "saved")
    _, info = PolyVForConditionalGeneration.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(dict(moe_intermediate_size=32), "moe_intermediate_size"), (dict(num_key_value_heads=4), "num_key_value_heads")],
)
def test_a_configuration_that_the_weights_cannot_fill_is_refused(checkpoint, arguments, named):
    with pytest.raises(ValueError, match=f"{named}` is"):
        PolyVForConditionalGeneration.from_pretrained(checkpoint, **arguments)


def test_a_configuration_may_come_as_a_folder_or_as_the_dense_one(checkpoint, tmp_path):
    PolyVConfig.from_dense(tiny.dense().config, num_experts=2, synergy_token_id=None).save_pretrained(tmp_path)
    for config, experts in ((str(tmp_path), 2), (tiny.dense().config, 4)):
        model = PolyVForConditionalGeneration.from_pretrained(checkpoint, config=config)
        assert model.model.language_model.layers[3].mlp.experts.num_experts == experts


def test_an_adapter_of_a_dense_model_is_refused(checkpoint, tmp_path):
    adapter = {"base_model_name_or_path": str(checkpoint), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ValueError, match=r"adapter of .*Upcycle the base once"):
        PolyVForConditionalGeneration.from_pretrained(tmp_path)
