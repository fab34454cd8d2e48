# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The real command, replayed."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    TrainingArguments,
)
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
from trl import SFTConfig, TrlParser

from polyv import PolyVForConditionalGeneration, PolyVProcessor
from polyv.evaluation.study import Study
from polyv.recipes.caption import CaptionArguments
from polyv.recipes.instruct import InstructArguments
from polyv.recipes.nano import SCENES
from polyv.recipes.pretrain import main
from polyv.recipes.stage import DataArguments, ModelArguments
from polyv.recipes.synergy import SynergyArguments
from polyv.recipes.teacher_spatial import SpatialArguments
from polyv.recipes.teacher_temporal import TemporalArguments
from polyv.recipes.vision import VisionArguments


ALL = sorted((Path(__file__).parents[2] / "recipes").glob("*/*.yaml"))
STUDIES = [file for file in ALL if "\nsteps:\n" in file.read_text()]
FILES = [file for file in ALL if file not in STUDIES and file.parent.name != "accelerate"]
RECIPES = [file for file in FILES if file.stem not in ("vision", "teacher-temporal", "teacher-spatial")]
KINDS = {
    "vision": (VisionArguments, TrainingArguments),
    "teacher-temporal": (TemporalArguments, TrainingArguments),
    "teacher-spatial": (SpatialArguments, TrainingArguments),
    "caption": (CaptionArguments, DataArguments, SFTConfig),
    "instruct": (InstructArguments, DataArguments, SFTConfig),
    "distill": (ModelArguments, DataArguments, SynergyArguments, SFTConfig),
    "align": (ModelArguments, DataArguments, SynergyArguments, SFTConfig),
    "transfer-learned": (ModelArguments, DataArguments, SynergyArguments, SFTConfig),
    "transfer-arm": (ModelArguments, DataArguments, SynergyArguments, SFTConfig),
}


@pytest.fixture(scope="module")
def config(data, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    settings = {
        "dataset": [str(data / "rows.jsonl")],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 5,
        "max_steps": 20,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "train_sampling_strategy": "group_by_length",
        "resume_from_checkpoint": "auto",
    }
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture(scope="module")
def backbone(config, start) -> Path:
    out = config.parent / "backbone"
    main(["--config", str(config), "--config_name", str(start), "--output_dir", str(out)])
    return out


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [log["loss"] for log in history if "loss" in log]


def test_trains_a_dense_backbone_from_scratch(backbone):
    curve = losses(backbone)
    assert curve[0] == pytest.approx(7.05, abs=0.2)  # about ln 1024, as nothing is known yet
    assert curve[-1] == pytest.approx(0.7, abs=0.35)
    model = AutoModelForImageTextToText.from_pretrained(backbone)
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(backbone)) is Qwen2_5_VLProcessor
    assert PolyVProcessor.from_pretrained(backbone).scenes_kwargs == SCENES
    assert (backbone / "loss.png").exists() and "from scratch" in (backbone / "README.md").read_text()


def test_upcycles_and_tunes(backbone, config):
    out = config.parent / "polyv"
    arguments = ["--model_name_or_path", str(backbone), "--upcycle", "--output_dir", str(out), "--max_steps", "2"]
    main(["--config", str(config), *arguments])
    # It starts where the backbone ended: `<synergy>` is new, the rest is not.
    assert losses(out)[0] < losses(backbone)[0] - 2
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert type(model) is PolyVForConditionalGeneration
    processor = AutoProcessor.from_pretrained(out)
    assert type(processor) is PolyVProcessor
    assert processor.add_synergy and processor.scenes_kwargs == SCENES


