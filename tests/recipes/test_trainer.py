# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import TrainerCallback
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from polyv import PolyVForConditionalGeneration
from polyv.recipes import pretrain
from polyv.recipes.data import COLUMNS
from polyv.recipes.rows import RowError
from polyv.recipes.trainer import PolyVTrainer


def collapse(model: PolyVForConditionalGeneration, favourites: list[tuple[int, ...]]) -> None:
    """Let each MoE layer send every token to its favourites, by a dimension that is large and positive in all."""
    model.get_input_embeddings().weight.data[:, 0] = 20.0
    gates = [layer.mlp.gate for layer in model.model.language_model.layers if hasattr(layer.mlp, "gate")]
    for gate, experts in zip(gates, favourites, strict=True):
        gate.weight.data.zero_()
        gate.weight.data[list(experts), 0] = 5.0


def test_opposite_collapse_of_two_layers_raises_the_training_loss(make_trainer, polyv):
    # All experts are copies of one, so that routing cannot change the cross-entropy.
    text_only = make_trainer(polyv, router_aux_loss_coef=1.0)
    batch = text_only.data_collator([text_only.train_dataset[4]])
    losses = []
    for favourites in ([(), ()], [(0, 1), (0, 1)], [(0, 1), (2, 3)]):
        collapse(polyv, favourites)
        losses.append(text_only.compute_loss(polyv, dict(batch)).item())
    balanced, alike, opposite = losses
    assert opposite - balanced == pytest.approx(1.0, abs=0.05)
    assert opposite == pytest.approx(alike, abs=1e-4)
    # What TRL itself would have added: no difference between opposite collapse and balance.
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = polyv(**inputs, output_router_logits=True).router_logits
    assert load_balancing_loss_func(logits, 4, 2).item() == pytest.approx(2.0, abs=0.01)


def test_the_router_learns_from_the_balance_loss_alone(make_trainer, polyv):
    # Identical experts, renormalised weights: no gradient from the cross-entropy reaches the router.
    gate = polyv.model.language_model.layers[3].mlp.gate
    for coefficient, reached in ((0.0, False), (0.5, True)):
        trainer = make_trainer(polyv, router_aux_loss_coef=coefficient)
        polyv.zero_grad()
        trainer.compute_loss(polyv, trainer.data_collator([trainer.train_dataset[0]])).backward()
        assert (gate.weight.grad is not None and gate.weight.grad.abs().max() > 1e-5) == reached


def test_refuses_reentrant_checkpointing(make_trainer, polyv):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match="use_reentrant=True cuts the router off"):
        make_trainer(polyv, **options)


@pytest.mark.parametrize(
    "field",
    [
        {"max_length": 10},
        {"loss_type": "dft"},
        {"label_smoothing_factor": 0.1},
        {"completion_only_loss": False},
        {"data_seed": 1},
    ],
)
def test_refuses_what_would_change_nothing(make_trainer, dense, field):
    make_trainer(dense, max_length=None)
    with pytest.raises(ValueError, match=f"{next(iter(field))}=.*: it would change nothing"):
        make_trainer(dense, **field)


def test_what_would_end_it_later_ends_it_before_there_are_weights(start, data, tmp_path, monkeypatch):
    monkeypatch.setattr("polyv.recipes.stage.load_model", lambda *_: pytest.fail("it makes the weights"))
    command = ["--config_name", str(start), "--output_dir", str(tmp_path / "out"), "--use_cpu", "--bf16", "false"]
    (tmp_path / "other.jinja").write_text("x")
    for name, value in (("chat_template_path", tmp_path / "other.jinja"), ("packing", "true"), ("max_length", "77")):
        with pytest.raises(ValueError, match=rf"{name}=.*: it would change nothing, as rows are"):
            pretrain.main([*command, "--dataset", str(data / "rows.jsonl"), f"--{name}", str(value)])
    rows = tmp_path / "rows.jsonl"
    silent = {"content": {"image": str(data / "a.png")}}
    rows.write_text((data / "rows.jsonl").read_text().splitlines()[-1] + "\n" + json.dumps(silent) + "\n")
    with pytest.raises(RowError, match=r"rows.jsonl, row 2: it names a content, and has no messages\. Only `polyv tr"):
        pretrain.main([*command, "--dataset", str(rows)])


def test_checkpointing_changes_no_gradient(make_trainer, polyv):
    gate = polyv.model.language_model.layers[7].mlp.gate
    gradients = []
    for checkpointing in (False, True):
        trainer = make_trainer(polyv, router_aux_loss_coef=0.5, gradient_checkpointing=checkpointing)
        if checkpointing:
            polyv.gradient_checkpointing_enable()
        polyv.train().zero_grad()
        trainer.compute_loss(polyv, trainer.data_collator([trainer.train_dataset[1]])).backward()
        gradients.append(gate.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["dense", "polyv"])
