# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Linear probes: what they score, and what they are asked of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

from polyv import PolyVForConditionalGeneration
from polyv.recipes.multiview import MultiViewConfig, MultiViewModel
from polyv.recipes.probe import explained, geometry, motion, probe, ranked, run
from polyv.recipes.teachers import PROMPT, SynergyState, load_teacher
from polyv.world.make import iter_records, make_world
from polyv.world.media import write_video


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    for split, scenes in (("train", 12), ("validation", 8)):
        make_world(folder / split, scenes=scenes, seed=3, size=32, workers=1, progress=False, split=split)
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A temporal and a spatial one, with random weights."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=8, crop_size=16, frames_per_clip=4, hidden_size=24, num_attention_heads=2, num_hidden_layers=1,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder / "temporal")
    VJEPA2VideoProcessor(crop_size=16).save_pretrained(folder / "temporal")
    spatial = MultiViewConfig(side=16, patch=8, hidden_size=32, num_hidden_layers=2)
    MultiViewModel(spatial).save_pretrained(folder / "spatial")
    return folder


def test_what_a_feature_tells_is_found_and_what_it_does_not_is_not():
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        features = rng.normal(size=(count, 6))
        told = features[:, 0] - 2 * features[:, 3]
        asked = np.where(rng.random(count) < 0.3, np.nan, told)  # not of every scene
        return features, {"told": asked, "told?": (told > 0) * 1.0, "untold": rng.normal(size=count)}

    scores = probe(draw(300), draw(300))
    assert scores["told"] > 0.99 and scores["told?"] > 0.97 and abs(scores["untold"]) < 0.1


def test_a_target_that_a_world_does_not_show_has_no_score():
    features, known = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9.0)
    nothing = np.full(9, np.nan)
    scores = probe((features, {"a": nothing, "b": known}), (features, {"a": known, "b": nothing}))
    assert scores == {"a": None, "b": None}


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    told, truth = np.array([float(t) for t, _ in rows]), np.array([float(y) for _, y in rows])
    yes, no = ([value for value, truly in rows if truly is kind] for kind in (True, False))
    pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
    if pairs:
        assert ranked(told, truth) == pytest.approx(np.mean(pairs))
    else:
        assert ranked(told, truth) is None


def test_always_saying_the_mean_explains_nothing():
    truth = np.array([1.0, 2.0, 6.0])
    assert explained(np.full(3, 3.0), truth) == 0 and explained(truth, truth) == 1 and explained(-truth, truth) < 0


def test_what_is_asked_of_a_scene_holds_of_its_record(worlds):
    for record in iter_records(worlds / "train"):
        told = motion(record)
        assert (told is None) == (record.layout == "static")
        if told is not None:
            assert np.isnan(told["falls?"]) == (record.layout != "edge")
            assert told["metres in all"] + 1e-6 >= max(abs(told["metres across"]), abs(told["metres away"]))
        seen = geometry(record, worlds / "train")
        assert seen["nearest object"] > 0 and 0 < seen["spread of depth"] < seen["mean depth"]


@pytest.mark.parametrize(("kind", "settings"), [("temporal", {}), ("temporal", {"less_still": True}), ("spatial", {})])
def test_a_probe_reports_the_teacher_beside_what_knows_nothing(worlds, teachers, tmp_path, capsys, kind, settings):
    out = tmp_path / "probe.json"
    report = run(str(teachers / kind), worlds / "train", worlds / "validation", out, settings=settings)
    assert json.loads(out.read_text())["n"] == report["n"] and [*tmp_path.iterdir()] == [out]
    assert {"teacher, pooled", "untrained, pooled", "mean colours"} <= report["scores"].keys()
    assert {**settings, "modality": "video" if kind == "temporal" else "scene"}.items() <= report.items()
    trained, untrained = (report["scores"][f"{whose}, pooled"] for whose in ("teacher", "untrained"))
    assert trained.keys() == report["metrics"].keys() and trained != untrained
    assert capsys.readouterr().out.count("\n|") >= 1 + len(report["n"])


@pytest.fixture
def polyv(dense, processor, tmp_path):
    for part in (dense, processor):
        part.save_pretrained(tmp_path / "dense")
    return PolyVForConditionalGeneration.from_pretrained(tmp_path / "dense", dtype=torch.float32)


@pytest.fixture
def student(polyv, processor, tmp_path):
    """A PolyV that was never trained, with its processor."""
    polyv.save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    return str(tmp_path / "student")


@pytest.mark.parametrize("settings", [{"modality": "scene"}, {"modality": "video", "first": True}])
def test_a_student_is_probed_beside_what_knows_nothing(worlds, student, tmp_path, settings):
    report = run(student, worlds / "train", worlds / "validation", tmp_path / "p.json", settings=settings)
    assert {"teacher, pooled", "untrained, pooled", "mean colours"} == report["scores"].keys()
    assert settings.items() <= report.items()


def test_the_command_knows_a_student(worlds, student, tmp_path):
    command = [Path(sys.executable).with_name("polyv"), "teachers", "probe", "--teacher", student, "--first"]
    worlds_and_out = ["--train", worlds / "train", "--test", worlds / "validation", "--out", tmp_path / "p.json"]
    done = subprocess.run([*command, *worlds_and_out], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "| falls? |" in done.stdout and "instantiate a model of type" not in done.stderr


def test_a_students_state_is_what_its_heads_read(worlds, student, polyv, processor):
    record = next(iter_records(worlds / "train"))
    clip = worlds / "train" / record.media.video
    with torch.no_grad():
        foreseen = polyv.temporal_head(load_teacher(student)(clip)[0, 0])
    content = [{"type": "video", "video": clip}, {"type": "text", "text": PROMPT}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        assert torch.allclose(foreseen, polyv.eval()(**inputs).synergy_temporal, atol=1e-5)


def test_a_student_is_shown_the_first_frame_alone(student, tmp_path):
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    frames[4:, 8:24, 8:24] = 255  # what happens later
    write_video(tmp_path / "moves.mp4", frames, 8.0)
    write_video(tmp_path / "still.mp4", np.zeros_like(frames), 8.0)
    for first in (True, False):
        see = SynergyState(student, first=first)
        moves, still = (see(tmp_path / name) for name in ("moves.mp4", "still.mp4"))
        assert torch.allclose(moves, still, atol=1e-3) == first


def test_a_student_needs_a_synergy_token_and_a_teacher_its_own_settings(student, teachers, polyv):
    with pytest.raises(ValueError, match=r"views=4: the teacher .* takes modality and first; leave it out"):
        load_teacher(student, views=4)
    with pytest.raises(ValueError, match=r"first=True: the teacher .* takes frames and less_still; leave it out"):
        load_teacher(str(teachers / "temporal"), first=True)
    with pytest.raises(ValueError, match="less_still=True: the teacher world:temporal takes no setting"):
        load_teacher("world:temporal", less_still=True)
    polyv.config.synergy_token_id = None
    polyv.config.save_pretrained(student)
    with pytest.raises(ValueError, match="it is a PolyV without `<synergy>`"):
        SynergyState(student)


def test_truth_and_its_own_split_are_refused(worlds, teachers, tmp_path):
    with pytest.raises(ValueError, match="teacher=world:temporal: it is the truth"):
        run("world:temporal", worlds / "train", worlds / "validation", tmp_path / "p.json")
    with pytest.raises(ValueError, match="is of the train split like train="):
        run(str(teachers / "spatial"), worlds / "train", worlds / "train", tmp_path / "p.json")
