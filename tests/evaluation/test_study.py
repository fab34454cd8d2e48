# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Studies: what runs before what, what is done, and what stands in the table."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText
from trl import SFTConfig

from polyv import PolyVConfig, PolyVForConditionalGeneration
from polyv.cli import main
from polyv.evaluation import ablate, measurements
from polyv.evaluation.results import above_prior, to_markdown, write_results
from polyv.evaluation.study import STAGES, Run, Study, Test
from polyv.evaluation.widen import widen
from polyv.recipes.instruct import InstructArguments
from polyv.recipes.stage import DataArguments
from polyv.recipes.synergy import SynergyArguments
from tests.recipes.conftest import *  # noqa: F403


SETTINGS = {
    "out": "runs",
    "results": "results.json",
    "test": {"questions": "{labelled}-{tested}.jsonl", "tested": ["image", "{labelled}"]},
    "seeds": [0, 1],
    "cases": [{"labelled": "video"}, {"labelled": "scene"}],
    "steps": [
        {"name": "base", "stage": "caption", "from": "start", "config": "recipe.yaml"},
        {"name": "swapped", "stage": "control", "set": {"control": "blind", "dataset": "{labelled}.jsonl"}},
        {"name": "untuned", "from": "start", "arm": True},
        {
            "name": "full", "stage": "align", "from": "base", "config": "recipe.yaml", "arm": True, "seeds": [1],
            "set": {"dataset": ["{swapped}"], "max_steps": 7, "{labelled}_field": 1}, "cases": {"labelled": "video"},
        },
    ],
}  # fmt: skip


def test_runs_come_in_order_and_know_what_they_need(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump({"max_steps": 100, "dataset": ["x"], "learning_rate": 0.1}))
    study = Study(**SETTINGS)
    names = [run.name for run in study.runs()]
    assert names[:4] == [f"{case}/seed-{seed}/base" for case in ("video", "scene") for seed in (0, 1)]
    assert len(names) == 4 + 4 + 4 + 1
    full = study.runs()[-1]
    assert full.name == "video/seed-1/full" and [test.fields for test in full.tests()] == [
        {"tested": "image"},
        {"tested": "video"},
    ]
    assert full.tests()[1].questions == Path("video-video.jsonl")
    assert full.tests()[1].report == Path("runs/video/seed-1/full.results.video.report.json")
    assert [need.name for need in full.needs()] == ["video/seed-1/base", "video/seed-1/swapped"]
    assert full.settings() == {
        "max_steps": 7,
        "video_field": 1,
        "dataset": ["runs/video/seed-1/swapped.jsonl"],
        "learning_rate": 0.1,
        "model_name_or_path": "runs/video/seed-1/base",
        "output_dir": "runs/video/seed-1/full",
        "seed": 1,
    }
    shared = Study(**{**SETTINGS, "common": {"dataset": ["{swapped}"]}}).runs()
    assert [need.name for need in shared[0].needs()] == ["video/seed-0/swapped"] and shared[4].needs() == []
    assert not full.is_done() and study.runs()[8].is_done() and study.runs()[8].folder == Path("start")


