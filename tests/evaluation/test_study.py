# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Studies: what runs before what, what is done, and what stands in the table."""

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from trl import SFTConfig

from polyv import PolyVConfig
from polyv.cli import main
from polyv.evaluation import ablate, measurements
from polyv.evaluation.results import above_prior, to_markdown, write_results
from polyv.evaluation.study import STAGES, Study
from polyv.recipes.instruct import InstructArguments
from polyv.recipes.stage import DataArguments
from polyv.recipes.synergy import SynergyArguments
from tests.evaluation.studies import SETTINGS, put


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
        ({"steps": []}, r"steps: List should have at least 1 item .*got \[\]"),
        ({"steps": [{"name": "a", "stage": "bake"}]}, r"steps.0.stage: Input should be 'pretrain', .*got 'bake'"),
        ({"steps": [{"name": "a"}, {"name": "a"}]}, "steps: a: expected a name of its own"),
        ({"steps": [{"name": "a", "form": "b"}]}, r"steps.0.form: Extra inputs are not permitted"),
        ({"steps": [{"name": "a/../b"}]}, r"steps.0.name: String should match pattern .*got 'a/../b'"),
        ({"steps": [{"name": "a", "arm": "no"}]}, r"steps.0.arm: Input should be a valid boolean, got 'no'"),
        ({"steps": [{"name": "a", "set": None}]}, r"steps.0.set: Input should be a valid dictionary, got None"),
        ({"steps": [{"name": "a", "seeds": ["0"]}]}, r"steps.0.seeds.0: Input should be a valid integer, got '0'"),
        ({"steps": [{"name": "a", "cases": ["a"]}]}, r"steps.0.cases: Input should be a valid dictionary"),
        ({"steps": [{"name": "a", "seeds": []}]}, r"steps.0.seeds: List should have at least 1 item"),
        ({"steps": [{"name": "a", "from": None}]}, r"steps.0.from: Input should be a valid string, got None"),
        ({"test": {"world": "w"}}, r"test: got \['world'\], expected"),
        ({"test": {"world": "w", "seed": "one", "n": 0}}, r"test.seed: .*got 'one'; test.n: .*greater than 0, got 0"),
        (
            {"test": {"questions": "q.jsonl", "tested": "image"}},
            "test.tested: Input should be a valid list, got 'image'",
        ),
        ({"cases": [{"full": "video"}]}, "full is the name of a field as well"),
        ({"cases": [{"a": "x-y", "b": "z"}, {"a": "x", "b": "y-z"}]}, r"cases: .* would share the folder runs/x-y-z/"),
        ({"cases": [{"a": "../x"}]}, "cases.0.a: String should match"),
        ({"seeds": 3}, "seeds: Input should be a valid list, got 3"),
        ({"seeds": [True]}, "seeds.0: Input should be a valid integer, got True"),
        ({"seeds": [-1]}, "seeds.0: .*greater than or equal to 0"),
        ({"seeds": [0, 0]}, "seeds: it holds one of them twice"),
        ({"cases": ["video"]}, "cases.0: Input should be a valid dictionary, got 'video'"),
        ({"cases": [{"labelled": 1}]}, "cases.0.labelled: Input should be a valid string, got 1"),
        ({"hours": "two"}, "hours: Input should be a valid number, got 'two'"),
        ({"hours": float("nan")}, "hours: Input should be"),
        ({"workers": 0}, "workers: Input should be greater than 0"),
        ({"results": "r.md"}, "results: String should match"),
        ({"out": 5}, "out: Input should be a valid string, got 5"),
        ({"steps": ["base"]}, "steps.0: Input should be a valid dictionary, got 'base'"),
        ({"test": {"world": "w", "seed": 0, "n": 4}}, "cases: a study whose `test` is a world has none"),
        ({"steps": [{"name": "a", "stage": "align", "from": "a"}]}, "steps: a needs a: none of them can be first"),
        (
            {"steps": [{"name": n, "stage": "align", "from": m} for n, m in ("ab", "bc", "ca")]},
            r"steps: (a needs b needs c needs a|b needs c needs a needs b|c needs a needs b needs c): none",
        ),
        (
            {"steps": [{"name": "a", "from": "x", "seeds": [0]}, {"name": "b", "stage": "align", "from": "a"}]},
            "steps: b builds upon a, which is of other seeds or cases: there is no video/seed-1/a",
        ),
        ({"against": ["untuned", "base"]}, "against: base is no arm; expected names of steps with `arm: true`"),
    ],
)
def test_what_is_no_study_is_refused(change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("odd.yaml").write_text(yaml.safe_dump({**SETTINGS, **change}))
    with pytest.raises(ValueError, match=message) as error:
        Study.read("odd.yaml")
    assert str(error.value).startswith("config=odd.yaml: it describes no study: ")
    assert main(["ablate", "--config", "odd.yaml"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", r"it describes no study: expected a mapping, got \[1\]"),
        ("out: runs\nworker: 1\n", r"steps: Field required; test: .*; results: .*; worker: "),
        ("out: [\n", r"it is not YAML: .*line"),
    ],
)
def test_a_file_of_another_kind_is_refused(text, message, tmp_path):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Study.read(tmp_path / "odd.yaml")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"from": "bases"}, "steps: full: from is bases, which is neither a step nor a folder"),
        ({"from": ""}, "steps: full: from is , which is neither"),
        ({"stage": "merge", "from": ...}, "steps: full: it has no `from`"),
        ({"config": "none.yaml"}, "steps: full: config=none.yaml: there is no such file"),
        ({"set": {"max_step": 7}}, "steps: full: max_step: align has no such field"),
        ({"set": {"dataset": ["{swaped}"]}}, r"steps: full: {swaped} names no step, and no field of its case"),
        ({"cases": {"labeled": "video"}}, "steps: full is of no seed or no case of the study"),
        ({"arm": False}, "none has `arm: true`"),
        ({"stage": "control", "set": {"control": "blinded"}}, r"expected control \(one of shuffled, strangers, blind"),
        (
            {"stage": "control", "set": {"control": "sample", "dataset": "rows.jsonl", "share": "2"}},
            "steps: full: set: share='2': expected a number above 0",
        ),
        (
            {"stage": "control", "set": {"control": "blind", "dataset": "none.jsonl"}},
            "steps: full: dataset=none.jsonl: there is no such file",
        ),
        (
            {"stage": "merge", "set": {"imagee": "start"}},
            "steps: full: set: imagee: merge has no such option; expected",
        ),
        (
            {"stage": "warm", "set": {"expert": ["image"]}},
            "expert: warm has no such option; expected some of experts, da",
        ),
        ({"stage": "wide", "set": {"time": 3}}, "time: wide has no such option; expected some of times"),
        ({"set": {"dataset": ["{swapped}"], "dataset_weights": [0.5, 0.5]}}, "dataset_weights: got .* for 1 datasets"),
        ({"set": {"dataset": ["none.jsonl"]}}, "steps: full: dataset=none.jsonl: there is no such file or folder"),
        ({"set": {"dataset": ["none"]}}, "steps: full: dataset=none: there is no such file or folder"),
        ({"set": {"dataset": ["{swapped}"], "max_steps": "many"}}, "steps: full: max_steps='many': expected a number"),
        (
            {"stage": "distill", "set": {"dataset": ["{swapped}"], "spatial_targets": "none"}},
            "steps: full: spatial_targets=none: there is no cache",
        ),
        ({}, "test: questions=video-image.jsonl: there is no such file; steps: full"),
    ],
)
def test_what_would_stop_a_study_later_stops_it_at_once(step, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("max_steps: 1")
    Path("start").mkdir()
    for name in ("rows", "video"):
        Path(f"{name}.jsonl").touch()
    base, swapped, _, full = SETTINGS["steps"]
    change = {"set": {"dataset": ["{swapped}"]}, **step}
    changed = {name: value for name, value in {**full, **change}.items() if value is not ...}
    settings = {**SETTINGS, "cases": [{"labelled": "video"}], "steps": [base, swapped, changed]}
    Path("study.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(ablate, "_start", lambda *_: pytest.fail("it began"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ablate.run("study.yaml")
    for workers in (0, -1):
        with pytest.raises(ValueError, match=rf"workers={workers}: expected 1 or more"):
            ablate.run("study.yaml", workers=workers)


def test_a_study_is_given_no_other_world_than_it_names(small_world, tmp_path, monkeypatch):
    """One that searches on validation scenes must not be given test scenes in their place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablate, "_start", lambda *_: pytest.fail("it began"))
    Path("start").mkdir()
    steps = [{"name": "untuned", "from": "start", "arm": True}]
    for test, message in (
        (
            {"world": "none", "seed": 3, "n": 1},
            "world=none: there is none. Make it first: polyv world make .*--seed 3",
        ),
        ({"world": str(small_world), "seed": 4, "n": 1}, "expected the test .or validation. split with seed 4"),
    ):
        Path("study.yaml").write_text(yaml.safe_dump({**SETTINGS, "cases": [{}], "test": test, "steps": steps}))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            ablate.run("study.yaml")


def test_a_test_that_changed_is_asked_anew(tmp_path, monkeypatch):
    """What was measured on other questions is neither taken for the new test, nor lost."""
    monkeypatch.chdir(tmp_path)
    world = {"world": "w", "seed": 1, "n": 300}
    steps = [{"name": name, "from": "start", "arm": True} for name in ("one", "other")]
    settings = {**SETTINGS, "cases": [{}], "seeds": [0], "test": world, "steps": steps, "against": ["one"]}
    for run in Study(**settings).runs():
        put(run, run.tests()[0], 0.5)
    write_results(Study(**settings), "x")
    kept = Path("results.runs.jsonl").read_text()
    changed = Study(**{**settings, "test": {**world, "n": 5}})
    with pytest.raises(ValueError, match=r"seed-0/one: it was measured with test: {'n': 300}, .*rm runs/seed-0/one"):
        write_results(changed, "x")
    Path("runs").rename("elsewhere")
    assert [run.name for run in ablate._left(changed)] == ["seed-0/one", "seed-0/other"]
    assert write_results(changed, "x")["arms"] == {} and Path("results.runs.jsonl").read_text() == kept
    # The data changed under the same name: two arms of one table were asked other questions.
    lines = [json.loads(line) for line in kept.splitlines()]
    lines[1]["questions"] = "of others"
    Path("results.runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"seed-0/other: it was asked other questions than seed-0/one\. .*runs.jsonl"):
        write_results(Study(**settings), "x")


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
    assert Path("results-matrix.png").stat().st_size > 3000
    assert (row["labelled"], row["tested"], row["arm"], row["base"], row["seeds"]) == (
        "video",
        "image",
        "other",
        "one",
        2,
    )
    table = Path("results.md").read_text()
    assert "| video | image | other | one | 2 | +0.000 | +0.000 to +0.000 | 0.000 | 0 | 0 |" in table
    assert "| video | image | other | one | +0.000 (+0.000 to +0.000) | +0.000 (+0.000 to +0.000) |" in table


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


def test_shares_of_labels_do_not_fall_into_one_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = [{"name": name, "from": "start", "arm": True} for name in ("one", "other")]
    cases = [{**SETTINGS["cases"][0], "share": share} for share in ("0.1", "1.0")]
    study = Study(**{**SETTINGS, "steps": steps, "against": ["one"], "cases": cases})
    for run in study.runs():
        put(run, run.tests()[0], 0.5)
    assert len(write_results(study, "x")["compared"]) == 2
    assert Path("results.png").exists() and not Path("results-matrix.png").exists()
