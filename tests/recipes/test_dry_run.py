# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Plans of stages that have not run, and of none that has weights; those beside real runs are in test_stages.py."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from polyv.evaluation.shapes import make_config
from polyv.recipes import align, caption, distill, dry_run, instruct


@pytest.mark.parametrize("size", ["polyv-nano", "polyv-7b"])
def test_every_stage_plans_itself_before_any_has_run(size, tmp_path, monkeypatch, capsys):
    """From the recipe alone: later stages as what the first one begins with, upcycled."""
    recipes = Path(__file__).parents[2] / "recipes" / size
    folder = shutil.copytree(recipes, tmp_path / "recipes")
    first = folder / "caption.yaml"
    if size == "polyv-7b":  # a published name cannot be looked up here
        qwen = "Qwen/Qwen2.5-VL-7B-Instruct"
        make_config("7b").save_pretrained(tmp_path / qwen)
        first.write_text(first.read_text().replace(qwen, str(tmp_path / qwen)))
    else:
        monkeypatch.chdir(Path(__file__).parents[2])
        for file in folder.iterdir():  # as on a machine where nothing has run
            file.write_text(file.read_text().replace("runs/", f"runs/not-{tmp_path.name}-"))
    counts = {}
    for stage, module in {"caption": caption, "instruct": instruct, "distill": distill, "align": align}.items():
        module.main(
            ["--config", str(folder / f"{stage}.yaml"), "--dry_run=true", "--output_dir", str(tmp_path / stage)]
        )
        told = capsys.readouterr().out
        assert "PolyVForConditionalGeneration" in told and "trainable" in told
        assert ("fits on GPUs" if size == "polyv-nano" else "fits on") in told
        assert ("is not there yet: planned as" in told) == (stage != "caption")
        assert not (tmp_path / stage).exists()
        counts[stage] = [float(re.search(rf"{what}.* ([\d.]+) [MB]", told)[1]) for what in ("parameters", "trainable")]
    assert counts["instruct"][0] == counts["caption"][0] < counts["distill"][0] == counts["align"][0]
    assert not dry_run.is_dry(["--dry_run", "false"]) and dry_run.is_dry(["--dry-run"])
    first.write_text(first.read_text() + "dry_run: true\n")
    assert dry_run.is_dry(["--config", str(first)]) and not dry_run.is_dry(["--config", str(first), "--dry_run=false"])
    assert counts["align"][1] < counts["distill"][1]  # no teacher: its heads stand still


@pytest.mark.parametrize(
    ("environment", "strategy"),
    [
        ({}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, "zero2"),
    ],
)
def test_a_plan_is_of_what_was_launched(environment, strategy, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launched = SimpleNamespace(world_size=2, fsdp=[], deepspeed=None)
    assert dry_run.launched_strategy(launched) == strategy
    assert dry_run.launched_strategy(SimpleNamespace(world_size=1)) == "single"
