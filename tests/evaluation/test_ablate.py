# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv ablate`: what begins when, what fails, what is interrupted, and what counts as done."""

import fcntl
import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText

from polyv import PolyVForConditionalGeneration
from polyv.cli import main
from polyv.evaluation import ablate, measurements
from polyv.evaluation.study import Study
from polyv.evaluation.widen import widen
from tests.evaluation.studies import SETTINGS, put
from tests.recipes.conftest import *  # noqa: F403


@pytest.fixture(scope="module")
def dense(start, data, tmp_path_factory):
    """A PolyV without experts."""
    from polyv.recipes import pretrain

    folder = tmp_path_factory.mktemp("study")
    arguments = ["--dataset", str(data / "rows.jsonl"), "--max_steps", "1", "--use_cpu", "--bf16", "false"]
    arguments += ["--gradient_checkpointing", "false", "--report_to", "none", "--save_strategy", "no"]
    pretrain.main([*arguments, "--config_name", str(start), "--output_dir", str(folder / "qwen")])
    from polyv.processing.processing_polyv import PolyVProcessor

    model = PolyVForConditionalGeneration.from_pretrained(folder / "qwen", num_experts=0)
    model.save_pretrained(folder / "dense")
    PolyVProcessor.from_pretrained(folder / "qwen").save_pretrained(folder / "dense")
    return folder / "dense"


def test_a_wider_model_computes_the_same_and_costs_what_two_experts_do(dense, tmp_path):
    widen(dense, tmp_path / "wide")
    narrow, wide = (AutoModelForImageTextToText.from_pretrained(each).eval() for each in (dense, tmp_path / "wide"))
    ids = torch.randint(5, 100, (2, 12))
    with torch.no_grad():
        assert torch.allclose(narrow(input_ids=ids).logits, wide(input_ids=ids).logits, atol=1e-5)
    config = wide.config.text_config
    assert config.moe_intermediate_size == 2 * config.intermediate_size and config.moe_layers == [3, 7]
    wide(input_ids=ids, labels=ids).loss.backward()
    down = wide.model.language_model.layers[3].mlp.experts.down_proj
    assert down.grad[..., config.intermediate_size :].abs().sum() > 0  # what is new learns
    with pytest.raises(ValueError, match="expected a PolyV without experts"):
        widen(tmp_path / "wide", tmp_path / "wider")


def test_a_study_that_is_stopped_ends_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(SETTINGS))
    monkeypatch.setattr(ablate, "check", lambda *_: None)
    started = []

    def start(job, config):
        started.append(subprocess.Popen(["sleep", "60"]))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[-1]

    monkeypatch.setattr(ablate, "_start", start)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["ablate", "--config", "study.yaml"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143 and [process.poll() for process in started] == [-signal.SIGTERM]


class Ended:
    """A process that has done a run, or has failed to."""

    def __init__(self, returncode: int = 0):
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Runs of two chains, a–b–c and d, none of which is done; and a log of what was started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablate, "_POLL", 0)
    monkeypatch.setattr(ablate, "check", lambda *_: None)
    Path("recipe.yaml").write_text("max_steps: 1")
    names = {"a": "start", "b": "a", "c": "b", "d": "start"}
    steps = [{"name": n, "stage": "align", "from": m, "config": "recipe.yaml", "arm": True} for n, m in names.items()]
    settings = {
        "out": "runs",
        "results": "results.json",
        "test": {"questions": "q.jsonl"},
        "steps": steps,
        "workers": 2,
    }
    Path("study.yaml").write_text(yaml.safe_dump(settings))
    return []


def test_runs_begin_when_what_they_need_is_there_and_in_order(chain, monkeypatch, capsys):
    def start(job, config):
        assert all((need.folder / "trainer_state.json").is_file() for need in job.needs())
        chain.append(job.step["name"])
        job.folder.mkdir(parents=True)
        (job.folder / "trainer_state.json").touch()
        for test in job.tests():
            put(job, test, 0.5)
        return Ended()

    monkeypatch.setattr(ablate, "_start", start)
    monkeypatch.setattr(measurements, "_flops", lambda folder: None)
    ablate.run("study.yaml", hours=0.0)
    assert chain == ["a", "d", "b", "c"]
    ablate.run("study.yaml")
    assert len(chain) == 4 and "are left" not in capsys.readouterr().out


def test_what_fails_keeps_back_only_what_builds_upon_it(chain, monkeypatch):
    monkeypatch.setattr(ablate, "_start", lambda job, config: chain.append(job.step["name"]) or Ended(1))
    with pytest.raises(ValueError, match=r"2 runs failed: .*Not begun, as they build upon these: seed-0/b, seed-0/c"):
        ablate.run("study.yaml")
    assert chain == ["a", "d"]


def test_no_run_begins_when_the_time_is_up(chain, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "_start", lambda *_: pytest.fail("it began"))
    ablate.run("study.yaml", hours=1e-12)
    assert "4 runs are left, as the time is up" in capsys.readouterr().out


