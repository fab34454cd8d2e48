# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What `<synergy>` learns from: batches with targets, and the loss on them."""

import inspect
import json
import shutil
import statistics

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import SFTConfig

from polyv import PolyVForConditionalGeneration
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import IGNORED
from polyv.recipes.data import read_rows
from polyv.recipes.rows import RowError, read_content
from polyv.recipes.synergy import (
    DRAW,
    Contents,
    Drawing,
    SynergyArguments,
    SynergyCollator,
    SynergyTrainer,
    fit_heads,
    head_size,
)
from polyv.recipes.targets import Targets, build_cache
from tests.recipes.conftest import turn


class Fixed:
    """Features of a content that differ with its hash."""

    name = fingerprint = "fixed"

    def __init__(self, modality: str, size: int):
        self.modality, self.size = modality, size

    def __call__(self, medium):
        generator = torch.Generator().manual_seed(len(str(medium)) + self.size)
        return torch.randn(2, 2, 2, self.size, generator=generator)


@pytest.fixture(scope="module")
def contents(data, tmp_path_factory):
    """Rows with every combination of modalities, with messages and without."""
    folder = tmp_path_factory.mktemp("contents")
    shutil.copytree(data, folder, dirs_exist_ok=True)
    shutil.copytree(folder / "scene", folder / "room")
    with open(min((folder / "room" / "pose").iterdir()), "a") as file:
        file.write("\n")  # another content
    shutil.copy(folder / "clip.mp4", folder / "other.mp4")
    with open(folder / "other.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")  # another content
    answer = turn("assistant", "two")
    rows = [
        {"content": {"image": ["a.png", "b.png"], "video": "clip.mp4", "scene": "scene"}, "prompts": ["How many?"]},
        {"content": {"image": "a.png", "video": "other.mp4"}},
        {"content": {"image": "b.png", "scene": "room"}},
        {"messages": [turn("user", "How many?", image="a.png"), answer], "content": {"video": "clip.mp4"}},
        {"messages": [turn("user", "How many?", video="other.mp4"), answer]},
        {"messages": [turn("user", "How many?", scene="scene"), answer, turn("user", "How many?"), answer]},
        {"messages": [turn("user", "How many?"), answer]},
    ]
    (folder / "contents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def targets(contents):
    made = {}
    for head, modality, size in (("temporal", "video", 5), ("spatial", "scene", 3)):
        media = Contents([str(contents / "contents.jsonl")], modality)
        made[head] = Targets(build_cache(Fixed(modality, size), media, contents / head))
    return made


@pytest.fixture
def polyv(start, processor):
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    dense = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(start))
    dense.save_pretrained(start / "dense")
    processor.save_pretrained(start / "dense")
    return PolyVForConditionalGeneration.from_pretrained(start / "dense", dtype=torch.float32)


@pytest.fixture
def collator(processor, polyv, targets):
    return SynergyCollator(processor, inspect.signature(polyv.forward).parameters, targets)


@pytest.fixture
def rows(contents):
    return read_rows(contents / "contents.jsonl")


def make_trainer(polyv, collator, rows, folder, weight=1.0, **settings) -> SynergyTrainer:
    fit_heads(polyv, collator.targets)
    settings = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", **settings}
    args = SFTConfig(str(folder), use_cpu=True, disable_tqdm=True, logging_steps=1, **settings)
    return SynergyTrainer(
        polyv,
        args,
        train_dataset=rows,
        data_collator=collator,
        processing_class=collator.processor,
        datasets=["contents.jsonl"],
        coarse_weight=weight,
    )


def test_targets_stand_beside_the_rows_whose_content_has_them(collator, rows, contents, targets):
    batch = collator([rows[index] for index in range(7)])
    known = {head: ~batch[f"{head}_targets"][:, 0, 0].isnan() for head in targets}
    assert known["temporal"].tolist() == [True, True, False, True, True, False, False]
    assert known["spatial"].tolist() == [True, False, True, False, False, True, False]
    assert batch["temporal_targets"].shape == (7, 1, 5) and batch["spatial_targets"].shape == (7, 1, 3)
    clip = targets["temporal"](contents / "clip.mp4")
    assert torch.equal(batch["temporal_targets"][0], clip) and torch.equal(batch["temporal_targets"][3], clip)


def test_a_content_alone_is_shown_in_one_modality_and_answers_nothing(collator, rows):
    kinds = set()
    for seed in range(40):
        row = {**rows[0], "source": str(seed)}
        batch = collator([row])
        assert (batch["labels"] == IGNORED).all()
        assert (batch["input_ids"] == collator.processor.synergy_token_id).sum() == 1
        if "pixel_values_videos" in batch:
            kinds.add("video")
        else:
            kinds.add("scene" if "image_coords" in batch else "image")
    assert kinds == {"image", "video", "scene"}


