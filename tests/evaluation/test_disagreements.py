# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Where two arms answer otherwise: which questions, with what they show, and who is right how often."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from polyv.evaluation import disagreements
from polyv.evaluation.disagreements import find_disagreements, main
from polyv.evaluation.evaluate import SIZE
from polyv.evaluation.study import Study
from polyv.world.make import VERSION


@pytest.fixture
def study(small_world, tmp_path, monkeypatch) -> Path:
    """Two arms, measured on ten questions: the first always right; the second wrong in the last three, which it answers
    "so", but for the very last, where both say the same."""
    monkeypatch.chdir(tmp_path)
    steps = [
        {"name": name, "stage": "align", "from": "start", "config": "recipe.yaml", "arm": True} for name in ("a", "b")
    ]
    test = {"world": str(small_world), "seed": 3, "n": 1}
    study = {"out": "runs", "results": "results.json", "test": test, "steps": steps}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    Path("recipe.yaml").write_text("max_steps: 1")
    rows = [json.loads(line) for line in (small_world / "questions.jsonl").read_text().splitlines()[:10]]
    for run, wrong in zip(Study(**study).runs(), ((9,), (7, 8, 9)), strict=True):
        given = [{**row, "given": "so" if i in wrong else f" {row['answer'].upper()}"} for i, row in enumerate(rows)]
        answers = run.tests()[0].answers
        answers.parent.mkdir(parents=True, exist_ok=True)
        answers.write_text("".join(json.dumps(row) + "\n" for row in given))
        run.tests()[0].report.write_text(json.dumps({"world": str(small_world), "seed": 3, "n": 1}))
        run.beside("recipe").write_text(run.recipe())
    run.beside("commit").write_text("1a2b3c4\n")  # the first has none, like untuned
    return Path("study.yaml")


def test_questions_answered_otherwise_and_who_is_right(study, small_world):
    found = find_disagreements(Study.read(study), ["a", "b"], 0)
    assert found["counts"] == {"both": 7, "a": 2, "b": 0, "neither": 1}
    assert found["world"] == {"split": "test", "seed": 3, "size": 112} and found["version"] == VERSION
    assert found["commits"] == [None, "1a2b3c4"]
    assert [one["given"][1] for one in found["questions"]] == ["so", "so"]
    for one in found["questions"]:
        assert one["given"][0].strip().lower() == one["answer"]
        assert all((small_world / part[part["type"]]).exists() for part in one["media"])


def test_the_command_writes_what_the_demo_reads(study, capsys):
    main(["--config", str(study), "--arms", "a", "b", "--out", "differ.json"])
    written = json.loads(Path("differ.json").read_text())
    assert written == {"study": "study.yaml", **find_disagreements(Study.read(study), ["a", "b"], 0)}
    assert "2 questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arms", "seed", "message"),
    [
        (["a", "c"], 0, "no arm c of seed 0"),
        (["a", "b"], 1, "no arm a of seed 1"),
        (["b", "a"], 0, "b of seed 0 was not"),
    ],
)
def test_what_was_not_measured_is_named(study, arms, seed, message, capsys):
    Study.read(study).runs()[1].tests()[0].answers.unlink()
    with pytest.raises(SystemExit):
        main(["--config", str(study), "--arms", *arms, "--seed", str(seed)])
    assert message in " ".join(capsys.readouterr().err.split())


def test_answers_to_other_questions_are_refused(study):
    answers = Study.read(study).runs()[1].tests()[0].answers
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="answered other questions"):
        find_disagreements(Study.read(study), ["a", "b"], 0)
    Path("recipe.yaml").write_text("max_steps: 2")
    with pytest.raises(ValueError, match="seed-0/a: it was made with other settings"):
        find_disagreements(Study.read(study), ["a", "b"], 0)


def test_the_demos_own_are_whole():
    found = json.loads(disagreements.FILE.read_text())
    assert found["world"] == {"split": "test", "seed": 1, "size": SIZE} and found["version"] == VERSION
    lines = Path(__file__).parents[2].joinpath("docs/results/ablation.runs.jsonl").read_text().splitlines()
    rights = {row["run"]: row["right"].replace(" ", "") for row in map(json.loads, lines)}
    one, other = (rights[f"seed-{found['seed']}/{arm}"] for arm in found["arms"])
    pairs = Counter(zip(one, other, strict=True))
    names = {("1", "1"): "both", ("1", "0"): found["arms"][0], ("0", "1"): found["arms"][1], ("0", "0"): "neither"}
    assert found["counts"] == {name: pairs[pair] for pair, name in names.items()}
    assert len(found["questions"]) >= pairs["1", "0"] + pairs["0", "1"] > 0
