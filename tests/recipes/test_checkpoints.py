# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which checkpoint is complete: one cut off anywhere is passed over, and said to be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from polyv.recipes.checkpoints import find_fault, last_complete


def write_checkpoint(folder: Path) -> Path:
    """What Trainer leaves, of the least size."""
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(64)}, folder / "model.safetensors")
    torch.save({"state": torch.zeros(64)}, folder / "optimizer.pt")
    TrainerState(global_step=int(folder.name.split("-")[1])).save_to_json(str(folder / "trainer_state.json"))
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("spoil", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_a_checkpoint_cut_off_is_passed_over(name, spoil, tmp_path, capsys):
    whole = write_checkpoint(tmp_path / "checkpoint-90")
    spoil(write_checkpoint(tmp_path / "checkpoint-100") / name)
    assert last_complete(str(tmp_path)) == str(whole)
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'checkpoint-100'}: passed over") and said.count("\n") == 1
    shutil.rmtree(whole)
    assert last_complete(str(tmp_path)) is None


def test_the_newest_is_the_one_of_most_steps(tmp_path, capsys):
    assert last_complete(str(tmp_path / "nowhere")) is None
    for step in (100, 20, 9):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_complete(str(tmp_path)) == str(tmp_path / "checkpoint-100")
    assert capsys.readouterr().out == ""


def test_every_shard_must_be_there(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "weights" in (find_fault(str(folder)) or "")
    save_file({"b": torch.zeros(1)}, folder / shards["b"])
    assert find_fault(str(folder)) is None


def test_what_a_run_does_not_save_is_not_asked_for(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    (folder / "optimizer.pt").unlink()
    assert find_fault(str(folder)) and find_fault(str(folder), with_optimizer=False) is None
    (folder / "model.safetensors").unlink()
    assert find_fault(str(folder), with_optimizer=False) and find_fault(str(folder), sharded=True) is None
