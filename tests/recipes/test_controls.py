# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Controls: whose content or media a row gets, and what stays its own."""

import json

import pytest

from polyv.recipes.controls import write_control
from polyv.recipes.data import read_rows
from polyv.recipes.rows import RowError, read_content


def media(row: dict) -> list[str]:
    content = row["messages"][0]["content"]
    return [entry[entry["type"]] for entry in content if entry["type"] != "text"]


@pytest.fixture
def rows(tmp_path):
    """Clips of ten scenes asked one question or another, and two pictures; each has a content but the last."""
    folder = tmp_path / "world"
    folder.mkdir()
    made = []
    for index in range(12):
        kind, name = ("video", f"{index}.mp4") if index < 10 else ("image", f"{index}.png")
        (folder / name).write_text("")
        question = {
            "role": "user",
            "content": [{"type": kind, kind: name}, {"type": "text", "text": f"Q{index % 2}?"}],
        }
        row = {
            "scene_id": str(index // 2 if index < 4 else index),
            "templates": ["a" if index % 2 else "b"],
            "messages": [question, {"role": "assistant", "content": str(index)}],
        }
        if index < 11:
            row["content"] = {"video": name if kind == "video" else "0.mp4"}
        made.append(row)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return folder / "rows.jsonl"


def read(file):
    """Rows as training reads them, and of which templates they are."""
    asked = [json.loads(line).get("templates") for line in file.read_text().splitlines()]
    return read_rows(file).add_column("templates", asked)


def test_shuffled_teachers_see_another_scene_of_the_same_questions(rows, tmp_path):
    before, after = read(rows), read(write_control("shuffled", rows, tmp_path / "out" / "s.jsonl", seed=0))
    donors = {content["video"]: row["templates"] for row in before if (content := read_content(row)).get("video")}
    moved = 0
    for old, new in zip(before, after, strict=True):
        assert media_names(old) == media_names(new) and old["templates"] == new["templates"]
        assert names(read_content(old, "content")) == names(read_content(new, "content"))
        if old["content"] is not None and "mp4" in media_names(old)[0]:
            (seen,) = read_content(new).values()
            moved += names({"video": seen}) != names(read_content(old))
            assert next(t for path, t in donors.items() if path.endswith(seen.rsplit("/", 1)[1])) == old["templates"]
    assert moved == 10


def test_strangers_are_asked_whatever_they_are_asked(rows, tmp_path):
    before, after = read(rows), read(write_control("strangers", rows, tmp_path / "out" / "s.jsonl", seed=0))
    asked = {names(read_content(row))["video"]: row["templates"] for row in before.select(range(10))}
    pairs = []
    for old, new in zip(before.select(range(10)), after.select(range(10)), strict=True):
        assert media_names(old) == media_names(new) and names(read_content(new, "content")) == names(read_content(old))
        assert names(read_content(new)) != names(read_content(old))
        pairs.append((old["templates"], asked[names(read_content(new))["video"]]))
    assert any(one != other for one, other in pairs)


@pytest.mark.parametrize("control", ["shuffled", "strangers", "blind"])
def test_nobody_gets_what_is_of_its_own_scene(tmp_path, control, capsys):
    """Each of ten scenes has two rows that are asked the same; one row is like no other."""
    made = []
    for index in range(21):
        kind = "image" if index == 20 else "video"
        name = f"{index // 2}-{index}.{kind}"
        (tmp_path / name).write_text("")
        content = [{"type": kind, kind: name}, {"type": "text", "text": "Q?"}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
        row = {"scene_id": str(index // 2), "templates": ["a"], "messages": messages, "content": {kind: name}}
        made.append(row)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    for seed in range(5):
        after = read_rows(write_control(control, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", seed=seed))
        got = [
            media_names(row)[0] if control == "blind" else next(iter(names(read_content(row)).values()))
            for row in after
        ]
        same = [index for index, name in enumerate(got) if int(name.split("-")[0]) == index // 2]
        assert same == [20]
    assert f"{control}: 1 of 21 rows are alike to none of another scene" in capsys.readouterr().out


def test_shuffled_teachers_see_what_the_others_would_have_seen(tmp_path):
    rows = [{"id": n, "content": {"image": f"{n}.png"}, "teachers": {"video": f"{n}.mp4"}} for n in "ab"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.png", "b.png", "a.mp4", "b.mp4"):
        (tmp_path / name).write_text("")
    rows = read_rows(write_control("shuffled", tmp_path / "rows.jsonl", tmp_path / "out.jsonl", seed=0))
    assert [names(read_content(row)) for row in rows] == [{"video": "b.mp4"}, {"video": "a.mp4"}]
    assert [names(read_content(row, "content")) for row in rows] == [{"image": "a.png"}, {"image": "b.png"}]


def media_names(row: dict) -> list[str]:
    return [path.rsplit("/", 1)[1] for path in media({"messages": json.loads(row["messages"])})]


def names(content: dict[str, str]) -> dict[str, str]:
    return {kind: path.rsplit("/", 1)[1] for kind, path in content.items()}


def test_the_blind_are_shown_other_media_of_the_same_kind_and_keep_their_words(rows, tmp_path):
    before, after = read_rows(rows), read_rows(write_control("blind", rows, tmp_path / "b.jsonl", seed=0))
    for old, new in zip(before, after, strict=True):
        (was,), (now,) = media_names(old), media_names(new)
        assert was.rsplit(".")[1] == now.rsplit(".")[1]
        texts = [
            [e["text"] for m in json.loads(row["messages"]) for e in m["content"] if e["type"] == "text"]
            for row in (old, new)
        ]
        assert texts[0] == texts[1]
        if was.endswith("mp4"):
            assert was != now


def test_a_seed_gives_the_same_bytes_and_another_seed_others(rows, tmp_path):
    first = write_control("blind", rows, tmp_path / "1.jsonl", seed=1).read_bytes()
    assert first == write_control("blind", rows, tmp_path / "2.jsonl", seed=1).read_bytes()
    assert first != write_control("blind", rows, tmp_path / "3.jsonl", seed=2).read_bytes()


def test_what_cannot_be_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="control=deaf: expected one of shuffled, strangers, blind, sample"):
        write_control("deaf", rows, tmp_path / "x.jsonl", seed=0)
    (tmp_path / "none.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}) + "\n")
    with pytest.raises(RowError, match="no row names a content"):
        write_control("shuffled", tmp_path / "none.jsonl", tmp_path / "x.jsonl", seed=0)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_smaller_sample_is_part_of_a_larger(rows, tmp_path):
    def ids(share: float | str) -> list:
        made = read_rows(write_control("sample", rows, tmp_path / f"{share}.jsonl", seed=1, share=share))
        return [media_names(row)[0] for row in made]

    one, some, whole = ids("0.1"), ids(0.5), ids(1.0)
    assert (len(one), len(some), len(whole)) == (1, 6, 12) and set(one) < set(some) < set(whole)
    assert whole == [media_names(row)[0] for row in read_rows(rows)]
    for share, message in ((0.0, "share=0.0: expected a number above 0"), (0.01, "share=0.01 of its 12 rows is none")):
        with pytest.raises(ValueError, match=message):
            write_control("sample", rows, tmp_path / "none.jsonl", seed=0, share=share)
    assert not (tmp_path / "none.jsonl").exists()
