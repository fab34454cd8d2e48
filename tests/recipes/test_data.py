# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from polyv.recipes import data as data_module
from polyv.recipes.data import RowError, check_messages, read_messages, read_mixture, read_rows
from tests.recipes.conftest import turn


GOOD = {"messages": [turn("user", "How many?"), turn("assistant", "two")]}


def test_reads_rows_with_absolute_paths_and_their_other_columns(data):
    rows = read_rows(data / "rows.jsonl")
    assert rows.column_names == ["id", "messages", "source"]
    assert rows["id"] == ["0", "1", "2", "3", "4"]
    assert rows[3]["source"] == f"{data / 'rows.jsonl'}, row 4"
    two_images = read_messages(rows[3])[0]["content"]
    assert [entry.get("image") for entry in two_images] == [str(data / "a.png"), str(data / "b.png"), None]
    assert read_messages(rows[4]) == [
        {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two is red"}]},
    ]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("{", "Expecting property name enclosed in double quotes, at character 2 of the line"),
        ("[1]", "expected an object, got [1]"),
        (b"\xff", "can't decode"),
        ({"text": "How many?"}, "'messages' is None"),
        ({"messages": []}, "'messages' is []"),
        ({"messages": ["two"]}, "expected a 'role'"),
        ({"messages": [{"role": "robot", "content": "two"}]}, "expected a 'role' among"),
        ({"messages": [{"role": "user", "content": 3}]}, "expected a text or a list"),
        ({"messages": [turn("user", "How many?")]}, "no answer to learn"),
        ({"messages": [turn("user", "How many?"), turn("assistant", " ")]}, "not empty"),
        ({"messages": [turn("assistant", "two", image="a.png")]}, "assistant turn"),
        ({"messages": [turn("user", "?", sound="a.wav"), turn("assistant", "two")]}, "expected a 'type' among"),
        ({"messages": [turn("user", "?", image="c.png"), turn("assistant", "two")]}, "c.png: no such file"),
        ({"messages": [turn("user", "?", scene="room"), turn("assistant", "two")]}, "room: no such file"),
        ({"messages": [turn("user", "?", scene="http://a/b"), turn("assistant", "two")]}, "a/b: no such file"),
    ],
)
def test_names_a_wrong_row_and_its_cause(tmp_path, data, row, cause):
    file = tmp_path / "rows.jsonl"
    (tmp_path / "a.png").write_bytes((data / "a.png").read_bytes())
    line = row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(RowError) as error:
        read_rows(file)
    assert f"{file}, row 3: " in str(error.value)
    assert cause in str(error.value)


def test_addresses_are_left_as_they_are(tmp_path):
    addresses = ["https://example.org/a.png", "data:image/png;base64,AAAA"]
    messages = [turn("user", "?", image=address) for address in addresses] + [turn("assistant", "two")]
    checked = check_messages(messages, tmp_path)
    assert [message["content"][0]["image"] for message in checked[:2]] == addresses


def test_names_a_file_without_rows_and_one_whose_columns_disagree(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n")
    with pytest.raises(RowError, match=r"rows\.jsonl: holds no row"):
        read_rows(file)
    file.write_text(json.dumps({**GOOD, "id": "a"}) + "\n" + json.dumps({**GOOD, "id": [1]}) + "\n")
    with pytest.raises(RowError, match=r"rows\.jsonl: the values of one key differ in type"):
        read_rows(file)


def test_rows_may_differ_in_their_other_keys(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "difficulty": 3}) + "\n")
    assert read_rows(file)["difficulty"] == [None, 3]


@given(st.text().filter(str.strip), st.text(), st.floats(0.1, 9))
def test_texts_and_settings_come_through_unchanged(tmp_path_factory, answer, question, fps):
    folder = tmp_path_factory.mktemp("row")
    (folder / "v.mp4").touch()
    messages = [turn("user", question, video="v.mp4"), turn("assistant", answer)]
    messages[0]["content"][0]["fps"] = fps
    checked = check_messages(messages, folder)
    assert checked[0]["content"][0] == {"type": "video", "video": str(folder / "v.mp4"), "fps": fps}
    assert checked[0]["content"][1]["text"] == question
    assert read_messages({"messages": json.dumps(checked)}) == checked


def test_hub_datasets_may_hold_media_in_columns_of_their_own():
    rows = Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
                ],
                "images": ["a.png"],
            }
        ]
    )
    assert read_messages(rows[0])[0]["content"] == [
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "What?"},
    ]


def numbered(folder, name: str, count: int) -> str:
    file = folder / f"{name}.jsonl"
    rows = [
        {"messages": [turn("user", "?"), turn("assistant", f"{name}{i}")], "id": f"{name}{i}"} for i in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_column_that_holds_too_few_media_is_told():
    """`StopIteration` would end a training at its first step, as if all were well."""
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is larger?"}]
    row = {"id": "r7", "messages": [{"role": "user", "content": content}], "images": ["one.png"], "videos": None}
    with pytest.raises(RowError, match=r"show one more image than its column images holds \(id 'r7'\)"):
        read_messages(row)


def test_a_folder_is_read_as_it_is_now(tmp_path, monkeypatch):
    """By default, `datasets` gives what any local folder of that name once held."""
    monkeypatch.setattr(data_module, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for number, count in enumerate((3, 5)):
        folder = tmp_path / str(number) / "mine"
        folder.mkdir(parents=True)
        messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
        Dataset.from_list([{"messages": messages}] * count).to_parquet(str(folder / "train-00000.parquet"))
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: '*.parquet'}\n---\n"
        )
        assert len(read_mixture([str(folder)], None, 0)) == count


def test_mixes_by_weight_until_every_source_is_used_up(tmp_path):
    files = [numbered(tmp_path, "a", 200), numbered(tmp_path, "b", 30)]
    assert Counter(name[0] for name in read_mixture(files, None, 0)["id"]) == {"a": 200, "b": 30}
    mixed = read_mixture(files, [3, 1], seed=0)["id"]
    count = Counter(name[0] for name in mixed)
    assert len(set(mixed)) == 230
    assert count["a"] / len(mixed) == pytest.approx(0.75, abs=0.08)
    assert mixed == read_mixture(files, [3, 1], seed=0)["id"] != read_mixture(files, [3, 1], seed=1)["id"]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, 1.0, 1.0]])
def test_refuses_weights_that_do_not_fit(tmp_path, weights):
    files = [numbered(tmp_path, "a", 2), numbered(tmp_path, "b", 2)]
    with pytest.raises(ValueError, match="dataset_weights: got"):
        read_mixture(files, weights, 0)