def test_a_folder_that_no_study_made_is_not_taken_for_a_run(chain):
    Path("runs/seed-0/a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"seed-0/a: it was made by no study: runs/seed-0/a.recipe is missing"):
        ablate.run("study.yaml")


def test_a_checkpoint_to_start_from_is_not_what_is_to_be_deleted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("start").mkdir()
    run = Study(**SETTINGS).runs()[8]
    put(run, run.tests()[0], 0.5)
    run.beside("recipe").write_text("of another start")
    with pytest.raises(ValueError, match="delete what was made") as error:
        measurements.is_as_the_study_says(run)
    assert str(error.value).endswith("rm -r runs/video/seed-0/untuned.*")


def test_interrupted_training_counts(chain, monkeypatch):
    job = Study.read("study.yaml").runs()[0]
    moments = iter((0.0, 5.0, 100.0, 107.0))
    monkeypatch.setattr(ablate.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(ablate, "_train", lambda job: (_ for _ in ()).throw(SystemExit(143)))
    job.beside("log").parent.mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(SystemExit):
            ablate._work_on(job.study, job)
    assert job.beside("seconds").read_text() == "12.0\n"


def test_settings_that_change_weights_change_the_recipe(chain):
    run = Study.read("study.yaml").runs()[0]
    before = run.recipe()
    for field, value in {
        "learning_rate": 1e-3,
        "dataset": ["x"],
        "coarse_weight": 0,
        "seed": 1,
        "max_steps": 2,
    }.items():
        Path("recipe.yaml").write_text(json.dumps({"max_steps": 1, field: value}))
        assert (run.recipe() == before) == (field == "seed"), field  # the study's own seed counts
    Path("recipe.yaml").write_text(json.dumps({"max_steps": 1, "save_steps": 3}))
    assert run.recipe() == before


def test_a_run_waits_for_who_works_on_it_already(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study, worked = Study(**SETTINGS), threading.Event()
    job = study.runs()[0]
    monkeypatch.setattr(ablate, "_work_on", lambda study, job: worked.set())
    job.folder.parent.mkdir(parents=True)
    with job.beside("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=ablate.work_on, args=(study, job.name))
        thread.start()
        assert not worked.wait(0.3)
    thread.join(5)
    assert worked.is_set()


@pytest.mark.slow
def test_a_study_runs_is_interrupted_and_goes_on(dense, data, tmp_path, monkeypatch, capsys):
    """The real command, its runs in processes of their own; a failing run is named, and mended, done."""
    monkeypatch.chdir(tmp_path)
    recipe = {
        "dataset": [str(data / "rows.jsonl")], "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "per_device_train_batch_size": 5, "max_steps": 2, "report_to": "none", "resume_from_checkpoint": "auto",
        "learning_rate": 1e-3,
    }  # fmt: skip
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    image = {"type": "image", "image": "a.png"}
    rows = [
        {
            "id": str(n), "suite": "general_image", "template": "exists", "question": "Is it?", "answer": "yes",
            "messages": [
                {"role": "user", "content": [image, {"type": "text", "text": "Is it?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
            ],
        }
        for n in range(3)
    ]  # fmt: skip
    (data / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = {
        "out": "runs", "results": "results.json", "test": {"questions": str(data / "questions.jsonl")}, "workers": 2,
        "steps": [
            {"name": "merged", "stage": "merge", "from": str(dense), "set": {"image": str(dense)}},
            {"name": "wide", "stage": "wide", "from": str(dense)},
            {"name": "full", "stage": "align", "from": "merged", "config": "recipe.yaml", "arm": True},
            {"name": "bad", "stage": "align", "from": "wide", "config": "recipe.yaml", "arm": True,
             "set": {"dataset": ["bad.jsonl"]}},
        ],
    }  # fmt: skip
    Path("study.yaml").write_text(yaml.safe_dump(study))
    Path("bad.jsonl").write_text("{}\n")
    assert main(["ablate", "--config", "study.yaml"]) == 2
    assert "1 runs failed: seed-0/bad, see runs/seed-0/bad.log" in capsys.readouterr().err
    assert "bad.jsonl, row 1" in Path("runs/seed-0/bad.log").read_text()
    study["steps"][3]["set"] = {}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    written = Path("runs/seed-0/full.results.report.json").stat().st_mtime_ns
    assert main(["ablate", "--config", "study.yaml"]) == 0
    assert Path("runs/seed-0/full.results.report.json").stat().st_mtime_ns == written
    results = json.loads(Path("results.json").read_text())["results"]
    assert {row["arm"] for row in results} == {"full", "bad"} and {row["n"] for row in results} == {3}
    (answers,) = Path("runs/seed-0").glob("full.results.answers.jsonl")
    assert len(answers.read_text().splitlines()) == 3
    assert AutoConfig.from_pretrained("runs/seed-0/full").text_config.num_experts == 2
    assert ablate.run("study.yaml", hours=0.0)["results"] == results
