# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Wording by a language model: taken where it holds, and only there, whatever the endpoint does."""

import json
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest

from polyv import cli
from polyv.csqa import endpoint as endpoints
from polyv.csqa.endpoint import Endpoint, EndpointError
from polyv.csqa.records import write_records
from polyv.csqa.selection import select
from polyv.csqa.verify import verify
from polyv.csqa.wording import fault_in, model_of, word
from tests.csqa.language_model import PREFIX, LanguageModel, answers_well, says, words


KEY = "sk-do-not-tell-anyone"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(endpoints, "_RETRIES", 2)


@pytest.fixture(scope="module")
def rows(records):
    return select(records[:12], 0)


@pytest.fixture
def worded(rows, records, tmp_path, monkeypatch):
    """A function: rows in the words of a server's model."""

    def run(model: LanguageModel, some=rows[:24], concurrency: int = 8):
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        with model:
            return word(some, records, Endpoint("rules", tmp_path / "cache.jsonl", concurrency), progress=False)

    return run


def test_words_that_hold_are_taken(worded, rows):
    model = LanguageModel()
    taken, rejected = worded(model)
    assert rejected == [] and len(taken) == 24
    for before, after in zip(rows, taken, strict=False):
        assert after["question"] == PREFIX + before["question"] and after["plain"] == before["question"]
        assert after["wording"] == "openai:rules"
        assert after["messages"][0]["content"][-1] == {"type": "text", "text": after["question"]}
        assert {**after, **{key: before[key] for key in ("question", "wording", "messages")}} == before
    assert model.keys == {f"Bearer {KEY}"}
    # Neither request holds the answer where the question does not, nor the reading the question of the template.
    assert not any(f"nswer: {row['answer']}" in text for row in rows for text in model.texts)


def test_what_was_asked_before_is_not_asked_again(worded, tmp_path):
    model = LanguageModel()
    first = worded(model)
    again = LanguageModel(port=model.port)
    assert worded(again) == first and again.texts == []
    # A kill in the middle of a line costs that line.
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:-20])
    third = LanguageModel(port=model.port)
    assert worded(third) == first and len(third.texts) == 1
    assert worded(LanguageModel(port=model.port)) == first


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (says("no JSON at all"), "schema"),
        (says({"text": "What?"}), "schema"),
        (says({"question": 7}), "schema"),
        (says({"question": "Is it so?", "answer": "yes"}), "schema"),
        (says(None, refusal="I would rather not"), "schema"),
        ((200, {"choices": []}, {}), "schema"),
        (says({"question": ""}), "length"),
        (says({"question": "Why " * 60 + "?"}), "length"),
        (says({"question": "Tell me what you see there, please!"}), "no question"),
    ],
)
def test_malformed_answers_are_rejected_and_kept_for_reading(worded, rows, reply, cause):
    taken, rejected = worded(LanguageModel(lambda number, form, text: reply), rows[:6])
    assert taken == rows[:6]
    assert [(each.id, each.cause) for each in rejected] == [(row["id"], cause) for row in rows[:6]]
    assert all(each.plain == row["plain"] for each, row in zip(rejected, rows, strict=False))


def test_a_malformed_reading_is_rejected(worded, rows):
    def behave(number, form, text):
        return says(words(text) if form == "Wording" else {"kind": "direction"})

    taken, rejected = worded(LanguageModel(behave), rows[:6])
    assert taken == rows[:6] and {each.cause for each in rejected} == {"schema of the reading"}


def test_a_contradicting_wording_is_rejected(worded, rows):
    """It asks the opposite, or of other things: what is left of what, the other way round."""
    sided = [row for row in rows if row["template"] in ("side_from", "beside_in_view", "side_from_picture")]
    assert len(sided) > 5

    def swapped(number, form, text):
        if form == "Reading":
            return answers_well(number, form, text)
        question = words(text)["question"]
        first, second = _names(question)[:2]
        return says({"question": question.replace(first, "@").replace(second, first).replace("@", second)})

    taken, rejected = worded(LanguageModel(swapped), sided)
    causes = Counter(each.cause for each in rejected)
    assert taken == sided and len(rejected) == len(sided)
    assert causes["read with another answer"] > len(sided) / 2
    assert set(causes) <= {"read with another answer", "read as ill-posed"}


def _names(question):
    return list(dict.fromkeys(re.findall(r"the (\w+ (?:ball|box|cone|cylinder|cube|capsule|ramp|table))\b", question)))


def test_the_same_answer_about_other_things_is_rejected(worded, rows, records):
    """Of two answers, one is right by chance half of the time: what it rests on must be the same, too."""
    seen = [row for row in rows if row["template"] == "still_in_view"]

    def other_thing(number, form, text):
        reply = answers_well(number, form, text)
        if form == "Wording":
            return reply
        content = json.loads(reply[1]["choices"][0]["message"]["content"])
        names = text.splitlines()[0].removeprefix("Objects: ").rstrip(".").split(", ")
        content["a"] = next(name for name in names if name != content["a"])
        return says(content)

    taken, rejected = worded(LanguageModel(other_thing), seen)
    assert taken == seen
    assert {each.cause for each in rejected} >= {"read as about something else"}


