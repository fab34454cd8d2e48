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
from polyv.csqa.questions import TEMPLATES
from polyv.csqa.reading import slots_of
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
        assert json.loads(after["reading"])["question"] == after["question"]
        assert {**after, **{key: before[key] for key in ("question", "wording", "reading", "messages")}} == before
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
        (says(None, refusal="I would rather not"), "refused"),
        ((400, {"error": {"message": "content_filter"}}, {}), "refused"),
        (says({"question": ""}), "length"),
        (says({"question": "Why " * 60 + "?"}), "length"),
        (says({"question": "Tell me what you see there, please!"}), "no plain question"),
        (says({"question": "What is <image> there?"}), "no plain question"),
        (says({"question": "What is it \u202e then?"}), "no plain question"),
        (says({"question": "What is it \ud800 then?"}), "schema"),
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
    assert taken == rows[:6] and {each.cause for each in rejected} == {"schema, of the reading"}


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


def read_otherwise(change):
    """A model that words well, and whose readings `change` changes."""

    def behave(number, form, text):
        reply = answers_well(number, form, text)
        if form != "Reading":
            return reply
        content = json.loads(reply[1]["choices"][0]["message"]["content"])
        names = text.splitlines()[0].removeprefix("Objects: ").rstrip(".").split(", ")
        return says({**content, **change(content, names)})

    return LanguageModel(behave)


@pytest.mark.parametrize(
    ("change", "causes"),
    [
        # Of two answers, one is right by chance half of the time.
        (
            lambda read, names: {"a": next(name for name in names if name != read["a"])},
            {"read as about something else", "read with another answer", "read as ill-posed"},
        ),
        (lambda read, names: {"kind": "will_move"}, {"read as of another kind"}),
        (lambda read, names: {"kind": "none"}, {"read as of another kind"}),
        (lambda read, names: {"negated": True}, {"read as negated"}),
        (lambda read, names: {"a": None}, {"read with words that its kind, or the scene, does not have"}),
        (lambda read, names: {"a": "pink giraffe"}, {"read with words that its kind, or the scene, does not have"}),
    ],
)
def test_what_is_read_as_something_else_is_rejected(worded, rows, change, causes):
    seen = [row for row in rows if row["template"] == "still_in_view"]
    taken, rejected = worded(read_otherwise(change), seen)
    assert taken == seen and len(seen) > 3
    assert {each.cause for each in rejected} <= causes and rejected


def test_another_view_is_another_question(worded, rows):
    beside = [row for row in rows if row["template"] == "beside_in_view"]

    def other_view(read, names):
        return {"view": "second" if read["view"] != "second" else "third"}

    taken, _ = worded(read_otherwise(other_view), beside)
    assert taken == beside


def test_names_may_be_read_with_an_article(worded, rows):
    seen = [row for row in rows if row["template"] == "still_in_view"]
    _, rejected = worded(read_otherwise(lambda read, names: {"a": f"The {read['a']} "}), seen)
    assert rejected == []


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("Is the {a} really left of the {b} in the {view} view?", "without 'right'"),
        ("In which way does the {a} stand to the {b}, left or right?", "without '{view}'"),
        ("In the {view} view, is the {a} left or right of the other one?", "without '{b}'"),
        ("Left or right: in the {view} view, where is the {a} next to the {b}?", None),
    ],
)
def test_wordings_hold_the_names_and_choices_of_the_template(rows, records, question, fault):
    for row in (row for row in rows if row["template"] == "beside_in_view"):
        record = next(record for record in records if record.scene_id == row["scene_id"])
        slots = slots_of(next(t for t in TEMPLATES if t.name == "beside_in_view"), row["plain"], record)
        expected = None if fault is None else fault.format(**slots)
        got = fault_in(row, question.format(**slots), record)
        assert got == expected or (expected == "without 'right'" and got == "without 'left'")


def test_an_answer_given_away_is_rejected(rows, records):
    told = [row for row in rows if row["template"] in ("mover", "ends_on", "hits_what")]
    for row in told:
        record = next(record for record in records if record.scene_id == row["scene_id"])
        plain = row["plain"].removesuffix("?").removesuffix(".")
        assert fault_in(row, f"{plain}, or rather the {row['answer']}?", record) == "gives the answer away"
        assert fault_in(row, f"Please: {plain}?", record) is None
    assert len(told) > 5


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


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Bad gateway</html>",
        b"",
        b'{"id": "1", "choi',
        b"[]",
        b"null",
        b'{"error": {"message": "no"}}',
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_what_is_no_protocol_is_told_with_its_place(worded, rows, content, kind):
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:\d+/v1/, model rules: "):
        worded(LanguageModel(lambda number, form, text: (200, content, {"Content-Type": kind})), rows[:2])


