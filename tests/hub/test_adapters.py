# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Adapters are merged by `polyv export`, and refused by all that needs a whole checkpoint."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from polyv import cli
from polyv.ask import load
from polyv.hub.export import export, flat_code
from polyv.recipes import align  # noqa: F401 (trl imports peft, if it is installed: before it seems not to be)
from polyv.recipes.trainable import lora_config
from tests import tiny


def add_adapter(base: Path, folder: Path) -> Path:
    """An adapter of `base` as a stage leaves it, with random weights where training would move them."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, lora_config(model, 4, 8))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    (folder / "processor_config.json").write_text('{"processor_class": "PolyVProcessor"}')
    (folder / "README.md").write_text(f'# {folder.name}\n\nmodel = X.from_pretrained("runs/{folder.name}")\n')
    (folder / "checkpoint-1").mkdir()
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "base"
    tiny.polyv(tie_word_embeddings=True).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base) -> Path:
    return add_adapter(base, base.with_name("adapter"))


@pytest.fixture(scope="module")
def dense_adapter(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("dense") / "base"
    tiny.dense().save_pretrained(base)
    return add_adapter(base, base.with_name("adapter"))


@torch.no_grad()
def logits(model, synergy: bool = True) -> torch.Tensor:
    batch = tiny.inputs([tiny.IMAGE_ROW, tiny.VIDEO_ROW], synergy=synergy)
    return model.eval()(**batch).logits.float()


def load_adapted(folder: Path):
    """By PEFT, without merging."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), folder)


def test_an_exported_adapter_is_whole_and_answers_alike(base, adapter, tmp_path):
    out = export(adapter, tmp_path / "whole")
    model, loading = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    wanted = logits(load_adapted(adapter))
    assert model.dtype == torch.float32
    assert torch.allclose(logits(model), wanted, atol=1e-4)  # the base is bfloat16: merged in that, it is off by 1e-2
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    assert not torch.allclose(logits(plain), wanted, atol=0.1)
    names = {path.name for path in out.iterdir()}
    assert names >= {*flat_code(), "processor_config.json"} and "checkpoint-1" not in names
    assert not any(name.startswith("adapter_") for name in names)
    card = (out / "README.md").read_text()
    assert card.startswith('# whole\n\nmodel = X.from_pretrained("whole")\n') and "merged into its base" in card


def test_an_adapter_is_exported_in_the_dtype_asked_for(adapter, tmp_path):
    assert cli.main(["export", str(adapter), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_an_adapter_of_a_dense_model_becomes_a_plain_checkpoint(dense_adapter, tmp_path):
    out = export(dense_adapter, tmp_path / "whole")
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.config.model_type == "qwen2_5_vl" and not list(out.glob("*.py"))
    assert torch.allclose(logits(model, synergy=False), logits(load_adapted(dense_adapter), synergy=False), atol=1e-4)


def test_an_adapter_may_have_the_names_of_an_older_transformers(dense_adapter, tmp_path):
    old = shutil.copytree(dense_adapter, tmp_path / "old")
    weights = load_file(old / "adapter_model.safetensors")
    assert any("model.language_model." in name for name in weights)
    renamed = {name.replace("model.language_model.", "model."): weight for name, weight in weights.items()}
    save_file(
        {name.replace("model.model.visual", "model.visual"): w for name, w in renamed.items()},
        old / "adapter_model.safetensors",
    )
    one, other = (
        load_file(export(adapter, tmp_path / f"whole-{adapter.name}") / "model.safetensors")
        for adapter in (old, dense_adapter)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_models_to_ask_may_be_adapters(adapter, monkeypatch):
    monkeypatch.setattr("polyv.ask.AutoProcessor.from_pretrained", lambda name: None)
    assert torch.allclose(logits(load(str(adapter))[0].cpu()), logits(load_adapted(adapter)), atol=1e-4)


def rebase(adapter: Path, out: Path, base) -> Path:
    """A copy that says it is of another base."""
    shutil.copytree(adapter, out)
    settings = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))
    return out


def test_an_adapter_is_merged_into_its_own_base_alone(adapter, dense_adapter, tmp_path):
    dense = str(dense_adapter.with_name("base"))
    for number, (other, message) in enumerate(
        {
            dense: r"base .* is not what it was trained on .*trained with `upcycle: true` lacks",
            str(tmp_path / "gone"): r"base_model_name_or_path=.*gone: there is no such folder",
            str(adapter): r"base_model_name_or_path=.*adapter: it is an adapter",
            None: "it has no base_model_name_or_path",
        }.items()
    ):
        wrong = rebase(adapter, tmp_path / str(number), other)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            export(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_neither_an_adapter_nor_its_base_is_written_over(base, adapter):
    for out in (adapter, base):
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(ValueError, match=r"it is, or holds, what would be merged: the adapter, or its base"):
            export(adapter, out)
        assert sorted(path.name for path in out.iterdir()) == before


def test_a_folder_that_holds_the_base_is_not_replaced(base, adapter, tmp_path):
    """As a checkpoint of a training, on which an adapter was trained."""
    shutil.copytree(base, tmp_path / "run")
    inner = shutil.copytree(base, tmp_path / "run/checkpoint-1")
    mine = shutil.copytree(adapter, tmp_path / "mine")
    config = json.loads((mine / "adapter_config.json").read_text())
    (mine / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(inner)}))
    with pytest.raises(ValueError, match=r"out=.*run: it is, or holds, what would be merged: .*checkpoint-1"):
        export(mine, tmp_path / "run")
    assert (inner / "config.json").is_file()


def fill(text: str, adapter: Path) -> str:
    return text.replace("ADAPTER", str(adapter)).replace("BASE", str(adapter.with_name("base")))


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("upcycle ADAPTER out", "source"),
        ("upcycle ADAPTER out --placement front-half", "source"),
        ("upcycle BASE out --from image=ADAPTER", "image"),
        ("merge ADAPTER out --image BASE", "source"),
        ("merge BASE out --scene ADAPTER", "scene"),
        ("plan --model ADAPTER", "model"),
        ("routing --model ADAPTER", "model"),
        ("data check rows.jsonl --model ADAPTER", "model"),
    ],
)
def test_what_needs_a_whole_checkpoint_refuses_an_adapter(
    command, argument, dense_adapter, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"messages": []}\n')
    assert cli.main(fill(command, dense_adapter).split()) == 2
    error = capsys.readouterr().err
    assert f"{argument}={dense_adapter}: it is an adapter" in error
    assert f"`polyv export {dense_adapter} DIR`" in error and not Path("out").exists()


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("export ADAPTER out", "model=ADAPTER"),
        ("ask --model ADAPTER Why?", "model=ADAPTER"),
        ("plan --model BASE --trainable lora", "trainable='lora'"),
        ("train align --model_name_or_path BASE --trainable lora --dataset a.jsonl", "trainable='lora'"),
    ],
)
def test_without_peft_they_say_what_to_install(command, what, adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    assert cli.main(fill(command, adapter).split()) == 2
    error = capsys.readouterr().err
    assert f"{fill(what, adapter)}: it needs the package peft" in error and 'pip install "polyv[lora]"' in error