def test_a_finished_run_stays_finished(backbone, config, start, capsys):
    before = (backbone / "model.safetensors").read_bytes()
    main(["--config", str(config), "--config_name", str(start), "--output_dir", str(backbone)])
    said = capsys.readouterr().out
    assert "all 20 steps are done" in said and "another --output_dir" in said and "greater --max_steps" in said
    assert (backbone / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of the two"),
        (["--model_name_or_path", "a", "--config_name", "b"], "give one of the two"),
        (["--config_name", "b", "--upcycle"], "no weights to upcycle"),
        (["--config_name", "b", "--learning_speed", "1"], "learning_speed"),
    ],
)
def test_refuses_what_it_cannot_do(config, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        main(["--config", str(config), "--output_dir", str(tmp_path), *arguments])


@pytest.mark.parametrize("argument", ["model_name_or_path", "config_name"])
def test_a_folder_that_is_not_there_is_named(config, tmp_path, argument):
    with pytest.raises(FileNotFoundError, match=f"{argument}=/no/such: there is no such folder"):
        main(["--config", str(config), "--output_dir", str(tmp_path), f"--{argument}", "/no/such"])


def test_data_must_be_given():
    with pytest.raises(ValueError, match="dataset: got none"):
        DataArguments()


def test_refuses_unknown_keys_in_the_file(config, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(config.read_text() + "learning_speed: 1\n")
    with pytest.raises(ValueError, match="learning_speed"):
        main(["--config", str(file), "--config_name", "b"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_recipes_are_complete(file):
    kinds = KINDS.get(file.stem, (ModelArguments, DataArguments, SFTConfig))
    on_cpu = ["--use_cpu", "true"] if file.parent.name == "polyv-7b" else []  # where there is no GPU to parse it for
    *given, training = TrlParser(kinds).parse_args_and_config(["--config", str(file), *on_cpu])
    assert training.max_steps > 0 and training.resume_from_checkpoint == "auto"
    # Left out, both would be on, with `use_cpu` too: each recipe must say what it wants.
    assert "bf16:" in file.read_text()
    for arguments in given:
        if isinstance(arguments, DataArguments):
            assert arguments.dataset_weights is None or len(arguments.dataset_weights) == len(arguments.dataset)
        if isinstance(arguments, ModelArguments):
            assert not training.gradient_checkpointing or file.parent.name != "polyv-nano"
            assert arguments.upcycle == (file.stem in ("tune", "caption", "transfer-learned"))


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_studies_name_recipes_that_are_there_and_stages_that_follow(file, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    study = Study.read(file)
    for run in study.runs():
        if run.step.get("stage") in KINDS:
            settings = run.settings()
            assert "{" not in json.dumps([settings["dataset"], settings["model_name_or_path"]]).replace("{}", "")
            if run.needs():  # of which no checkpoint is there yet
                settings["model_name_or_path"] = "checkpoints/polyv-nano"
            *_, training = TrlParser(KINDS[run.step["stage"]]).parse_dict(settings)
            assert training.max_steps > 0
    tests = [test for run in study.runs() for test in run.tests()]
    assert tests and len({test.report for test in tests}) == len(tests)
    assert not any("{" in str(test.questions) for test in tests)


@pytest.mark.parametrize("stage", ["pretrain-captions", "pretrain"])
def test_the_backbone_sees_no_label_on_space_or_time(stage):
    (file,) = (file for file in RECIPES if file.stem == stage and file.parent.name == "polyv-nano")
    names = {Path(path).name for path in yaml.safe_load(file.read_text())["dataset"]}
    assert names <= {"captions.jsonl", "general.jsonl"}


def test_each_recipe_starts_where_the_one_before_ended():
    settings = {file.stem: yaml.safe_load(file.read_text()) for file in FILES if file.parent.name == "polyv-nano"}
    start = "runs/nano-start"
    for stage in ("vision", "pretrain-captions", "pretrain", "tune"):
        assert settings[stage].get("model_name_or_path", settings[stage].get("config_name")) == start
        start = settings[stage]["output_dir"]


@pytest.mark.parametrize("upcycle", [False, True])
def test_a_frozen_encoder_stays_and_its_projection_learns(config, backbone, tmp_path, upcycle):
    arguments = ["--model_name_or_path", str(backbone), "--upcycle", str(upcycle), "--freeze_vision", "true"]
    arguments += ["--max_steps", "2", "--save_steps", "1", "--output_dir", str(tmp_path)]
    main(["--config", str(config), *arguments])
    one, two = (AutoModelForImageTextToText.from_pretrained(tmp_path / f"checkpoint-{step}") for step in (1, 2))
    assert isinstance(one, PolyVForConditionalGeneration) == upcycle
    for name, weight in one.named_parameters():
        if "visual" in name:
            assert torch.equal(weight, two.get_parameter(name)) == ("merger" not in name), name
    assert not torch.equal(one.get_input_embeddings().weight, two.get_input_embeddings().weight)