def test_secrets_in_the_address_are_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:SECRET@127.0.0.1:9/v1?api-key=SECRET")
    assert Endpoint("rules", tmp_path / "cache.jsonl").url == "http://127.0.0.1:9/v1/"
    with pytest.raises(ValueError, match="concurrency: got 0, expected 1 or more"):
        Endpoint("rules", tmp_path / "cache.jsonl", 0)


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
    splits = ["train"] * 5 + ["validation"] * 3 + ["test"] * 3
    own = [record.model_copy(update={"split": split}) for record, split in zip(records, splits, strict=False)]
    write_records(world / "some.jsonl", own)
    out = tmp_path / "out"
    command = ["csqa", "build", "--source", str(world / "some.jsonl"), "--questions", "40", "--out", str(out)]
    command += ["--wording", "openai:rules", "--wording-cache", str(tmp_path / "cache"), "--concurrency", "2"]

    def dies(number, form, text):
        return (0, {}, {}) if number >= 30 else answers_well(number, form, text)

    with LanguageModel(dies) as model:
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert f"{model.url}/, model rules: APIConnectionError" in told and KEY not in told
    assert not out.exists()

    def drops_names_of_some(number, form, text):
        if form == "Wording" and "Which" in text:
            return says({"question": "Which one is it, then?"})
        return answers_well(number, form, text)

    with LanguageModel(drops_names_of_some, port=model.port) as again:
        assert cli.main(command) == 0
    assert len(again.texts) < 80 - 25  # what had been answered is not asked again
    table = [row for file in sorted(out.glob("data/*.parquet")) for row in pq.read_table(file).to_pylist()]
    by = Counter(row["wording"] for row in table)
    assert by["openai:rules"] > 20 and by["template"] > 0 and len(list(out.glob("data/*"))) == 3
    rejections = [json.loads(line) for line in (out / "rejected_wordings.jsonl").read_text().splitlines()]
    assert {each["id"] for each in rejections} == {row["id"] for row in table if row["wording"] == "template"}
    statistics = json.loads((out / "statistics.json").read_text())["wording"]
    assert statistics["taken"] == by["openai:rules"] and sum(statistics["rejected"].values()) == by["template"]
    assert all(cause.startswith("without ") for cause in statistics["rejected"])
    assert f"{by['openai:rules']} in the words of openai:rules" in (out / "README.md").read_text()
    assert not verify(out, progress=False).mismatches

    # The same request gives the same bytes, and asks nothing but whether the model answers.
    other = tmp_path / "other"
    command[command.index(str(out))] = str(other)
    with LanguageModel(port=model.port) as third:
        assert cli.main(command) == 0
    assert len(third.texts) <= 1
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(out)).read_bytes()

    # What is worded is verified as well: the words, and that these were the ones that were read.
    for change in (
        lambda row: "What is the weather like?",
        lambda row: row["question"].replace("Can you", "Could you"),
    ):
        for file in sorted(out.glob("data/*.parquet")):
            original = pq.read_table(other / "data" / file.name)
            changed = [
                row | ({"question": change(row)} if row["wording"] != "template" else {})
                for row in original.to_pylist()
            ]
            pq.write_table(original.from_pylist(changed, schema=original.schema), file)
        assert len(verify(out, progress=False).mismatches) == by["openai:rules"]


def test_a_model_that_is_not_there_is_told_before_anything_is_rendered(tmp_path, monkeypatch, capsys):
    with LanguageModel(lambda *_: (404, {"error": {"message": "no such model"}}, {})) as model:
        monkeypatch.setenv("OPENAI_BASE_URL", model.url)
        command = ["csqa", "build", "--questions", "20", "--out", str(tmp_path / "out"), "--wording", "openai:none"]
        assert cli.main([*command, "--wording-cache", str(tmp_path / "cache")]) == 2
    assert "NotFoundError" in capsys.readouterr().err and not list(tmp_path.glob("*out*"))
