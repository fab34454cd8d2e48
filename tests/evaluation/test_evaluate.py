# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv evaluate`: the report's numbers and form, the same for the same seed, never on training scenes."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from polyv.ask import media_of
from polyv.evaluation.evaluate import PRIOR, run, score, table
from polyv.evaluation.metrics import normalise, wilson_interval
from polyv.evaluation.suites import SUITES
from polyv.world import priors
from tests.evaluation.tiny_llava import ONE_IMAGE, save_llava


priors_load = priors.load


@pytest.fixture(autouse=True)
def blind(monkeypatch):
    """The prior guesses "red" whatever the question."""
    kinds = {f"{suite}/{name}": {} for suite in ("scene_qa", "embodied_qa") for name in ("colour", "count", "t")}
    monkeypatch.setattr("polyv.world.priors.load", lambda path: {"kinds": kinds | priors_load(PRIOR)["kinds"]})
    monkeypatch.setattr("polyv.world.priors.predict", lambda prior, row: "red")


def row(suite: str, template: str, answer: str) -> dict:
    return {"suite": suite, "template": template, "question": "?", "answer": answer}


def test_score_counts_by_suite_and_template_and_averages_over_suites():
    questions = [row("scene_qa", "colour", "red"), row("scene_qa", "colour", "blue"), row("scene_qa", "count", "two")]
    questions += [row("embodied_qa", "count", "red")]
    report = score(questions, ["Red.", "green", "two", "blue"])
    assert report["suites"]["scene_qa"] == {
        "accuracy": pytest.approx(2 / 3),
        "n": 3,
        "interval": list(wilson_interval(2, 3)),
        "prior": pytest.approx(1 / 3),
    }
    assert report["suites"]["embodied_qa"]["accuracy"] == 0
    assert {name: scores["n"] for name, scores in report["templates"].items()} == {
        "scene_qa/colour": 2,
        "scene_qa/count": 1,
        "embodied_qa/count": 1,
    }
    assert report["mean_accuracy"] == pytest.approx(1 / 3)
    assert report["mean_prior"] == pytest.approx((1 / 3 + 1) / 2)


def test_score_refuses_answers_that_are_missing():
    with pytest.raises(ValueError, match="answers: got 0 for 1 questions"):
        score([row("scene_qa", "colour", "red")], [])