def test_two_studies_share_checkpoints_and_measure_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("max_steps: 1")
    search, final = (Study(**{**SETTINGS, "results": f"{name}.json"}) for name in ("search", "final"))
    for ours, theirs in zip(search.runs(), final.runs(), strict=True):
        assert ours.folder == theirs.folder and ours.recipe() == theirs.recipe()
        measured = [test.report for test in ours.tests()], [test.report for test in theirs.tests()]
        assert not set(measured[0]) & set(measured[1]) and len(measured[0]) == len(measured[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": []}, "at least 1 of each"),
        ({"steps": [{"name": "a", "stage": "bake"}]}, "a has stage bake; expected one of pretrain"),
        ({"steps": [{"name": "a"}, {"name": "a"}]}, "expected a name of its own"),
        ({"steps": [{"name": "a", "form": "b"}]}, r"unknown: \['form'\]"),
        ({"test": {"world": "w"}}, r"test: got \['world'\], expected"),
        ({"cases": [{"full": "video"}]}, "full is the name of a field as well"),
        ({"seeds": 3}, r"seeds: expected a list of numbers, none twice, got 3"),
        ({"seeds": [0, 0]}, "seeds: expected a list of numbers, none twice"),
        ({"cases": ["video"]}, r"cases: expected a list of cases, each with text fields, none twice, got \['video'\]"),
        ({"cases": [{"labelled": 1}]}, "cases: expected"),
        ({"hours": "two"}, "hours: expected a number, got 'two'"),
        ({"steps": ["base"]}, "steps: expected a list of steps, each with a name"),
        ({"test": {"world": "w", "seed": 0, "n": 4}}, "cases: a study whose `test` is a world has none"),
        ({"steps": [{"name": "a", "stage": "align", "from": "a"}]}, "steps: a needs a: none of them can be first"),
        (
            {"steps": [{"name": n, "stage": "align", "from": m} for n, m in ("ab", "bc", "ca")]},
            r"steps: (a needs b needs c needs a|b needs c needs a needs b|c needs a needs b needs c): none",
        ),
        ({"against": ["untuned", "base"]}, "against: base is no arm; expected names of steps with `arm: true`"),
    ],
)
def test_what_is_no_study_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Study(**{**SETTINGS, **change})
    (tmp_path / "odd.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="it describes no study"):
        Study.read(tmp_path / "odd.yaml")
    (tmp_path / "odd.yaml").write_text("out: runs\nworker: 1\n")
    with pytest.raises(ValueError, match=r"unknown: \['worker'\]; missing: \['steps', 'test', 'results'\]; .*workers"):
        Study.read(tmp_path / "odd.yaml")
    (tmp_path / "odd.yaml").write_text("out: [\n")
    with pytest.raises(ValueError, match=r"it is not YAML: .*line"):
        Study.read(tmp_path / "odd.yaml")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"from": "bases"}, "steps: full: from is bases, which is neither a step nor a folder"),
        ({"from": None}, "steps: full: from is None; expected another step"),
        ({"config": "none.yaml"}, "steps: full: config=none.yaml: there is no such file"),
        ({"config": None}, "steps: full: config=None"),
        ({"set": {"max_step": 7}}, "steps: full: max_step: align has no such field"),
        ({"set": {"dataset": ["{swaped}"]}}, r"steps: full: {swaped} names no step, and no field of its case"),
        ({"cases": {"labeled": "video"}}, "steps: full is of no seed or no case of the study"),
        ({"seeds": []}, r"steps: full is of no seed or no case of the study: {'seeds': \[\]"),
        ({"arm": False}, "none has `arm: true`"),
        ({"stage": "control", "set": {"control": "blinded"}}, r"expected control \(one of shuffled, strangers, blind"),
        ({}, "test: questions=video-image.jsonl: there is no such file; steps: full"),
    ],
)
def test_what_would_stop_a_study_later_stops_it_at_once(step, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("max_steps: 1")
    Path("start").mkdir()
    base, swapped, _, full = SETTINGS["steps"]
    change = {"set": {"dataset": ["{swapped}"]}, **step}
    settings = {**SETTINGS, "cases": [{"labelled": "video"}], "steps": [base, swapped, {**full, **change}]}
    Path("study.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(ablate, "_start", lambda *_: pytest.fail("it began"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ablate.run("study.yaml")
    for workers in (0, -1):
        with pytest.raises(ValueError, match=rf"workers={workers}: expected 1 or more"):
            ablate.run("study.yaml", workers=workers)


@pytest.mark.parametrize("name", ["transfer-search", "transfer", "labels", "ablation-search", "ablation"])
def test_the_studies_of_the_recipes_are_whole(name, monkeypatch):
    """No name is left open, no field unknown to its stage, and no two runs are the same."""
    monkeypatch.chdir(Path(__file__).parents[2])
    study = Study.read(f"recipes/polyv-nano/{name}.yaml")
    arms = [run for run in study.runs() if run.tests()]
    arms = [run for run in arms if run.step.get("stage")]  # untuned is one whatever the seed
    assert len({run.recipe() for run in arms}) == len(arms)
    kinds = (InstructArguments, DataArguments, SynergyArguments, SFTConfig)
    known = {each.name for kind in kinds for each in fields(kind)}
    for run in study.runs():
        if run.step.get("stage") in STAGES:
            settings = run.settings()
            assert settings.keys() <= known
            assert not re.search(r"{[\w-]+}", json.dumps(settings))


@pytest.mark.parametrize(("name", "arms"), [("transfer", 2), ("transfer-search", 1), ("ablation", 1)])
def test_the_teachers_of_controls_are_no_rows_own(name, arms, monkeypatch):
    """Of no part of what they train on: general rows name their contents, too."""
    monkeypatch.chdir(Path(__file__).parents[2])
    study = Study.read(f"recipes/polyv-nano/{name}.yaml")
    swapped = {str(run.folder) for run in study.runs() if run.step.get("stage") == "control"}
    taught = [
        run
        for run in study.runs()
        if run.step.get("stage") == "distill" and re.search("shuffled|strangers", run.step["name"])
    ]
    assert len({run.step["name"] for run in taught}) == arms
    assert all(set(run.settings()["dataset"]) <= swapped for run in taught)


def report(accuracy: float) -> str:
    suites = {name: {"accuracy": accuracy, "prior": 0.5, "n": 4} for name in ("one", "two")}
    return json.dumps({"suites": suites, "templates": {f"{name}/x": scores for name, scores in suites.items()}})


def put(run: Run, test: Test, accuracy: float) -> None:
    """As if an arm had been measured: two scenes, of two questions and of one, the first of them answered rightly."""
    test.report.parent.mkdir(parents=True, exist_ok=True)
    test.report.write_text(report(accuracy))
    run.beside("recipe").write_text(run.recipe())
    rows = [{"id": f"s-{n}", "scene_id": f"s{n // 2}", "question": "Is it?", "answer": "yes"} for n in range(3)]
    given = [{**row, "given": "Yes." if n == 0 else "no"} for n, row in enumerate(rows)]
    test.answers.write_text("".join(json.dumps(row) + "\n" for row in given))


TEXT = {
    "hidden_size": 8, "intermediate_size": 16, "moe_intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 32,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2,
}  # fmt: skip


def test_the_table_has_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("max_steps: 1")
    world = {**SETTINGS, "cases": [{}], "test": {"world": "w", "seed": 0, "n": 4}}
    world["steps"] = [
        {"name": "base", "stage": "caption", "from": "start", "config": "recipe.yaml"},
        {"name": "arm", "stage": "align", "from": "base", "config": "recipe.yaml", "arm": True},
    ]
    study = Study(**world)
    for run, accuracy in zip(study.runs()[2:], (0.6, 0.8), strict=True):
        (test,) = run.tests()
        put(run, test, accuracy)
        (test.report.parent / "base.seconds").write_text("60\n")
        run.beside("seconds").write_text("30\n")
        PolyVConfig(text_config=TEXT, synergy_token_id=None).save_pretrained(run.folder)
    results = write_results(study, "polyv ablate --config x")
    assert results["arms"] == {"arm": {"0": {"one": 0.6, "two": 0.6}, "1": {"one": 0.8, "two": 0.8}}}
    assert results["seconds"]["arm"] == {"0": 90.0, "1": 90.0} and results["n"] == {"one": 4, "two": 4}
    assert json.loads(Path("results.json").read_text()) == results
    # 256 tokens of two layers of width 8: attention's four matrices, the positions attended to, and three matrices of
    # inner width 16, twice with a router of 4 rows in the second; one row of logits.
    flops = 2 * (2 * 4 * 64 + 4 * 128.5 * 8) + 2 * 3 * 8 * 16 + 2 * (2 * 3 * 8 * 16 + 8 * 4) + 2 * 8 * 32 / 256
    assert results["flops"] == {"arm": pytest.approx(flops)}
    assert "| arm | 2 | 0.700 ± 0.141 | 0.400 ± 0.283 | 0.01 | 2 | 0.70 | 0.70 |" in Path("results.md").read_text()
    assert Path("results.png").stat().st_size > 5000
    assert above_prior(0.75, 0.5) == 0.5


def test_the_table_of_a_transfer_names_both_modalities(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study(**SETTINGS)
    untuned = study.runs()[8]
    put(untuned, untuned.tests()[0], 0.5)
    results = write_results(study, "x")
    row = {"labelled": "video", "tested": "image", "arm": "untuned", "seed": 0, "suite": "one"}
    assert results["results"][0] == {**row, "accuracy": 0.5, "n": 4, "prior": 0.5}
    assert results["templates"][0] == {**row, "template": "x", "accuracy": 0.5, "n": 4, "prior": 0.5}
    assert [len(results[name]) for name in ("results", "templates")] == [2, 2]
    assert "| video | image | all of one | 4 | 0.50 | 0.500 |" in to_markdown(results)


def test_the_table_compares_arms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = [{"name": name, "from": "start", "arm": True} for name in ("one", "other")]
    study = Study(**{**SETTINGS, "steps": steps, "against": ["one"]})
    for run in study.runs():
        put(run, run.tests()[0], 0.5)
    (row, _) = write_results(study, "x")["compared"]
    assert (row["labelled"], row["tested"], row["arm"], row["base"], row["seeds"]) == (
        "video",
        "image",
        "other",
        "one",
        2,
    )
    line = "| video | image | other | one | 2 | +0.000 | +0.000 to +0.000 | 0.000 | 0 | 0 |"
    assert line in Path("results.md").read_text()


def test_a_study_goes_on_from_what_is_kept(tmp_path, monkeypatch):
    """As on another machine: the runs are gone, and what they reached was committed."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("max_steps: 1")
    study = Study(**SETTINGS)
    full = study.runs()[-1]
    for test in full.tests():
        put(full, test, 0.5)
    full.beside("seconds").write_text("30\n")
    full.beside("commit").write_text("1a2b3c4+\n")
    before = write_results(study, "x")
    assert "compared" not in before
    kept = Path("results.runs.jsonl").read_text()
    assert [json.loads(line)["right"] for line in kept.splitlines()] == ["10 0", "10 0"]
    assert [json.loads(line)["commit"] for line in kept.splitlines()] == ["1a2b3c4+"] * 2
    # Made otherwise by now: what lies there is neither gone on with nor called the new arm.
    Path("recipe.yaml").write_text("max_steps: 2")
    with pytest.raises(ValueError, match=r"video/seed-1/full: it was made with other settings.*\n?.*rm -r runs/video"):
        write_results(study, "x")
    Path("recipe.yaml").write_text("max_steps: 1\nlogging_steps: 3")  # that changes nothing
    Path("runs").rename("elsewhere")
    assert write_results(study, "x") == before and Path("results.runs.jsonl").read_text() == kept
    names = [run.name for run in ablate._left(study)]
    assert names == [f"{case}/seed-{seed}/untuned" for case in ("video", "scene") for seed in (0, 1)]
    # Made otherwise, it is another arm: what it builds upon comes before it.
    Path("recipe.yaml").write_text("max_steps: 2")
    assert [run.name for run in ablate._left(study)] == [
        "video/seed-1/base", "video/seed-1/swapped", *names, "video/seed-1/full",
    ]  # fmt: skip
    write_results(study, "x")
    assert Path("results.runs.jsonl").read_text() == kept  # their settings may come back
    Path("results.runs.jsonl").write_text(kept + "[1]\n")
    with pytest.raises(ValueError, match=r"results.runs.jsonl, line 3: it is no measurement"):
        write_results(study, "x")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_run_notes_the_code_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/video/seed-0").mkdir(parents=True)
    run = Study(**SETTINGS).runs()[0]
    (tmp_path / "repository/docs").mkdir(parents=True)
    (tmp_path / "repository/evaluation").mkdir()
    code, docs = (tmp_path / "repository" / name for name in ("evaluation/code.py", "docs/results.md"))
    monkeypatch.setattr(measurements, "__file__", str(code))
    code.write_text("1")
    docs.write_text("1")

    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=docs.parents[1], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    git("add", str(tmp_path / "repository"))
    git("commit", "-m", "x")
    commit = git("describe", "--always")
    docs.write_text("2")  # what is measured is written there
    measurements.note_commit(run)
    assert run.beside("commit").read_text() == f"{commit}\n"
    code.write_text("2")
    measurements.note_commit(run)
    assert run.beside("commit").read_text() == f"{commit}+\n"


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
             "set": {"dataset": ["none.jsonl"]}},
        ],
    }  # fmt: skip
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["ablate", "--config", "study.yaml"]) == 2
    assert "1 runs failed: seed-0/bad, see runs/seed-0/bad.log" in capsys.readouterr().err
    assert "none.jsonl" in Path("runs/seed-0/bad.log").read_text()
    shutil.copy(data / "rows.jsonl", "none.jsonl")
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
