# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a training logs of its loss and of its experts, and the pictures of it."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers import TrainerCallback

from polyv import PolyVForConditionalGeneration
from polyv.evaluation.assignments import KINDS
from polyv.recipes.curves import Tally, _draw_load, draw_experts, draw_loss
from polyv.recipes.trainable import lora_config
from tests import tiny


ONCE = {"max_steps": 1, "save_strategy": "no", "train_sampling_strategy": "sequential"}


@pytest.fixture
def polyv(polyv, processor):
    """The one of the other tests, and it knows `<synergy>`."""
    polyv.config.synergy_token_id = processor.synergy_token_id
    return polyv


def load(log: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in log.items() if name.startswith("load/")}


def count_by_hand(model, batch: dict[str, torch.Tensor], rows: list[str]) -> dict[str, float]:
    """The shares, token by token; `rows` says whether the pictures of a row are images or views."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = model(**inputs, output_router_logits=True).router_logits
    config, counts = model.config, Counter()
    for layer, of_layer in zip(config.text_config.moe_layers, logits, strict=True):
        for position, logits_E in enumerate(of_layer):
            row, column = divmod(position, batch["input_ids"].shape[1])
            if not batch["attention_mask"][row, column]:
                continue
            kinds = {
                config.image_token_id: rows[row],
                config.video_token_id: "video",
                config.synergy_token_id: "synergy",
            }
            kind = kinds.get(batch["input_ids"][row, column].item(), "text")
            for expert in logits_E.argsort(descending=True)[: config.text_config.num_experts_per_tok].tolist():
                counts[f"load/layer_{layer}/{kind}", expert] += 1
    total = Counter()
    for (name, _), number in counts.items():
        total[name] += number
    return {f"{name}/expert_{expert}": counts[name, expert] / total[name] for name in total for expert in range(4)}


def test_the_load_is_that_of_the_routers(make_trainer, polyv):
    # The coefficient is 0: the load is logged whether or not it is balanced.
    trainer = make_trainer(polyv, per_device_train_batch_size=5, router_aux_loss_coef=0.0, **ONCE)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert (batch["attention_mask"] == 0).any()
    expected = count_by_hand(polyv, batch, ["image", "", "scene", "image", ""])
    assert len(expected) == 2 * len(KINDS) * 4
    trainer.train()
    (log,) = (log for log in trainer.state.log_history if "loss" in log)
    assert load(log) == pytest.approx(expected, abs=1e-6)
    assert "aux_loss" not in log and log["ce_loss"] == pytest.approx(log["loss"], abs=1e-5)


def test_micro_batches_and_steps_add_up_over_an_interval(make_trainer, polyv):
    logs = []
    for rows, accumulated, steps in ((5, 1, 1), (1, 5, 2)):
        trainer = make_trainer(
            polyv, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated, logging_steps=steps,
            learning_rate=0.0, router_aux_loss_coef=0.5, **{**ONCE, "max_steps": steps},
        )  # fmt: skip
        trainer.train()
        (log,) = (log for log in trainer.state.log_history if "loss" in log)
        assert log["loss"] == pytest.approx(log["ce_loss"] + 0.5 * log["aux_loss"], abs=1e-4)
        logs.append({"ce_loss": log["ce_loss"], **load(log)})
    assert logs[1] == pytest.approx(logs[0], abs=1e-5)


def test_what_no_interval_ended_is_logged_at_the_end(make_trainer, polyv):
    trainer = make_trainer(polyv, logging_steps=2, **{**ONCE, "max_steps": 3})
    trainer.train()
    first, last = trainer.state.log_history
    assert (first["step"], last["step"]) == (2, 3)
    assert load(first) and load(last) and last["ce_loss"] < first["ce_loss"]


def test_processes_are_counted_together():
    config = tiny.polyv_config()
    one, other, both = Tally(config), Tally(config), Tally(config)
    for seed, tally in enumerate((one, other)):
        batch = tiny.inputs([[], [("image", 4, 4)] * seed], seed=seed)
        logits = [torch.randn(batch["input_ids"].numel(), 4) for _ in config.text_config.moe_layers]
        for counting in (tally, both):
            counting.add(torch.tensor(1.0 + 2 * seed), batch, logits, 7)
    alone = SimpleNamespace(num_processes=1, reduce=lambda sums, _: sums)
    expected = both.take(alone, 8)
    assert expected.pop("ce_loss") == 4 and expected
    found = one.take(SimpleNamespace(num_processes=2, reduce=lambda sums, _: sums + other.sums), 8)
    assert found.pop("ce_loss") == 2 and found == pytest.approx(expected)
    assert one.take(alone, 9) == {}


@pytest.mark.parametrize("kind", ["qwen", "polyv"])
def test_a_dense_model_has_no_load(make_trainer, dense, tmp_path, kind):
    if kind == "polyv":
        dense.save_pretrained(tmp_path / "dense")
        dense = PolyVForConditionalGeneration.from_pretrained(tmp_path / "dense", num_experts=0, dtype=torch.float32)
    trainer = make_trainer(dense, per_device_train_batch_size=5, **ONCE)
    trainer.train()
    trainer.create_model_card()
    log = trainer.state.log_history[0]
    assert not load(log) and log["ce_loss"] == pytest.approx(log["loss"], abs=1e-5)
    assert (tmp_path / "out" / "loss.png").exists() and not (tmp_path / "out" / "experts.png").exists()
    assert "experts.png" not in (tmp_path / "out" / "README.md").read_text()


def test_an_adapter_trains_with_its_load_logged(make_trainer, polyv):
    trainer = make_trainer(polyv, peft_config=lora_config(polyv, 4, 8), per_device_train_batch_size=5, **ONCE)
    trainer.train()
    assert len(load(trainer.state.log_history[0])) == 2 * len(KINDS) * 4


def test_checkpoints_and_the_end_leave_pictures_and_print_no_load(make_trainer, polyv, tmp_path, capsys):
    trainer = make_trainer(polyv, max_steps=2, save_steps=1, save_total_limit=1)
    drawn = []
    trainer.add_callback(Watch(tmp_path / "out", drawn))
    trainer.train()
    assert drawn == [["experts.png", "loss.png"]] * 2 and (tmp_path / "out" / "experts.png").exists()
    trainer.create_model_card()
    assert "](experts.png)" in (tmp_path / "out" / "README.md").read_text()
    said = capsys.readouterr().out
    assert "'ce_loss'" in said and "load/" not in said


class Watch(TrainerCallback):
    """Notes which pictures there are after each save, and removes them."""

    def __init__(self, folder, drawn):
        self.folder, self.drawn = folder, drawn

    def on_save(self, args, state, control, **kwargs):
        pictures = sorted(self.folder.glob("*.png"))
        self.drawn.append([path.name for path in pictures])
        for path in pictures:
            assert path.read_bytes().startswith(b"\x89PNG")
            path.unlink()


def test_each_part_that_was_logged_has_its_panel(tmp_path):
    path = tmp_path / "loss.png"
    log = {"step": 1, "loss": 2.0, "ce_loss": 1.0}
    heights = []
    for more in ({}, {"mean_token_accuracy": 0.5}, {"mean_token_accuracy": 0.5, "aux_loss": 1.0, "spatial_loss": 1.0}):
        draw_loss([{**log, **more}, {"step": 2, "train_loss": 1.0}], str(path))
        heights.append(Image.open(path).height)
    assert np.diff(heights).tolist() == [220, 440]
    draw_loss([], str(path))  # nothing was logged before the first checkpoint
    assert Image.open(path).height == heights[0]


def test_nothing_is_drawn_of_experts_that_are_not_there(tmp_path):
    draw_experts([{"step": 1, "loss": 1.0}], str(tmp_path / "experts.png"))
    assert not list(tmp_path.iterdir())


def test_shares_are_stacked_over_the_interval_they_were_logged_for():
    axes = Figure().subplots()
    logs = [
        {"step": step, **{f"load/expert_{expert}": share for expert, share in enumerate(shares)}}
        for step, shares in ((10, (0.25, 0.75)), (20, ()), (30, (0.5, 0.5)))
    ]
    _draw_load(axes, logs, "load", 2)
    areas = [[path.get_extents().bounds for path in area.get_paths()] for area in axes.collections]  # x, y, size
    assert areas == [[(0, 0, 10, 25), (20, 0, 10, 50)], [(0, 25, 10, 75), (20, 50, 10, 50)]]