def test_a_kind_of_question_that_the_prior_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"knows no questions of the kinds scene_qa/new. Fit it anew"):
        score([row("scene_qa", "colour", "red"), row("scene_qa", "new", "red")], ["red", "red"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 0}, "n=0: expected at least 1"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"out": "."}, "is a folder"),
        ({"out": "file/report.json"}, "cannot be written in"),
        ({"answers": Path()}, "answers=.: it is a folder"),
    ],
)
def test_arguments_are_checked_before_anything_is_made(changed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments = {"n": 1, "batch_size": 1, "out": "new/report.json"} | changed
    with pytest.raises(ValueError, match=message):
        run("no-model", "all", 0, **{**arguments, "out": Path(arguments["out"])})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("stale", [{"version": 0}, {"size": 64}])
def test_a_world_that_todays_code_would_make_otherwise_is_refused(stale, small_world, tmp_path):
    manifest = json.loads((small_world / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | stale))
    [(name, value)] = stale.items()
    with pytest.raises(ValueError, match=rf"made with {name} {value}; expected {name} {manifest[name]}. Delete it"):
        run("no-model", "scene_qa", 3, 1, tmp_path / "report.json", world=tmp_path)


def test_the_table_has_a_line_a_suite_and_the_mean():
    lines = table(score([row("scene_qa", "t", "red"), row("embodied_qa", "t", "blue")], ["red", "red"])).splitlines()
    assert [line.split()[0] for line in lines] == ["suite", "scene_qa", "embodied_qa", "mean"]
    assert lines[1].split()[1:3] == ["1.000", "1"] and lines[3].split()[1:] == ["0.500", "0.500"]


@pytest.mark.parametrize("checkpoint", ["backbone", "polyv"])
def test_both_kinds_of_model_are_measured_and_the_same_seed_gives_the_same_report(
    checkpoint, untrained, small_world, tmp_path, capsys
):
    model = str(getattr(untrained, checkpoint))
    there = Counter(json.loads(line)["suite"] for line in (small_world / "questions.jsonl").read_text().splitlines())
    names = [name for name in SUITES if there[name] >= 2]
    assert {"general_image", "scene_qa"} < set(names)
    reports = []
    for name, batch_size in (("a", 4), ("b", 4)):
        out = tmp_path / name / "report.json"
        answers = tmp_path / "answers.jsonl" if name == "b" else None
        run(model, ",".join(names), 3, 2, out, world=small_world, batch_size=batch_size, answers=answers)
        reports.append(json.loads(out.read_text()))
        assert [path.name for path in out.parent.iterdir()] == ["report.json"]
    assert reports[0] == reports[1]
    assert list(reports[0]["suites"]) == names
    assert all(set(scores) == {"accuracy", "n", "interval", "prior"} for scores in reports[0]["suites"].values())
    assert reports[0]["model"] == model and reports[0]["seed"] == 3
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert Counter(row["suite"] for row in rows) == dict.fromkeys(names, 2)
    for name, scores in reports[0]["suites"].items():
        right = [normalise(row["given"]) == normalise(row["answer"]) for row in rows if row["suite"] == name]
        assert sum(right) / 2 == scores["accuracy"]
    assert "mean" in capsys.readouterr().out


@pytest.fixture
def ask(small_world, tmp_path, monkeypatch):
    """Evaluate, one question a batch, with answers in the model's place that are true of images and of nothing else.
    Gives how many batches were asked; with `stop_after`, the run is killed at the next one."""

    def key(messages):
        medium, *_, text = messages[0]["content"]
        return str(small_world / medium[medium["type"]]), text["text"]

    rows = [json.loads(line) for line in (small_world / "questions.jsonl").read_text().splitlines()]
    truth = {key(row["messages"]): row["answer"] for row in rows if row["suite"].endswith("image")}

    def ask(model, suites="general_image,scene_qa", n=2, stop_after=None, out="report.json") -> int:
        asked, written = [], []
        partial = tmp_path / "out" / f"{out}.partial.jsonl"

        def answer(_model, _processor, conversations, max_new_tokens):
            if len(asked) == stop_after:
                written.append(partial.read_bytes())
                raise KeyboardInterrupt
            asked.append(conversations)
            return [truth.get(key(one), "unknown") for one in conversations]

        monkeypatch.setattr("polyv.evaluation.evaluate.answer", answer)
        arguments = (str(model), suites, 3, n, tmp_path / "out" / out)
        if stop_after is None:
            run(*arguments, world=small_world, batch_size=1)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(*arguments, world=small_world, batch_size=1)
            partial.write_bytes(written[0])  # a kill, unlike an interrupt, lets no file be closed
        return len(asked)

    return ask


@pytest.mark.parametrize(("cut", "left"), [(0, 2), (10, 3)])
def test_an_interrupted_evaluation_asks_only_the_rest(cut, left, ask, untrained, tmp_path):
    assert ask(untrained.polyv, out="whole.json") == 4
    ask(untrained.polyv, stop_after=2)
    partial = tmp_path / "out" / "report.json.partial.jsonl"
    text = partial.read_text()
    assert len(text.splitlines()) == 2 + 2 and not (tmp_path / "out" / "report.json").exists()
    partial.write_text(text[: len(text) - cut])  # killed while it wrote the second answer
    assert ask(untrained.polyv, stop_after=1) == 1
    assert ask(untrained.polyv) == left - 1
    whole, report = ((tmp_path / "out" / name).read_text() for name in ("whole.json", "report.json"))
    assert report == whole
    # The answers can be told apart: those about the image are right, those about the scene are not.
    assert [scores["accuracy"] for scores in json.loads(report)["suites"].values()] == [1, 0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "whole.json"]


@pytest.mark.parametrize(
    ("changed", "questions"), [({"n": 1}, 2), ({"suites": "scene_qa"}, 2), ("checkpoint", 4), ("questions", 4)]
)
def test_answers_to_another_request_are_not_mixed_in(
    changed, questions, ask, untrained, tmp_path, monkeypatch, capsys
):
    model = Path(shutil.copytree(untrained.polyv, tmp_path / "model"))
    ask(model, stop_after=1)
    assert "beginning anew" not in capsys.readouterr().out
    if changed == "checkpoint":
        os.utime(model / "model.safetensors", ns=(0, 0))
    elif changed == "questions":
        monkeypatch.setattr("polyv.evaluation.evaluate._digest", lambda questions: "of another version")
    assert ask(model, **(changed if isinstance(changed, dict) else {})) == questions
    assert "beginning anew" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


def test_an_unrelated_family_is_measured(small_world, tmp_path):
    rows = [json.loads(line) for line in (small_world / "questions.jsonl").read_text().splitlines()]
    assert {media_of(row["messages"]) for row in rows} >= {("image",), ("image", "image"), ("video",), ("scene",)}
    names = [name for name in SUITES if any(row["suite"] == name for row in rows)]
    model = str(save_llava(tmp_path / "llava"))
    report = run(model, ",".join(names), 3, 1, tmp_path / "report.json", world=small_world)
    assert [scores["n"] for scores in report["suites"].values()] == [1] * len(names)


def test_a_medium_that_the_model_cannot_take_is_refused_before_the_first_batch(ask, tmp_path):
    model = save_llava(tmp_path / "llava", ONE_IMAGE)
    with pytest.raises(ValueError, match="of the family llava, cannot be asked about scene"):
        ask(model)
    assert not (tmp_path / "out").exists()
    assert ask(model, suites="general_image") == 2


def test_a_test_world_of_the_seed_is_made_where_there_is_none(untrained, small_world, tmp_path, monkeypatch):
    requests = []

    def make_world(folder, **request):
        requests.append(request)
        shutil.copytree(small_world, folder)

    monkeypatch.setattr("polyv.evaluation.evaluate.make_world", make_world)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run(str(untrained.polyv), "general_image", 3, 1, tmp_path / "report.json")
    assert (tmp_path / "data" / "evaluation-3-1" / "questions.jsonl").exists()
    [request] = requests
    assert (request["split"], request["seed"], request["size"]) == ("test", 3, 112)
    assert request["scenes"] > 2


def test_old_questions_are_written_anew_for_the_scenes_that_are_there(untrained, small_world, tmp_path):
    world = Path(shutil.copytree(small_world, tmp_path / "world"))
    manifest = json.loads((world / "manifest.json").read_text())
    (world / "manifest.json").write_text(json.dumps(manifest | {"questions": 0}))
    (world / "questions.jsonl").write_text("")
    run(str(untrained.polyv), "general_image", 3, 1, tmp_path / "report.json", world=world)
    assert (world / "questions.jsonl").read_bytes() == (small_world / "questions.jsonl").read_bytes()
    assert json.loads((world / "manifest.json").read_text()) == manifest


@pytest.mark.parametrize(("manifest", "seed"), [({"split": "train", "seed": 3}, 3), ({"split": "test", "seed": 4}, 3)])
def test_training_scenes_and_other_seeds_are_refused(manifest, seed, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "questions.jsonl").write_text("")
    with pytest.raises(
        ValueError, match=f"holds scenes of the {manifest['split']} split with seed {manifest['seed']}"
    ):
        run("no-model", "scene_qa", seed, 1, tmp_path / "report.json", world=tmp_path)


@pytest.mark.skipif(not PRIOR.exists(), reason="the prior is not fitted yet")
def test_the_committed_prior_knows_every_template(small_world, monkeypatch):
    monkeypatch.undo()
    prior = priors.load(PRIOR)
    rows = [json.loads(line) for line in (small_world / "questions.jsonl").read_text().splitlines()]
    assert all(priors.predict(prior, row) for row in rows)
