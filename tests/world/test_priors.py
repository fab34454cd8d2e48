# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from polyv.world import priors
from polyv.world.conversations import QUESTIONS_VERSION, write_jsonl
from polyv.world.make import VERSION
from polyv.world.questions import SUITES
from tests.world.factory import COLOURS, random_record


def made_up(number: int, template: str, question: str, answer: str, split: str = "train") -> dict:
    return {"id": f"{split}-{number}", "suite": "s", "template": template, "question": question, "answer": answer}


def either_or(count: int, seed: int, split: str = "train") -> list[dict]:
    """ "A or B" where chance is one half and the most frequent answer is right in one case of eight."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        a, b = rng.choice(COLOURS, 2, replace=False)
        question = f"What colour is the one nearer to the pink cone, the {a} ball or the {b} box?"
        made.append(made_up(number, "nearer", question, str(rng.choice([a, b])), split))
    return made


@pytest.fixture(scope="module")
def world_rows(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("world")
    write_jsonl(folder, [random_record(index) for index in range(80)])
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_at_least_as_good_as_the_majority_on_what_it_was_fitted_to(world_rows):
    prior = priors.fit(world_rows)
    by_kind: dict[tuple[str, str], list[dict]] = {}
    for row in world_rows:
        by_kind.setdefault((row["suite"], row["template"]), []).append(row)
    right = sum(priors.predict(prior, row) == row["answer"] for row in world_rows)
    majority = sum(Counter(row["answer"] for row in rows).most_common(1)[0][1] for rows in by_kind.values())
    assert right >= majority


def test_of_two_options_one_half_is_guessed_right():
    prior = priors.fit(either_or(600, seed=0))
    accuracy = priors.prior_accuracy(prior, either_or(600, seed=1, split="test"))["s"]
    assert 0.42 < accuracy < 0.58


def test_a_word_that_gives_the_answer_away_is_found():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(200):
        shape = str(rng.choice(["ball", "box", "cone"]))
        rows.append(
            made_up(
                number, "rolls", f"Will the {rng.choice(COLOURS)} {shape} roll?", "yes" if shape == "ball" else "no"
            )
        )
    assert priors.prior_accuracy(priors.fit(rows), rows) == {"s": 1.0}


def test_nothing_to_learn_is_answered_by_the_most_frequent_answer():
    rows = [made_up(n, "count", "How many?", "three" if n % 3 else "two") for n in range(90)]
    prior = priors.fit(rows)
    assert prior["kinds"]["s/count"]["method"] == "majority"
    assert priors.prior_accuracy(prior, rows)["s"] == pytest.approx(2 / 3)


def test_unseen_words_and_kinds(world_rows):
    prior = priors.fit(world_rows)
    row = {**world_rows[0], "question": "Zzz qqq?"}
    assert priors.predict(prior, row) in {other["answer"] for other in world_rows}
    assert priors.predict(prior, {**row, "question": ""}) != ""
    with pytest.raises(ValueError, match=r"no question of the kind '\w+/never seen'; expected one of .*python -m"):
        priors.predict(prior, {**row, "template": "never seen"})


def test_only_suite_template_and_question_are_read(world_rows):
    prior = priors.fit(world_rows)
    for row in world_rows[:50]:
        blind = {key: row[key] for key in ("suite", "template", "question")}
        assert priors.predict(prior, blind) == priors.predict(prior, row)


def test_saved_and_loaded_it_predicts_the_same_and_is_small(world_rows, tmp_path):
    prior = priors.fit(world_rows)
    priors.save(prior, tmp_path / "priors.json")
    assert [path.name for path in tmp_path.iterdir()] == ["priors.json"]
    assert (tmp_path / "priors.json").stat().st_size < 200_000
    loaded = priors.load(tmp_path / "priors.json")
    assert [priors.predict(loaded, row) for row in world_rows] == [priors.predict(prior, row) for row in world_rows]


def test_fitting_is_deterministic(world_rows):
    assert json.dumps(priors.fit(world_rows)) == json.dumps(priors.fit(world_rows))


def test_command_stores_what_it_was_fitted_on(tmp_path, monkeypatch, capsys):
    records = [random_record(index) for index in range(20)]
    write_jsonl(tmp_path, records)
    manifest = {"scenes": 20, "seed": 0, "size": 112, "split": "train", "version": VERSION}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"its questions are not today's; run `polyv world make`"):
        priors.main([str(tmp_path), "--out", str(tmp_path / "prior.json")])
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "questions": QUESTIONS_VERSION}))
    monkeypatch.chdir(tmp_path)
    priors.main([".", "--out", "prior.json"])
    command = "python -m polyv.world.priors . --out prior.json"
    fitted_on = {**manifest, "questions": QUESTIONS_VERSION, "command": command}
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert priors.load("prior.json") == {"fitted_on": fitted_on, **json.loads(json.dumps(priors.fit(rows)))}
    assert "on 20 scenes" in capsys.readouterr().out


def test_committed_prior_is_of_todays_training_questions():
    """Fails where someone raised a version and did not fit the prior anew."""
    prior = priors.load(Path(priors.__file__).with_name("priors.json"))
    of = {name: prior["fitted_on"][name] for name in ("split", "version", "questions")}
    assert of == {"split": "train", "version": VERSION, "questions": QUESTIONS_VERSION}
    asked = {f"{suite}/{template.name}" for suite, templates in SUITES.items() for template in templates}
    assert set(prior["kinds"]) == asked


def test_test_questions_are_refused():
    with pytest.raises(ValueError, match="training questions only"):
        priors.fit(either_or(10, seed=0, split="test"))


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="no question"):
        priors.fit([])


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no prior"):
        priors.load(tmp_path / "other.json")
