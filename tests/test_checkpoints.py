# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The committed checkpoints: what they hold, and that their cards say what was measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor

from polyv import PolyVForConditionalGeneration, PolyVProcessor
from polyv.evaluation.suites import SUITES
from polyv.hub.export import MODEL_AUTO_MAP, PROCESSOR_AUTO_MAP
from polyv.processing.posed_views import PosedViews
from polyv.world.media import write_video


ROOT = Path(__file__).parents[1]
CARD = (ROOT / "model_card.md").read_text(encoding="utf-8")
CLASSES = {
    "polyv-nano": (PolyVForConditionalGeneration, PolyVProcessor),
    "polyv-nano-backbone": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
}


@pytest.fixture(params=CLASSES)
def folder(request) -> Path:
    return ROOT / "checkpoints" / request.param


def report(name: str) -> dict:
    return json.loads((ROOT / "checkpoints" / name / "evaluation.json").read_text(encoding="utf-8"))


def test_it_is_small_and_in_bfloat16(folder):
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 20e6
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_it_loads_whole_as_the_class_it_should_be(folder):
    model, loading = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    assert (type(model), type(processor)) == CLASSES[folder.name]
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert processor.chat_template and processor.tokenizer.convert_tokens_to_ids("<|im_end|>") is not None


def test_it_leads_to_its_code():
    folder = ROOT / "checkpoints" / "polyv-nano"
    for file, entries in (("config.json", MODEL_AUTO_MAP), ("processor_config.json", PROCESSOR_AUTO_MAP)):
        assert json.loads((folder / file).read_text())["auto_map"].items() >= entries.items()


def test_its_report_is_of_all_suites_with_enough_questions(folder):
    found = report(folder.name)
    assert found["suites"].keys() == set(SUITES) and min(s["n"] for s in found["suites"].values()) >= 300
    assert found["model"].endswith(folder.name)


def test_the_cards_tell_what_their_recipes_ask_for():
    """Steps of every stage, in the checkpoint's own card and in the family's."""
    for name, stages in {
        "polyv-nano-backbone": ("vision", "pretrain-captions", "pretrain"),
        "polyv-nano": ("tune",),
    }.items():
        own = (ROOT / "checkpoints" / name / "README.md").read_text(encoding="utf-8")
        for stage in stages:
            recipe = yaml.safe_load((ROOT / "recipes" / "polyv-nano" / f"{stage}.yaml").read_text(encoding="utf-8"))
            assert f"{recipe['max_steps']:,}" in own and f"{recipe['max_steps']:,}" in CARD
            for weight in recipe.get("dataset_weights", ()):
                assert f"{100 * weight:.0f} %" in own
            assert f"recipes/polyv-nano/{stage}.yaml" in own and f"(seed {recipe['seed']})" in own


def test_the_cards_tell_what_the_reports_hold(folder):
    own = (folder / "README.md").read_text(encoding="utf-8")
    found = report(folder.name)
    column = 1 if folder.name == "polyv-nano" else 0
    for name, suite in found["suites"].items():
        low, high = suite["interval"]
        row = f"| {name} | {suite['accuracy']:.3f} | {suite['n']} | {low:.3f} - {high:.3f} | {suite['prior']:.3f} |"
        assert row in own
        (cells,) = re.findall(rf"^\| {name} \| (\S+) \| (\S+) \|", CARD, re.MULTILINE)
        assert cells[column] == f"{suite['accuracy']:.3f}"
    (means,) = re.findall(r"^\| mean \| (\S+) \| (\S+) \|", CARD, re.MULTILINE)
    assert means[column] == f"{found['mean_accuracy']:.3f}"
    assert f"| mean | {found['mean_accuracy']:.3f} | | | {found['mean_prior']:.3f} |" in own


@pytest.mark.parametrize(("name", "modality"), [("teacher-temporal", "video"), ("teacher-spatial", "scene")])
def test_the_small_teachers_see_what_they_are_to(name, modality, tmp_path):
    from polyv.recipes.teachers import load_teacher

    folder = ROOT / "checkpoints" / name
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 20e6
    teacher = load_teacher(str(folder))
    frames = np.random.default_rng(0).integers(0, 255, (8, 112, 112, 3), dtype=np.uint8)
    pose, intrinsics = np.tile(np.eye(4), (8, 1, 1)), np.array([[100.0, 0, 56], [0, 100, 56], [0, 0, 1]])
    scene = PosedViews.from_arrays(frames, np.ones((8, 112, 112), np.float32), intrinsics, pose)
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    features = teacher(scene if modality == "scene" else str(tmp_path / "clip.mp4"))
    assert teacher.modality == modality and features.shape[-1] == teacher.size and features.isfinite().all()
    assert features.flatten(0, 2).std(0).mean() > 0.1  # trained, and not to one and the same feature
    card = (folder / "README.md").read_text(encoding="utf-8")
    recipe = yaml.safe_load((ROOT / "recipes" / "polyv-nano" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert f"--config recipes/polyv-nano/{name}.yaml" in card and f"{recipe['max_steps']:,} steps" in card