def test_an_answer_given_away_is_rejected():
    plain = "What does the red ball hit first?"
    assert fault_in(plain, "Does the red ball first hit the blue box, or what?", "blue box") == "gives the answer away"
    assert fault_in(plain, "What is the first thing the red ball runs into?", "blue box") is None
    offered = "Is the red ball left or right of the cone?"
    assert fault_in(offered, "Left or right: where is the red ball, seen from the cone?", "left") is None
    assert fault_in("Does it move?", "Yes or no, does it move?", "yes") == "gives the answer away"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again(worded, rows, status):
    def busy(number, form, text):
        if number % 3 == 0:
            return status, {"error": {"message": "busy"}}, {"Retry-After-Ms": "1"}
        return answers_well(number, form, text)

    model = LanguageModel(busy)
    _, rejected = worded(model, rows[:6], 1)
    assert rejected == [] and len(model.texts) > 12


def test_a_slow_endpoint_gets_many_requests_at_a_time_but_no_more(worded, rows):
    model = LanguageModel(delay=0.03)
    worded(model, rows[:24], 4)
    assert model.most == 4


def test_an_endpoint_too_slow_is_given_up(worded, rows, monkeypatch):
    monkeypatch.setattr(endpoints, "_TIMEOUT", 0.05)
    monkeypatch.setattr(endpoints, "_RETRIES", 0)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*model rules: APITimeoutError"):
        worded(LanguageModel(delay=0.5), rows[:2])


def test_no_key_is_told_or_written(worded, rows, tmp_path, monkeypatch):
    def quotes(number, form, text):
        return 401, {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}, {}

    with pytest.raises(EndpointError, match=r"AuthenticationError: .*Incorrect API key provided: \*\*\*") as caught:
        worded(LanguageModel(quotes), rows[:4])
    assert KEY not in str(caught.value) and caught.value.__cause__ is None
    worded(LanguageModel(), rows[:4])
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        Endpoint("rules", tmp_path / "cache.jsonl")


def test_who_words_is_named_right():
    assert model_of("template") is None and model_of("openai:org/model-7b") == "org/model-7b"
    for wrong in ("openai", "openai:", "gpt-4o", ""):
        with pytest.raises(ValueError, match="expected 'template' or 'openai:MODEL'"):
            model_of(wrong)


def test_a_dataset_is_worded_and_goes_on_after_its_endpoint_died(world, records, tmp_path, monkeypatch, capsys):
    write_records(world / "ten.jsonl", records[:10])
    out = tmp_path / "out"
    command = ["csqa", "build", "--source", str(world / "ten.jsonl"), "--questions", "40", "--out", str(out)]
    command += ["--wording", "openai:rules", "--wording-cache", str(tmp_path / "cache"), "--concurrency", "2"]

    def dies(number, form, text):
        return (0, {}, {}) if number >= 30 else answers_well(number, form, text)

    with LanguageModel(dies) as model:
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert f"{model.url}/, model rules: APIConnectionError" in told and KEY not in told
    assert not out.exists()

    def contradicts_some(number, form, text):
        reply = answers_well(number, form, text)
        if form == "Wording" and "Which" in text:
            return says({"question": "Which one is it, then?"})
        return reply

    with LanguageModel(contradicts_some, port=model.port) as again:
        assert cli.main(command) == 0
    assert len(again.texts) < 80 - 25  # what had been answered is not asked again
    (file,) = out.glob("data/*.parquet")
    table = pq.read_table(file).to_pylist()
    by = Counter(row["wording"] for row in table)
    assert by["openai:rules"] > 20 and by["template"] > 0
    rejections = [json.loads(line) for line in (out / "rejected_wordings.jsonl").read_text().splitlines()]
    assert {each["id"] for each in rejections} == {row["id"] for row in table if row["wording"] == "template"}
    statistics = json.loads((out / "statistics.json").read_text())
    taken, refused = by["openai:rules"], by["template"]
    assert statistics["wording"] == {"by": "openai:rules", "taken": taken, "rejected": {"read as of no kind": refused}}
    assert f"{by['openai:rules']} in the words of openai:rules" in (out / "README.md").read_text()
    assert not verify(out, progress=False).mismatches

    # The same request gives the same bytes, without asking anybody.
    other = tmp_path / "other"
    command[command.index(str(out))] = str(other)
    assert cli.main(command) == 0
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(out)).read_bytes()

    # What is worded is verified as well.
    rows = [row | ({"question": "Is it yes?"} if row["wording"] != "template" else {}) for row in table]
    pq.write_table(pq.read_table(file).from_pylist(rows, schema=pq.read_schema(file)), file)
    report = verify(out, progress=False)
    assert len(report.mismatches) == by["openai:rules"]
