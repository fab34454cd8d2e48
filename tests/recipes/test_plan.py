# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import re
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from polyv.evaluation.shapes import make_config
from polyv.recipes import plan as module
from polyv.recipes.plan import STRATEGIES, Load, Plan, build, plan, run, to_table
from tests import tiny


GIB = 2**30
TRACED = {"activations": 3 * GIB, "weight_copies": 0, "logits": GIB, "temporary": GIB}
STATES = ("parameters", "gradients", "optimizer")


@pytest.fixture
def untraced(monkeypatch):
    """Plans at once, with made-up activations; the list has what each would have been traced with."""
    calls = []

    def trace(model, load, dtype, autocast):
        calls.append({"dtype": dtype, "autocast": autocast})
        return dict(TRACED)

    monkeypatch.setattr(module, "trace_step", trace)
    return calls


@pytest.fixture
def polyv():
    model = tiny.polyv(text={"num_hidden_layers": 4}).train()
    for head in (model.temporal_head, model.spatial_head):
        head.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "kind, dtype", [("polyv", torch.float32), ("dense", torch.float32), ("polyv", torch.bfloat16)]
)
def test_states_are_exactly_those_of_a_real_step(kind, dtype, polyv, untraced):
    model = (polyv if kind == "polyv" else tiny.dense(num_hidden_layers=4, tied=True).train()).to(dtype)
    if kind == "dense":
        model.model.visual.requires_grad_(False)
    batch = tiny.inputs(tiny.MIXED if kind == "polyv" else [tiny.IMAGE_ROW, tiny.VIDEO_ROW], synergy=False)
    optimizer = torch.optim.AdamW(weight for weight in model.parameters() if weight.requires_grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    weights = list(model.parameters())
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    planned = plan(model)
    assert planned.memory == {
        "parameters": sum(weight.nbytes for weight in weights),
        "gradients": sum(weight.grad.nbytes for weight in weights if weight.grad is not None),
        "optimizer": sum(state.nbytes for state in states),
        "communication": 0,
        **TRACED,
    }
    assert planned.trainable == sum(weight.numel() for weight in weights if weight.grad is not None)
    assert untraced == [{"dtype": None, "autocast": dtype == torch.float32}]


def test_fsdp_holds_exactly_what_fully_shard_leaves_on_the_first_gpu(polyv, untraced):
    planned = plan(polyv, gpus=3, strategy="fsdp")  # 3 divides few shapes here
    dist.init_process_group("fake", rank=0, world_size=3, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (3,))
        for layer in (*polyv.model.language_model.layers, *polyv.model.visual.blocks, polyv):
            fully_shard(layer, mesh=mesh)
        shards = [(weight.to_local().nbytes, weight.requires_grad) for weight in polyv.parameters()]
    finally:
        dist.destroy_process_group()
    trained = sum(size for size, trains in shards if trains)
    assert [planned.memory[part] for part in STATES] == [sum(size for size, _ in shards), trained, 2 * trained]
    assert untraced == [{"dtype": torch.bfloat16, "autocast": True}]  # what is gathered is bfloat16


def test_more_gpus_than_experts_split_experts_no_further_with_fsdp(polyv, untraced):
    experts = sum(weight.nbytes for name, weight in polyv.named_parameters() if ".experts." in name)
    four, eight = (plan(polyv, gpus=gpus, strategy="fsdp").memory["parameters"] for gpus in (4, 8))
    whole = sum(weight.nbytes for weight in polyv.parameters())
    assert four == pytest.approx(whole / 4, rel=0.01)
    assert eight == pytest.approx((whole - experts) / 8 + experts / 4, rel=0.02)
    by_deepspeed = plan(polyv, gpus=8, strategy="zero3").memory["parameters"]
    assert by_deepspeed == pytest.approx(whole / 2 / 8, rel=0.01)  # bfloat16


def test_what_is_gathered_is_two_neighbours_and_what_stands_in_no_layer(polyv, untraced):
    def size(part):
        return 2 * sum(weight.numel() for weight in part.parameters())

    *_, dense, experts = polyv.model.language_model.layers
    blocks = polyv.model.visual.blocks
    rest = size(polyv) - size(polyv.model.language_model.layers) - size(blocks)
    heads = size(polyv.temporal_head) + size(polyv.spatial_head)  # frozen: no gradients
    gathered = plan(polyv, gpus=2, strategy="fsdp").memory["communication"]
    assert gathered == (rest + size(dense) + size(experts)) + (rest - heads + size(experts))


def test_strategies_split_what_they_say(polyv, untraced):
    whole = plan(polyv)
    few = plan(polyv, gpus=2, strategy="ddp")
    assert [few.memory[part] for part in STATES] == [whole.memory[part] for part in STATES]
    assert few.memory["communication"] == whole.memory["gradients"]  # DDP's buckets
    total, trained = whole.parameters, whole.trainable
    for strategy, parameters in (("zero2", 2 * total), ("zero3", total)):
        planned = plan(polyv, gpus=2, strategy=strategy)
        # Two parts of an odd number of rows differ by one.
        assert [planned.memory[part] for part in STATES] == pytest.approx([parameters, trained, 6 * trained], rel=0.01)
        assert (planned.memory["communication"] > 0) == (strategy == "zero3")
    assert untraced[-1] == {"dtype": torch.bfloat16, "autocast": False}


def test_of_experts_only_the_chosen_are_active(untraced):
    planned = plan(tiny.polyv(text={"num_experts": 4, "num_experts_per_tok": 1}))
    one = 3 * 48 * 64  # gate, up and down
    assert planned.parameters - planned.active == 2 * 3 * one
    assert plan(tiny.polyv(text={"num_experts_per_tok": 4})).active == planned.parameters
    dense = plan(tiny.dense())
    assert dense.active == dense.parameters


def test_flops_of_a_step_follow_what_trains(polyv, untraced):
    def step(checkpointing: bool) -> float:
        load = Load(tokens=64, patches=96, gradient_checkpointing=checkpointing)
        planned = plan(polyv, load=load)
        return planned.step_flops / planned.forward_flops

    heads = sum(weight.numel() for head in (polyv.temporal_head, polyv.spatial_head) for weight in head.parameters())
    assert 3 - 2 * heads / plan(polyv).parameters < step(False) < 3  # the heads rest
    assert step(True) == pytest.approx(step(False) + 1)
    polyv.model.visual.requires_grad_(False)
    frozen = step(False)
    polyv.requires_grad_(False)
    polyv.model.visual.merger.requires_grad_(True)
    assert 1 < step(False) < frozen < 3


@pytest.mark.parametrize("shape, billions, upcycled", [("3b", 3.75, 5.60), ("7b", 8.29, 12.61)])
def test_published_sizes_are_built_from_their_config_alone(shape, billions, upcycled, tmp_path):
    make_config(shape).save_pretrained(tmp_path)
    for upcycle, expected in ((False, billions), (True, upcycled)):
        model = build(str(tmp_path), upcycle=upcycle)
        assert {weight.device.type for weight in model.parameters()} == {"meta"}
        assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(expected, abs=0.006)


def test_a_real_checkpoint_is_planned_from_start_to_table(untrained, capsys):
    load = Load(tokens=16, patches=0, gradient_checkpointing=False)
    run(str(untrained.backbone), upcycle=True, freeze_vision=True, load=load, as_json=True)
    planned = json.loads(capsys.readouterr().out)
    assert planned["model"] == "PolyVForConditionalGeneration" and planned["load"]["tokens"] == 16
    assert planned["total"] == sum(planned["memory"].values()) and planned["fits"]["24GB"] is True
    assert 0 < planned["trainable"] < planned["parameters"] and planned["memory"]["activations"] > 0

    run(str(untrained.polyv), load=load)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(untrained.polyv)
    assert lines[1] == "PolyVForConditionalGeneration, float32 weights; 1 GPU, single"
    assert lines[-1] == "fits on GPUs of 24, 40, 80, 141 GB (a tenth is left free)"


def test_adapters_of_peft_are_planned_as_they_train(polyv):
    from peft import LoraConfig, get_peft_model

    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = get_peft_model(
        polyv, LoraConfig(r=2, target_modules=r".*language_model.*q_proj", target_parameters=experts)
    )
    planned = plan(adapted, load=Load(tokens=16, patches=0, gradient_checkpointing=False))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert planned.model == "PolyVForConditionalGeneration" and 0 < planned.trainable == trained
    assert planned.memory["gradients"] == 4 * trained


def make_plan(gibibytes: float, **changes) -> Plan:
    settings = dict(
        model="PolyV", dtype="float32", gpus=1, strategy="single", load=Load(), parameters=10, active=10, trainable=10,
        memory=dict.fromkeys((*STATES, "communication", *TRACED), 0), forward_flops=1.0, step_flops=3.0,
    )  # fmt: skip
    settings["memory"]["parameters"] = int(gibibytes * GIB)
    return Plan(**{**settings, **changes})


def test_the_verdict_leaves_a_tenth_of_a_card_free():
    assert [make_plan(71).fits(card) for card in (24, 40, 80, 141)] == [False, False, True, True]
    assert not make_plan(73).fits(80)
    table = to_table(make_plan(73))
    assert "fits on GPUs of 141 GB" in table and "does not fit on 24, 40, 80 GB; to try next, in words of" in table
    assert "fits on none of the usual GPUs" in to_table(make_plan(500))


def test_advice_is_what_was_not_done_yet():
    assert any("--strategy fsdp" in each for each in make_plan(90).advice())
    split = make_plan(90, gpus=8, strategy="fsdp", trainable=1, dtype="bfloat16")
    assert split.advice() == ["more GPUs: --gpus 16"]
    unchecked = make_plan(
        1, load=Load(gradient_checkpointing=False), memory=dict.fromkeys(STATES, 0) | TRACED | {"communication": 0}
    )
    assert unchecked.advice()[0].startswith("gradient checkpointing")
    assert unchecked.advice()[1].startswith("a smaller micro-batch")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gpus": 0}, "gpus=0: expected 1 or more"),
        ({"strategy": "pipeline"}, "strategy=pipeline: expected one of single, ddp, fsdp, zero2, zero3"),
        ({"gpus": 2}, "strategy=single with gpus=2: single is for 1; take ddp"),
        ({"strategy": "fsdp"}, "strategy=fsdp with gpus=1: it is for several; take single"),
        ({"load": Load(tokens=8, patches=400)}, "tokens=8: 400 patches"),
        ({"trainable": "some"}, "trainable='some': expected"),
        ({"dtype": "float16"}, "dtype=float16: expected float32 or bfloat16"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, message, untrained):
    with pytest.raises(ValueError, match=message):
        run(str(untrained.polyv), **settings)


def test_models_that_cannot_be_planned_are_refused(tmp_path, untraced):
    with pytest.raises(ValueError, match="no weight has requires_grad set"):
        plan(tiny.dense().requires_grad_(False))
    flash = tiny.dense()
    flash.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation is flash_attention_2"):
        plan(flash)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="its config is of a gpt2; expected a polyv or a qwen2_5_vl"):
        run(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="model=/nowhere/there"):
        run("/nowhere/there")


def test_every_strategy_splits_known_parts():
    assert {part for parts in STRATEGIES.values() for part in parts} == set(STATES)


@pytest.mark.slow
@pytest.mark.parametrize("shape, gpus, strategy, kind", [("7b", 8, "fsdp", "full")])
def test_the_page_on_scale_says_what_the_plan_says(shape, gpus, strategy, kind, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    [section] = [part for part in page.split("### ") if part.startswith(shape.upper())]
    [row] = re.findall(rf"^\| {gpus} \| {strategy} \| {kind} \| float32 \| (.*) \|$", section, re.MULTILINE)
    make_config(shape).save_pretrained(tmp_path)
    planned = plan(build(str(tmp_path), upcycle=True), gpus, strategy, Load())
    *states, total = (round(size / 2**30, 1) for size in [*map(planned.memory.get, STATES), planned.total])
    said = row.split(" | ")
    assert said[:2] == [f"{planned.trainable / 1e9:.2f}", f"{planned.step_flops / 1e9:.1f}"]
    assert [*map(float, said[2:5])] == states and float(said[7]) == total and said[8] == "fits"
    assert f"{planned.parameters / 1e9:.2f}" in section.split("|")[0]