def test_accumulated_gradients_are_those_of_the_whole_batch(make_trainer, request, kind):
    # Rows differ in how many answer tokens they have; averaging means of micro-batches would weigh them wrongly.
    model = request.getfixturevalue(kind)
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    norms = []
    for rows, steps in ((5, 1), (1, 5)):
        model.load_state_dict(begin)
        trainer = make_trainer(
            model,
            router_aux_loss_coef=None if kind == "dense" else 0.0,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=steps,
            max_steps=1,
            save_strategy="no",
        )
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_every_column_reaches_the_collator(make_trainer, dense):
    seen = []
    trainer = make_trainer(dense, per_device_train_batch_size=5, max_steps=1, save_strategy="no")
    trainer.train_dataset = trainer.train_dataset.add_column("teacher", [[0.5]] * 5)
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: (seen.extend(rows), collate(rows))[1]
    trainer.train()
    assert {tuple(row) for row in seen} == {(*COLUMNS, "teacher")}


def test_saves_a_router_setting_that_nobody_asked_for_nowhere(make_trainer, polyv, tmp_path):
    trainer = make_trainer(polyv, max_steps=1, save_strategy="no")
    trainer.train()
    assert trainer.state.log_history[0]["aux_loss"] == pytest.approx(1.0, abs=0.5)
    trainer.save_model()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not config["text_config"].get("output_router_logits")


class Stop(TrainerCallback):
    """Stops a run as a kill would: between two steps, without a last checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["dense", "polyv"])
def test_a_killed_run_resumes_to_the_same_bits(make_trainer, request, tmp_path, capsys, kind):
    settings = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,  # of three steps: the run is killed in its second
        "save_steps": 2,
        "learning_rate": 1e-2,
        "train_sampling_strategy": "group_by_length",
    }
    model = request.getfixturevalue(kind)
    begin = {name: value.clone() for name, value in model.state_dict().items()}

    def run(folder: str, callback=None) -> tuple[PolyVTrainer, dict[str, torch.Tensor]]:
        model.load_state_dict(begin)
        trainer = make_trainer(model, **settings)
        trainer.args.output_dir = str(tmp_path / folder)
        if callback:
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint="auto")
        return trainer, {name: value.clone() for name, value in model.state_dict().items()}

    _, straight = run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("killed", Stop())
    assert Path(tmp_path / "killed" / "checkpoint-4").is_dir()
    # And as a kill would in the midst of a later save: weights, no state.
    half = tmp_path / "killed" / "checkpoint-5"
    half.mkdir()
    (half / "model.safetensors").write_bytes((tmp_path / "killed/checkpoint-4/model.safetensors").read_bytes()[:999])
    with pytest.raises(ValueError, match=r"resume_from_checkpoint=.*checkpoint-5: no complete checkpoint"):
        make_trainer(model, **settings).train(resume_from_checkpoint=str(half))
    capsys.readouterr()
    trainer, resumed = run("killed")
    said = capsys.readouterr().out
    assert f"{half}: passed over" in said and "checkpoint-4: going on after step 4" in said
    assert trainer.state.global_step == 6
    assert all(torch.equal(straight[name], value) for name, value in resumed.items())

    anew = make_trainer(model, **settings, max_steps=1)
    anew.args.output_dir = trainer.args.output_dir
    anew.args.save_strategy = "no"
    anew.train(resume_from_checkpoint="false")  # as the command line has it, over a recipe's "auto"
    assert anew.state.global_step == 1

    # Once more: nothing is left to do, and the model is the trained one.
    trainer, again = run("killed")
    assert trainer.state.global_step == 6
    assert all(torch.equal(straight[name], value) for name, value in again.items())


def test_the_card_tells_origin_data_and_steps(make_trainer, dense, tmp_path):
    for base, line in (("Qwen/Qwen2.5-VL-3B-Instruct", "from Qwen/Qwen2.5-VL-3B-Instruct"), (None, "from scratch")):
        trainer = make_trainer(dense, base_model=base, seed=7)
        trainer.create_model_card()
        card = ModelCard.load(tmp_path / "out" / "README.md")
        assert f"Trained {line}, on rows.jsonl: 0 steps of 8 conversations, seed 7." in card.text
        assert card.data.base_model == base
        assert card.data.pipeline_tag == "image-text-to-text"
        assert card.data.license == "unknown"  # there is no network here
    # A local folder is no name on the Hub.
    make_trainer(dense, base_model=str(tmp_path)).create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert f"Trained from {tmp_path}" in card.text and card.data.base_model is None


def test_the_cards_snippet_runs(make_trainer, polyv, tmp_path, monkeypatch):
    trainer = make_trainer(polyv, base_model=str(tmp_path / "dense"), max_steps=1, save_strategy="no")
    (tmp_path / "dense" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    trainer.save_model()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0"
    [snippet] = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert "import polyv" in snippet
    names: dict = {}
    monkeypatch.chdir("/")
    exec(snippet, names)
    assert type(names["model"]) is PolyVForConditionalGeneration


def test_a_dense_models_card_needs_no_polyv(make_trainer, dense, tmp_path):
    make_trainer(dense).create_model_card()
    assert "import polyv" not in (tmp_path / "out" / "README.md").read_text()
