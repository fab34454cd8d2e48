# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What `trainable: lora` writes: loaded as its card says, made whole, and gone on from; and what it cannot be used on."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from polyv.cli import main as polyv
from polyv.recipes import align, pretrain, stage
from polyv.recipes.collator import ConversationCollator
from polyv.recipes.data import read_source


@pytest.fixture(scope="module")
def options(data) -> list[str]:
    """Of a training of two steps."""
    settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "per_device_train_batch_size": 5}
    settings |= {"max_steps": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "report_to": "none"}
    settings |= {"save_steps": 2, "lora_r": 4, "disable_tqdm": True, "dataset": str(data / "rows.jsonl")}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def dense(start, options, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "dense"
    pretrain.main([*options, "--config_name", str(start), "--max_steps", "1", "--output_dir", str(out)])
    return out


@pytest.fixture(scope="module")
def base(dense) -> Path:
    out = dense.with_name("base")
    assert polyv(["upcycle", str(dense), str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def trained(base, options) -> tuple[Path, torch.nn.Module]:
    """An adapter of `base`, and the model as it was in memory when the training ended."""
    out, kept = base.with_name("adapter"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.PolyVTrainer, "save_state", lambda trainer: kept.append(trainer.model))
        pretrain.main([*options, "--model_name_or_path", str(base), "--trainable", "lora", "--output_dir", str(out)])
    return out, kept[0]


@pytest.fixture(scope="module")
def adapter(trained) -> Path:
    return trained[0]


@pytest.fixture(scope="module")
def whole(adapter) -> Path:
    out = adapter.with_name("whole")
    assert polyv(["export", str(adapter), str(out)]) == 0
    return out


@torch.no_grad()
def logits(model, folder: Path, data: Path) -> torch.Tensor:
    rows = list(read_source(str(data / "rows.jsonl")))
    inputs = ConversationCollator(AutoProcessor.from_pretrained(folder), ()).encode(rows)
    return model.eval()(**inputs).logits


def test_an_adapter_loads_as_its_card_says_and_answers_as_when_it_was_trained(trained, base, data):
    out, model = trained
    card = (out / "README.md").read_text()
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], scope)
    wanted = logits(model, out, data)
    assert torch.allclose(logits(scope["model"], out, data), wanted, atol=1e-4)
    start = AutoModelForImageTextToText.from_pretrained(base)
    assert not torch.allclose(logits(start, out, data), wanted, atol=0.01)
    assert f"Trained from {base}" in card and "What trained (`lora`)" in card


def test_an_exported_adapter_answers_alike_and_trains_on_in_full(trained, whole, options, data, tmp_path):
    loaded = AutoModelForImageTextToText.from_pretrained(whole)
    assert torch.allclose(logits(loaded, whole, data), logits(trained[1], whole, data), atol=1e-4)
    out = tmp_path / "full"
    pretrain.main([*options, "--model_name_or_path", str(whole), "--output_dir", str(out)])
    before, after = loaded.state_dict(), AutoModelForImageTextToText.from_pretrained(out).state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert before.keys() == after.keys() and len(moved) > 0.9 * len(before)
    assert f"Trained from {whole}" in (out / "README.md").read_text()


def test_an_exported_adapter_trains_on_by_lora(whole, options, data, tmp_path):
    out = tmp_path / "again"
    pretrain.main([*options, "--model_name_or_path", str(whole), "--trainable", "lora", "--output_dir", str(out)])
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(whole)
    again = AutoModelForImageTextToText.from_pretrained(out)
    before = AutoModelForImageTextToText.from_pretrained(whole)
    assert not torch.allclose(logits(again, out, data), logits(before, out, data), atol=0.01)


@pytest.mark.parametrize("word", ["full", "experts", "lora"])
@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_training_on_an_adapter_is_refused_with_the_command_that_mends_it(word, dry_run, adapter, options, tmp_path):
    out = tmp_path / "out"
    arguments = ["--model_name_or_path", str(adapter), "--trainable", word, "--dry_run", dry_run]
    with pytest.raises(ValueError, match=r"model_name_or_path=(.*): it is an adapter, .*`polyv export \1 DIR`"):
        align.main([*options, *arguments, "--output_dir", str(out)])
    assert not out.exists()


def test_an_adapter_of_weights_that_would_be_lost_is_refused(dense, start, options, tmp_path, capsys):
    arguments = [*options, "--trainable", "lora", "--output_dir", str(tmp_path / "out")]
    upcycled = [*arguments, "--model_name_or_path", str(dense), "--upcycle"]
    with pytest.raises(
        ValueError, match=rf"trainable='lora': .*`polyv upcycle {dense} DST` first, and train from DST"
    ):
        pretrain.main(upcycled)
    with pytest.raises(ValueError, match=rf"trainable='lora': .*fresh weights of config_name={start} would be lost"):
        pretrain.main([*arguments, "--config_name", str(start)])
    assert not (tmp_path / "out").exists()
    pretrain.main([*upcycled, "--dry_run"])  # loses nothing, and plans stages that are yet to run
    assert "PolyVForConditionalGeneration" in capsys.readouterr().out


def test_an_adapter_resumes_to_the_same_weights(adapter, base, options, tmp_path, capsys):
    """The run of the fixture, one step at a time."""
    arguments = [*options, "--model_name_or_path", str(base), "--trainable", "lora", "--output_dir", str(tmp_path)]
    for steps in ("1", "2"):
        pretrain.main([*arguments, "--max_steps", steps, "--save_steps", "1", "--resume_from_checkpoint", "auto"])
    assert "checkpoint-1: going on after step 1" in capsys.readouterr().out
    wanted, got = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path))
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted)