def test_the_student_sees_only_what_it_may(processor, polyv, targets, rows):
    accepts = inspect.signature(polyv.forward).parameters
    collator = SynergyCollator(processor, accepts, targets, modalities=["image"])
    for seed in range(10):
        assert "pixel_values_videos" not in collator([{**rows[0], "source": str(seed)}])
    only_video = SynergyCollator(processor, accepts, targets, modalities=["video"])
    with pytest.raises(
        RowError, match="row 3: its content holds image, scene, and the student is to see one of video"
    ):
        only_video([rows[2]])


def test_what_is_drawn_follows_from_the_rows(collator, rows):
    batch = [rows[0], rows[1], rows[2]]
    first, second = collator(batch), collator(batch)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=0, equal_nan=True)


def test_one_row_a_batch_is_shown_otherwise_in_other_epochs(collator, polyv, rows, tmp_path):
    """Batches of one row are those of large models; resumed runs draw by the same epoch and place."""
    one = rows.select([0])
    seen = []
    real = collator.ask
    collator.ask = lambda row, content: seen.append((row[DRAW], real(row, content))) or seen[-1][1]
    trainer = make_trainer(polyv, collator, one, tmp_path, num_train_epochs=8, seed=3, per_device_train_batch_size=1)
    trainer.train()
    assert [draw for draw, _ in seen] == [f"3 {epoch} 0" for epoch in range(8)]
    assert {messages[0]["content"][0]["type"] for _, messages in seen} == {"image", "video", "scene"}
    for worker in (0, 2):
        loader = DataLoader(Drawing(one, 0), num_workers=worker, collate_fn=list, persistent_workers=worker > 0)
        drawn = []
        for epoch in range(2):
            loader.dataset.set_epoch(epoch)
            drawn += [row[DRAW] for batch in loader for row in batch]
        assert drawn == ["0 0 0", "0 1 0"]


class Stop(TrainerCallback):
    """As a kill would."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_killed_in_a_later_epoch_a_run_is_shown_what_it_would_have_been(collator, polyv, rows, tmp_path, strategy):
    fit_heads(polyv, collator.targets)
    begin = {name: weight.clone() for name, weight in polyv.state_dict().items()}
    draws: list[str] = []
    real = collator.ask
    collator.ask = lambda row, content: draws.append(row[DRAW]) or real(row, content)

    def run(folder: str, *callbacks: TrainerCallback) -> tuple[list[str], dict[str, torch.Tensor]]:
        polyv.load_state_dict(begin)
        settings = {"num_train_epochs": 2, "per_device_train_batch_size": 1, "save_steps": 1}
        settings |= {"train_sampling_strategy": strategy, "learning_rate": 1e-2}
        trainer = make_trainer(polyv, collator, rows.select([0] * 3), tmp_path / folder, **settings)
        for callback in callbacks:
            trainer.add_callback(callback)
        draws.clear()
        trainer.train(resume_from_checkpoint="auto")
        return [*draws], {name: weight.clone() for name, weight in polyv.state_dict().items()}

    straight, wanted = run("straight")
    assert sorted(straight) == [f"42 {epoch} {index}" for epoch in range(2) for index in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run("killed", Stop())
    resumed, got = run("killed")
    assert resumed[-2:] == straight[-2:]  # of the second epoch, after its first step
    assert all(torch.equal(weight, got[name]) for name, weight in wanted.items())


def test_a_content_alone_is_refused_where_it_would_teach_nothing(processor, polyv, rows):
    collator = SynergyCollator(processor, inspect.signature(polyv.forward).parameters, {})
    with pytest.raises(RowError, match="row 1: it has no messages, and no targets are given"):
        collator([rows[0]])


def test_rows_without_a_content_teach_by_their_own_media(rows):
    assert set(read_content(rows[4])) == {"video"} and set(read_content(rows[5])) == {"scene"}
    assert read_content(rows[6]) == {}


def test_a_content_that_the_cache_lacks_is_named_with_its_row(collator, rows, contents):
    (contents / "new.mp4").write_bytes((contents / "clip.mp4").read_bytes() + b"\0\0\0\x08skip")
    row = {**rows[1], "content": json.dumps({"image": str(contents / "a.png"), "video": str(contents / "new.mp4")})}
    with pytest.raises(RowError, match=r"row 2: video .*new.mp4: the cache .* holds no features"):
        collator([row])


def test_the_coarse_loss_is_the_mean_over_known_targets(collator, polyv, rows, tmp_path):
    """Against a computation by hand, from the model's own heads."""
    trainer = make_trainer(polyv, collator, rows, tmp_path, router_aux_loss_coef=0.0)
    polyv.eval()
    batch = collator([rows[index] for index in range(7)])
    inputs = {key: value for key, value in batch.items() if not key.endswith("_targets") and key != "labels"}
    with torch.no_grad():
        outputs = polyv(**inputs)
        plain = make_trainer(polyv, collator, rows, tmp_path, weight=0.0, router_aux_loss_coef=0.0)
        both = [t.compute_loss(polyv, dict(batch)).item() for t in (trainer, plain)]
    expected = 0.0
    for head in ("temporal", "spatial"):
        errors = []
        for foreseen, row in zip(outputs[f"synergy_{head}"], outputs.synergy_batch_index.tolist(), strict=True):
            target = batch[f"{head}_targets"][row, 0]
            if not target.isnan().any():
                errors.append((foreseen - target).square().mean().item())
        assert len(errors) == 4  # one row of the spatial ones has two turns
        expected += sum(errors) / len(errors)
    assert both[0] - both[1] == pytest.approx(expected, rel=1e-4)


