# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
from pathlib import Path

import numpy as np
import pytest

from polyv.csqa.executor import NUMBERS
from polyv.csqa.sight import is_clear
from polyv.world import conversations
from polyv.world.conversations import FILES, TURNS, pair_up, write_jsonl
from polyv.world.questions import SUITES, ask_general
from polyv.world.sightings import is_furniture
from tests.world.factory import random_record


@pytest.fixture(scope="module")
def records():
    return [random_record(index) for index in range(60)]


@pytest.fixture(scope="module")
def folder(records, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_jsonl(folder, records, seed=3)
    return folder


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def parts(row: dict) -> list[dict]:
    return [part for message in row["messages"] for part in message["content"]]


def test_writes_the_five_files_and_nothing_else(folder, records):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    counts = write_jsonl(folder, records, seed=3)
    assert counts == {name: len(rows(folder, name)) for name in FILES}


CONVERSATIONS = [name for name in FILES if name != "contents.jsonl"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_rows_are_conversations_over_existing_paths(folder, records, name):
    known = {path for record in records for path in record.media.model_dump().values()}
    known |= {f"{r.media.scene}/color/{view}.png" for r in records for view in range(len(r.view_cameras))}
    for row in rows(folder, name):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        for number, message in enumerate(row["messages"]):
            kinds = [part["type"] for part in message["content"]]
            assert kinds[-1] == "text" and "text" not in kinds[:-1]
            assert (len(kinds) > 1) == (number == 0), "media stand in the first user turn only"
            for part in message["content"][:-1]:
                assert set(part) == {"type", part["type"]} and part[part["type"]] in known
        assert row["scene_id"] in {record.scene_id for record in records}


@pytest.mark.parametrize("name", FILES)
def test_ids_are_unique_and_name_the_split(folder, name):
    ids = [row["id"] for row in rows(folder, name)]
    assert len(set(ids)) == len(ids) and all(key.startswith("train-") for key in ids)


def test_conversations_have_up_to_eight_turns(folder):
    lengths = {name: {len(row["messages"]) // 2 for row in rows(folder, name)} for name in CONVERSATIONS}
    assert lengths["captions.jsonl"] == lengths["questions.jsonl"] == {1}
    for name in ("general.jsonl", "suites.jsonl"):
        assert max(lengths[name]) <= TURNS and max(lengths[name]) > 4


def test_contents_name_all_media_of_a_scene_and_ask_without_answers(folder, records):
    answered = {
        (row["scene_id"], message["content"][-1]["text"])
        for row in rows(folder, "suites.jsonl")
        for message in row["messages"]
        if message["role"] == "user" and len(row["messages"][0]["content"]) == 2
    }
    contents = rows(folder, "contents.jsonl")
    assert [row["scene_id"] for row in contents] == [record.scene_id for record in records]
    for row, record in zip(contents, records, strict=True):
        assert "messages" not in row and row["prompts"]
        assert {(row["scene_id"], prompt) for prompt in row["prompts"]} <= answered
        assert row["content"]["image"] == [path for path, _, _ in record.stills()]
        assert (row["content"]["video"], row["content"]["scene"]) == (record.media.video, record.media.scene)


def test_training_rows_name_the_content_that_they_show(folder, records):
    media = {record.scene_id: (record.media.video, record.media.scene) for record in records}
    for name in ("captions.jsonl", "general.jsonl", "suites.jsonl"):
        for row in rows(folder, name):
            kinds = [part["type"] for part in row["messages"][0]["content"]]
            if kinds[:2] == ["video", "video"]:
                assert "content" not in row
            else:
                assert (row["content"]["video"], row["content"]["scene"]) == media[row["scene_id"]]
    assert not any("content" in row for row in rows(folder, "questions.jsonl"))


def test_no_question_is_asked_twice_in_a_conversation(folder):
    for name in ("general.jsonl", "suites.jsonl"):
        for row in rows(folder, name):
            asked = [m["content"][-1]["text"] for m in row["messages"] if m["role"] == "user"]
            assert len(set(asked)) == len(asked)


def test_general_questions_are_asked_on_every_still_picture_and_answered_by_what_it_shows(folder, records):
    looks = {path: (r, camera, seen) for r in records for path, camera, seen in r.stills()}
    asked = [row for row in rows(folder, "general.jsonl") if row["messages"][0]["content"][0]["type"] == "image"]
    shown = {row["messages"][0]["content"][0]["image"] for row in asked}
    assert len(shown) > 0.9 * len(looks), "a picture without a question is one in which everything is half hidden"
    counted = 0
    for row in asked:
        record, camera, seen = looks[row["messages"][0]["content"][0]["image"]]
        clear = [t for t, look in zip(record.objects, seen, strict=True) if is_clear(look, camera)]
        for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True):
            words, said = question["content"][-1]["text"], answer["content"][0]["text"]
            if "shape is the" in words:
                assert [t.category for t in clear if t.attributes["colour"] in words.split()] == [said]
            elif words in ("Count the objects in the picture.", "How many objects are in the picture?"):
                assert said == NUMBERS[sum(not is_furniture(thing) for thing in clear)]
                counted += 1
    assert counted > 100


def test_questions_on_further_stills_change_nothing_else(folder, records, tmp_path, monkeypatch):
    def only_the_three_media(record, rng, balance, most=1, media=("image", "video", "scene")):
        return ask_general(record, rng, balance, most, media) if len(media) == 3 else []

    monkeypatch.setattr(conversations, "ask_general", only_the_three_media)
    write_jsonl(tmp_path, records, seed=3)
    for name in set(FILES) - {"general.jsonl"}:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    fewer, all_of_them = (rows(place, "general.jsonl") for place in (tmp_path, folder))
    assert fewer == [row for row in all_of_them if "-still-" not in row["id"]] and len(fewer) < len(all_of_them)


def test_questions_carry_what_evaluation_reads(folder):
    asked = rows(folder, "questions.jsonl")
    assert {row["suite"] for row in asked} == set(SUITES)
    for row in asked:
        assert set(row) == {"id", "scene_id", "suite", "template", "question", "answer", "messages"}
        assert [part["text"] for part in parts(row) if part["type"] == "text"] == [row["question"], row["answer"]]
        assert row["template"] in {template.name for template in SUITES[row["suite"]]}


def test_media_of_each_suite(folder):
    shown: dict[str, set[tuple[str, ...]]] = {}
    for row in rows(folder, "questions.jsonl"):
        kinds = tuple(part["type"] for part in parts(row) if part["type"] != "text")
        shown.setdefault(row["suite"], set()).add(kinds)
    assert shown == {
        "general_image": {("image",)},
        "spatial_image": {("image",)},
        "temporal_image": {("image",)},
        "multi_image": {("image", "image")},
        "spatial_video": {("video",)},
        "general_video": {("video",)},
        "cross_video": {("video", "video")},
        "scene_qa": {("scene",)},
        "situated_qa": {("scene",)},
        "embodied_qa": {("scene",)},
    }


def test_same_seed_same_bytes_and_another_seed_others(folder, records, tmp_path):
    def read(place: Path) -> list[bytes]:
        return [(place / name).read_bytes() for name in FILES]

    write_jsonl(tmp_path, records, seed=3)
    assert read(tmp_path) == read(folder)
    write_jsonl(tmp_path, records, seed=4)
    assert all(one != other for one, other in zip(read(tmp_path), read(folder), strict=True))


def test_only_moving_scenes_are_paired_and_never_with_themselves(records):
    pairs = pair_up(records, np.random.default_rng(0))
    moving = {index for index, record in enumerate(records) if record.layout != "static"}
    assert set(pairs) == moving and set(pairs.values()) <= moving
    assert all(one != other for one, other in pairs.items())


def test_one_moving_scene_has_no_partner(records):
    one = next(record for record in records if record.layout != "static")
    assert pair_up([one], np.random.default_rng(0)) == {}


def test_mixed_splits_are_refused(tmp_path, records):
    with pytest.raises(ValueError, match=r"one split, got \['test', 'train'\]"):
        write_jsonl(tmp_path, [records[0], random_record(1, "test")])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_files(folder, records, tmp_path):
    write_jsonl(tmp_path, records[:5], seed=0)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    broken = records[0].model_copy(update={"video_cameras": ()})
    with pytest.raises((ValueError, IndexError)):
        write_jsonl(tmp_path, [*records[:3], broken], seed=0)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
