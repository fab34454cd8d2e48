# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Teachers: what they see, what they return, and how the small ones are trained."""

import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

from polyv.processing.posed_views import PosedViews
from polyv.recipes import teacher_spatial, teacher_temporal
from polyv.recipes.multiview import MultiViewConfig, MultiViewModel
from polyv.recipes.teacher_temporal import LatentPrediction, MaskingCollator, TemporalArguments, make_config
from polyv.recipes.teachers import MultiViewTeacher, VGGTTeacher, VJEPA2Teacher, fingerprint, load_teacher, read_clip
from polyv.world.media import write_video
from tests.recipes.conftest import pan


@pytest.fixture(scope="module")
def vjepa(tmp_path_factory):
    """A V-JEPA 2 with random weights, as its processor stands on the Hub: made for a crop."""
    folder = tmp_path_factory.mktemp("vjepa")
    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=8, crop_size=32, frames_per_clip=8, hidden_size=48, num_attention_heads=2, num_hidden_layers=2,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)
    VJEPA2VideoProcessor(crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """12 frames, wider than high, with a bright left border that a crop would lose."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = np.zeros((12, 48, 96, 3), np.uint8)
    frames[:, :, :8] = 255
    frames[:, :, :, 1] = np.arange(0, 240, 20)[:, None, None]
    write_video(file, frames, 8.0)
    return file


def test_vjepa_features_are_the_librarys_on_frames_over_all_of_the_clip(vjepa, clip):
    teacher = VJEPA2Teacher(str(vjepa))
    features = teacher(clip)
    assert features.shape == (4, 4, 4, 48) and teacher.size == 48 and teacher.modality == "video"
    pixels = read_clip(clip, 8, teacher.processor)
    assert pixels.shape == (8, 3, 32, 32)
    with torch.no_grad():
        expected = VJEPA2Model.from_pretrained(vjepa).get_vision_features(pixels[None])
    assert torch.allclose(features.flatten(0, 2), expected[0], atol=1e-5)


def test_a_clip_is_resized_without_a_crop_and_spread_over_its_time(vjepa, clip):
    processor = VJEPA2VideoProcessor.from_pretrained(vjepa)
    pixels = read_clip(clip, 6, processor) * torch.tensor(processor.image_std)[:, None, None]
    pixels = pixels + torch.tensor(processor.image_mean)[:, None, None]
    assert pixels[0, 0, :, 0].mean() > 0.9 > 0.1 > pixels[0, 0, :, 8:].mean()
    green = pixels[:, 1, :, 16:].mean((1, 2)) * 255
    assert green.tolist() == pytest.approx([0, 40, 80, 120, 160, 200], abs=6)


def test_a_clip_of_fewer_frames_repeats_some(vjepa, tmp_path):
    write_video(tmp_path / "short.mp4", np.full((3, 32, 32, 3), 100, np.uint8), 8.0)
    assert VJEPA2Teacher(str(vjepa))(tmp_path / "short.mp4").shape == (4, 4, 4, 48)


def test_less_still_leaves_what_a_clip_tells_beyond_its_first_frame(vjepa, clip, tmp_path):
    plain, teacher = VJEPA2Teacher(str(vjepa)), load_teacher(str(vjepa), less_still=True)
    assert teacher.fingerprint != plain.fingerprint
    first = read_clip(clip, 8, plain.processor)[:1].expand(8, -1, -1, -1)
    with torch.no_grad():
        still = plain.model.get_vision_features(first[None])[0].unflatten(0, (4, 4, 4))
    assert torch.allclose(teacher(clip), plain(clip) - still, atol=1e-5) and teacher(clip).abs().max() > 1e-3
    write_video(tmp_path / "still.mp4", np.full((8, 32, 32, 3), 100, np.uint8), 8.0)
    assert teacher(tmp_path / "still.mp4").abs().max() < 1e-3


@pytest.mark.parametrize("frames", [0, 1, 7])
def test_an_odd_number_of_frames_is_refused(vjepa, frames):
    with pytest.raises(ValueError, match=f"frames={frames}: expected a multiple of 2"):
        load_teacher(str(vjepa), frames=frames)


def test_the_multi_view_teacher_sees_views_beside_each_other(tmp_path):
    torch.manual_seed(0)
    MultiViewModel(MultiViewConfig(side=32, patch=8, hidden_size=32, num_hidden_layers=2)).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path), views=3)
    assert isinstance(teacher, MultiViewTeacher) and teacher.modality == "scene"
    views = pan(5)
    features = teacher(views)
    assert features.shape == (3, 4, 4, 32)
    images = views.images.copy()
    images[4] = 0  # the last of the three that are taken
    other = PosedViews.from_arrays(images, views.depths, views.intrinsics[0], views.poses)
    assert not torch.allclose(teacher(other)[0], features[0])  # the first view's features know of it
    images = views.images.copy()
    images[1] = 0  # not taken
    same = PosedViews.from_arrays(images, views.depths, views.intrinsics[0], views.poses)
    assert torch.equal(teacher(same), features)


def test_vggt_is_called_as_its_authors_publish_it(tmp_path, monkeypatch):
    """On a recorded interface: images [B, S, 3, H, W] in 0 to 1 → 24 layers of [B, S, 5 + P, 2048], first patch 5."""
    seen = []

    class Aggregator(nn.Module):
        def __init__(self):
            super().__init__()
            self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, 1024))

        def forward(self, images):
            seen.append(images)
            batch, views = images.shape[:2]
            patches = nn.functional.avg_pool2d(images.mean(2), 14).flatten(2)
            tokens = torch.cat([torch.full((batch, views, 5), -1.0), patches], dim=2)
            return [tokens[..., None].expand(-1, -1, -1, 2048)] * 24, 5

    class VGGT(nn.Module):
        def __init__(self):
            super().__init__()
            self.aggregator = Aggregator()

        @classmethod
        def from_pretrained(cls, name):
            return cls()

    for name in ("vggt", "vggt.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("vggt.models.vggt")
    module.VGGT = VGGT
    monkeypatch.setitem(sys.modules, "vggt.models.vggt", module)
    (tmp_path / "config.json").write_text(json.dumps({"img_size": 518, "patch_size": 14, "embed_dim": 1024}))
    teacher = load_teacher(str(tmp_path), views=2)
    assert isinstance(teacher, VGGTTeacher) and teacher.size == 2048
    images = np.zeros((3, 60, 80, 3), np.uint8)
    images[:, :, 40:] = 255
    poses = np.tile(np.eye(4), (3, 1, 1))
    intrinsics = np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])
    scene = PosedViews.from_arrays(images, np.ones((3, 60, 80), np.float32), intrinsics, poses)
    features = teacher(scene)
    assert seen[0].shape == (1, 2, 3, 392, 518) and seen[0].min() >= 0 and seen[0].max() <= 1
    assert features.shape == (2, 28, 37, 2048)
    assert features[:, :, 0].max() < 0.01 and features[:, :, -1].min() > 0.99


@pytest.mark.slow
def test_vggt_runs_on_its_authors_code(tmp_path):
    """With random weights, at the published size: no other can be built. Where their package is not installed, skipped."""
    vggt = pytest.importorskip("vggt.models.vggt")
    vggt.VGGT(img_size=518, patch_size=14, embed_dim=1024).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path), views=2)
    features = teacher(pan(3))
    assert isinstance(teacher, VGGTTeacher) and features.shape[0] == 2 and features.shape[-1] == teacher.size == 2048
    assert features.isfinite().all() and features.std() > 0


def test_without_its_package_vggt_says_how_to_install_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"embed_dim": 1024}))
    with pytest.raises(ImportError, match="pip install git"):
        load_teacher(str(tmp_path))


@pytest.mark.parametrize("config", [{"model_type": "bert"}, {}])
def test_what_is_no_teacher_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected that of V-JEPA 2"):
        load_teacher(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="teacher=/nowhere"):
        load_teacher("/nowhere")


def test_a_fingerprint_changes_with_weights_and_settings():
    layer = nn.Linear(2, 2)
    first = fingerprint(layer, frames=8)
    assert first == fingerprint(layer, frames=8) != fingerprint(layer, frames=16)
    layer.weight.data[0, 0] += 1e-3
    assert fingerprint(layer, frames=8) != first


def test_a_fingerprint_changes_with_how_clips_are_read(vjepa, tmp_path):
    """The same weights make other features of pictures that are normalised otherwise."""
    other = shutil.copytree(vjepa, tmp_path / "other")
    assert VJEPA2Teacher(str(other)).fingerprint == VJEPA2Teacher(str(vjepa)).fingerprint
    VJEPA2VideoProcessor(crop_size=32, image_mean=[0.0, 0.0, 0.0]).save_pretrained(other)
    assert VJEPA2Teacher(str(other)).fingerprint != VJEPA2Teacher(str(vjepa)).fingerprint


def test_masks_hide_some_tokens_and_never_all():
    collator = MaskingCollator((4, 6, 6))
    kinds = set()
    for index in range(60):
        batch = collator([{"index": index, "clip": torch.zeros(8, 3, 48, 48)}] * 2)
        seen, hidden = batch["seen"].tolist(), batch["hidden"].tolist()
        assert sorted(seen + hidden) == list(range(144)) and seen and hidden
        kinds.add("end" if min(hidden) >= 36 else "block")
    assert kinds == {"end", "block"}


def test_the_encoder_sees_nothing_of_what_is_hidden():
    """What the predictor is asked must not have passed by the encoder, as it does in the library's own forward."""
    torch.manual_seed(0)
    model = VJEPA2Model(make_config(TemporalArguments(videos=[], frames=4, side=32, patch=8, width=48, layers=2)))
    student = LatentPrediction(model)
    clips = torch.randn(2, 4, 3, 32, 32, requires_grad=True)
    seen, hidden = torch.arange(16), torch.arange(16, 32)
    student(clips, seen, hidden)["loss"].backward()
    assert clips.grad[:, :2].abs().sum() > 0
    assert clips.grad[:, 2:].abs().sum() == 0
    assert all(weight.grad is None for weight in student.slow.parameters())


COMMON = [
    "--use_cpu", "--bf16", "false", "--report_to", "none", "--per_device_train_batch_size", "2", "--logging_steps", "1",
    "--save_steps", "3", "--learning_rate", "1e-3", "--disable_tqdm", "true", "--resume_from_checkpoint", "auto",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["temporal", "spatial"])
def test_a_small_teacher_trains_resumes_and_teaches(kind, tmp_path, clip):
    if kind == "temporal":
        rng = np.random.default_rng(0)
        for index in range(4):
            write_video(tmp_path / f"{index}.mp4", rng.integers(0, 255, (4, 32, 32, 3), np.uint8), 8.0)
        arguments = ["--videos", f"{tmp_path}/*.mp4", "--frames", "4", "--side", "32", "--patch", "8"]
        main, medium = teacher_temporal.main, clip
    else:
        for index in range(4):
            pan(3 + index).save(tmp_path / f"{index}")
        arguments = ["--scenes", f"{tmp_path}/[0-9]", "--views", "2", "--side", "32", "--patch", "8"]
        main, medium = teacher_spatial.main, tmp_path / "0"
    arguments += ["--width", "48", "--layers", "2", *COMMON]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments += ["--max_steps", "5"]
    main([*arguments, "--output_dir", str(whole)])
    shutil.copytree(whole / "checkpoint-3", cut / "checkpoint-3")  # what a run killed after it leaves
    main([*arguments, "--output_dir", str(cut)])
    one, other = load_teacher(str(whole)), load_teacher(str(cut))
    assert one.fingerprint == other.fingerprint and torch.equal(one(medium), other(medium))
    logs = json.loads((whole / "trainer_state.json").read_text())["log_history"]
    assert {"temporal": "spread", "spatial": "depth_error"}[kind] in logs[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "none/*.mp4", "--output_dir", "x"], "videos: none/.* names nothing"),
        (["--videos", "a", "--frames", "5", "--output_dir", "x"], "frames=5: expected an even number"),
        (["--videos", "a", "--side", "33", "--output_dir", "x"], "side=33: expected a multiple of patch=10"),
        (["--videos", "a", "--momentum", "1.0", "--output_dir", "x"], "momentum=1.0: expected a number between"),
    ],
)
def test_impossible_settings_of_a_small_teacher_are_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        teacher_temporal.main(arguments)