def test_accumulating_gradients_changes_nothing(contents, collator, polyv, rows, tmp_path):
    """Six rows at once, or two by two: the same step, though targets and answers are spread unevenly."""
    fit_heads(polyv, collator.targets)
    start = {name: weight.clone() for name, weight in polyv.state_dict().items()}
    norms = []
    for size, steps in ((6, 1), (2, 3)):
        trainer = make_trainer(
            polyv, collator, rows.select([3, 4, 5, 6, 5, 4]), tmp_path / str(size), max_steps=1, learning_rate=1e-3,
            per_device_train_batch_size=size, gradient_accumulation_steps=steps, router_aux_loss_coef=0.0,
            train_sampling_strategy="sequential", save_strategy="no",
        )  # fmt: skip
        polyv.load_state_dict(start)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_distillation_alone_learns_and_has_no_answers(collator, polyv, rows, tmp_path):
    # What the student is shown is drawn by the rows' names, which hold the path that this test happens to run at.
    named = rows.select([0, 1, 2]).map(lambda row, index: {"source": f"row {index}"}, with_indices=True)
    trainer = make_trainer(
        polyv, collator, named, tmp_path, max_steps=30, learning_rate=3e-3,
        per_device_train_batch_size=3, lr_scheduler_type="constant", save_strategy="no",
    )  # fmt: skip
    trainer.train()
    logs = [log for log in trainer.state.log_history if "temporal_loss" in log]
    assert "mean_token_accuracy" not in logs[0]
    for name in ("temporal_loss", "spatial_loss"):  # a medium that was rarely drawn may still surprise in one step
        assert statistics.median([log[name] for log in logs[-9:]]) < 0.3 * logs[0][name]


def test_a_batch_without_targets_keeps_a_gradient_for_the_heads(collator, polyv, rows, tmp_path):
    """Else processes that train together would wait for it for ever."""
    trainer = make_trainer(polyv, collator, rows, tmp_path)
    trainer.compute_loss(polyv, collator([rows[6]])).backward()
    for head in (polyv.temporal_head, polyv.spatial_head):
        assert all(weight.grad is not None and not weight.grad.any() for weight in head.parameters())


def test_heads_take_their_teachers_sizes(polyv, targets):
    fit_heads(polyv, {"temporal": targets["temporal"]})
    assert polyv.config.temporal_teacher_size == 5 and polyv.temporal_head[-1].out_features == 5
    assert all(weight.requires_grad for weight in polyv.temporal_head.parameters())
    assert not any(weight.requires_grad for weight in polyv.spatial_head.parameters())
    trained = polyv.temporal_head
    fit_heads(polyv, targets)
    assert polyv.temporal_head is trained and polyv.config.spatial_teacher_size == 3


def test_regions_are_foreseen_by_one_token_or_by_one_each(polyv, contents, rows, processor, tmp_path):
    media = Contents([str(contents / "contents.jsonl")], "video")
    regions = Targets(build_cache(Fixed("video", 5), media, tmp_path / "regions", (2, 1, 1)))
    collator = SynergyCollator(processor, inspect.signature(polyv.forward).parameters, {"temporal": regions})
    trainer = make_trainer(polyv, collator, rows, tmp_path / "one")
    assert polyv.temporal_head[-1].out_features == 10
    batch = collator([rows[0], rows[6]])
    foreseen = torch.zeros(2, 10)
    error, known = trainer.errors(foreseen, torch.tensor([0, 1]), batch["temporal_targets"])
    assert known.tolist() == [True, False] and error[1] == 0
    assert error[0] == pytest.approx(regions(contents / "clip.mp4").square().mean().item())
    trainer.num_synergy_tokens = 2
    error, known = trainer.errors(torch.zeros(4, 5), torch.tensor([0, 0, 1, 1]), batch["temporal_targets"])
    expected = regions(contents / "clip.mp4").square().mean(-1)
    assert error[:2].tolist() == pytest.approx(expected.tolist()) and not known[2:].any()
    trainer.num_synergy_tokens = 3  # the last of a turn is the answer's own
    error, known = trainer.errors(torch.zeros(6, 5), torch.tensor([0, 0, 0, 1, 1, 1]), batch["temporal_targets"])
    assert error[:2].tolist() == pytest.approx(expected.tolist()) and known.tolist() == [True, True, *[False] * 4]
    trainer.num_synergy_tokens = 1
    with pytest.raises(ValueError, match=r"num_synergy_tokens=2: .* holds 4 regions; expected a token for each"):
        head_size(Targets(build_cache(Fixed("video", 5), media, tmp_path / "four", (2, 2, 1))), 2)


def test_tokens_without_a_target_do_not_count_in_the_mean(polyv, contents, rows, targets, processor, tmp_path):
    """The loss of a turn's one target is the same, whether or not another token stands beside it."""
    sums = []
    for count in (1, 2):
        processor.num_synergy_tokens = polyv.config.num_synergy_tokens = count
        collator = SynergyCollator(
            processor, inspect.signature(polyv.forward).parameters, {"temporal": targets["temporal"]}
        )
        trainer = make_trainer(polyv, collator, rows, tmp_path / str(count))
        batch = collator([rows[0], rows[0]])
        assert (batch["input_ids"] == polyv.config.synergy_token_id).sum() == 2 * count
        trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        sums.append(trainer.num_targets["temporal"].item())
    assert sums == [2, 2]


def test_what_would_end_a_training_is_told_before_it(collator, rows, contents, processor, targets, tmp_path):
    collator.check(rows)
    only_scenes = SynergyCollator(processor, collator.accepts, targets, modalities=["scene"])
    with pytest.raises(
        RowError, match=r"row \d+: its content holds image, video, and the student is to see one of scene"
    ):
        only_scenes.check(rows)
    with pytest.raises(ValueError, match=r"temporal_targets=.*: none of the 1 rows shows or names one video"):
        collator.check(rows.select([6]))
    partial = Targets(build_cache(Fixed("video", 5), [contents / "clip.mp4"], tmp_path / "partial"))
    with pytest.raises(RowError, match=r"row \d+: video .*other\.mp4: the cache .* holds no features of it"):
        SynergyCollator(processor, collator.accepts, {"temporal": partial}).check(rows)


def test_a_cache_of_the_other_kind_is_refused(targets):
    with pytest.raises(
        ValueError, match=r"spatial_targets=.*: it holds features of videos by fixed, expected .* scenes"
    ):
        SynergyArguments(spatial_targets=str(targets["temporal"].folder)).load()
    with pytest.raises(ValueError, match="student_sees"):
        SynergyArguments(student_sees=["audio"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "'content' is {}, expected some of image, video, scene"),
        ({"audio": "a.wav"}, "'content' is .*audio.*expected some of"),
        ({"video": ["clip.mp4"]}, "'content' has video .*expected a path$|expected a path\\."),
        ({"image": []}, r"'content' has image \[\], expected a path or several"),
        ({"video": "none.mp4"}, "video .*none.mp4: no such file"),
    ],
)
def test_a_bad_content_is_named_with_its_row(contents, content, message):
    file = contents / "bad.jsonl"
    file.write_text(json.dumps({"content": {"video": "clip.mp4"}}) + "\n" + json.dumps({"content": content}) + "\n")
    with pytest.raises(RowError, match=f"(?s)row 2: .*({message})"):
        read_rows(file)


def test_a_content_without_messages_is_for_distillation_only(processor, polyv, rows):
    from polyv.recipes.collator import ConversationCollator

    collator = ConversationCollator(processor, inspect.signature(polyv.forward).parameters)
    with pytest.raises(RowError, match=r"row 1: it names a content, and has no messages; only `polyv train distill`"):
        collator([rows[0]])


def test_the_processor_of_a_checkpoint_reads_what_was_trained(collator, polyv, rows, tmp_path):
    trainer = make_trainer(
        polyv, collator, rows, tmp_path / "out", max_steps=1, per_device_train_batch_size=7, save_strategy="no"
    )
    trainer.train()
    trainer.save_model()
    again = PolyVForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert again.config.temporal_teacher_size == 5
    assert torch.equal(again.temporal_head[0].weight, polyv.temporal_head[0].weight)
    assert PolyVProcessor.from_pretrained(tmp_path / "out").synergy_token_id == again.config.synergy_token_id
