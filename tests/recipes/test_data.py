# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
from collections import Counter

import pytest
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from polyv.recipes import data as data_module
from polyv.recipes.data import read_mixture, read_rows, read_source
from polyv.recipes.rows import RowError, check_messages, is_silent, read_content, read_messages
from tests.recipes.conftest import turn


GOOD = {"messages": [turn("user", "How many?"), turn("assistant", "two")]}
ENTRY = {"type": "image", "image": "a.png", "max_pixels": 784}
SIZED = {"messages": [{"role": "user", "content": [ENTRY]}, turn("assistant", "two")]}


def test_reads_rows_with_absolute_paths(data):
    rows = read_rows(data / "rows.jsonl")
    assert rows.column_names == ["id", "messages", "content", "teachers", "source", "prompts"]
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
        ({"mesages": []}, "it has 'mesages', expected 'messages'"),
        ({"conversations": [{"from": "alien", "value": "?"}]}, "'alien'"),
        (
            {"messages": [turn("user", "?", video=["a.png", "a.png"]), turn("assistant", "2")]},
            "2 pictures: expected their rate",
        ),
        ({"messages": [turn("user", "?", video=["a.png"]), turn("assistant", "2")]}, "1 picture: expected their rate"),
        ({"messages": [turn("user", "?", video=["a.mp4"]), turn("assistant", "2")]}, "a path, or those of pictures"),
        ({"messages": None}, "'messages' is None"),
        ("[", "at character 2 of the line; expected one object a line"),
        ('{"messages": "\\ud800"}', "'messages' is"),
        ({"messages": GOOD["messages"], "content": {"video": "v.mp4"}}, "v.mp4: no such file"),
        ({"messages": [turn("user", "?", image="a.png"), turn("assistant", "a<|im_end|>b")]}, "holds <|im_end|>"),
        ({"messages": [turn("user", "A <synergy>?"), turn("assistant", "two")]}, "holds <synergy>"),
        ({**GOOD, "prompts": [1, 2]}, "'prompts' is [1, 2], expected a list of texts"),
        ({**GOOD, "prompts": [" "]}, "not empty"),
        ({**GOOD, "images": ["c.png"]}, "c.png: no such file"),
        ({**GOOD, "videos": [["a.png", "a.png"]]}, "expected one path or address"),
        ({**GOOD, "images": ["a.png"], "image": "a.png"}, "its columns images and image both hold media"),
        ({**GOOD, "image": "."}, "/.: it is no file"),
        ({"messages": [turn("user", "?", image=""), turn("assistant", "2")]}, "image '': expected one path"),
        (
            {"messages": [turn("user", "<image>\nHow many?"), turn("assistant", "2")]},
            "<image> would be learned as letters",
        ),
        (
            {"messages": [turn("user", "<image>?", image="a.png"), turn("assistant", "2")]},
            "would be learned as letters",
        ),
        ({"messages": [turn("user", "A <|scene_pad|>?"), turn("assistant", "two")]}, "holds <|scene_pad|>"),
        (
            {"messages": [turn("user", "<image> <image>?"), turn("assistant", "2")], "images": ["a.png"]},
            "image 2, and",
        ),
        ({"messages": [turn("user", "?", image="a.png"), turn("assistant", "2")], "image": "a.png"}, "show 0 of them"),
        ({"messages": [turn("assistant", "two")], "image": "a.png"}, "no user's turn to show them in"),
        (SIZED, "max_pixels would be ignored"),
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


def test_reads_conversations_as_llava_has_them(data, tmp_path):
    """The file's own format (a list), as fine-tuning scripts of Qwen2.5-VL take it; and the same as a dataset."""
    told = {
        "id": "7",
        "image": str(data / "a.png"),
        "system": "Be brief.",
        "conversations": [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "two"}],
    }
    (tmp_path / "rows.json").write_text(json.dumps([told, {**told, "id": "8"}], indent=1))
    Dataset.from_list([told]).save_to_disk(tmp_path / "saved")
    for rows in (read_rows(tmp_path / "rows.json"), read_mixture([str(tmp_path / "saved")], None, 0)):
        system, question, answer = read_messages(rows[0])
        assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        assert question["role"] == "user" and answer["content"] == [{"type": "text", "text": "two"}]
        assert question["content"] == [
            {"type": "image", "image": str(data / "a.png")},
            {"type": "text", "text": "\nHow many?"},
        ]
    (tmp_path / "rows.json").write_text('[{"id": 7}')
    with pytest.raises(RowError, match=r"rows\.json: it is not JSON: Expecting"):
        read_rows(tmp_path / "rows.json")


def test_names_a_wrong_row_of_a_list(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, {"messages": []}]))
    with pytest.raises(RowError, match=r"rows\.json, row 2: 'messages' is \[\]"):
        read_rows(tmp_path / "rows.json")


def test_a_video_may_be_its_pictures(data, tmp_path):
    frames = [str(data / "a.png"), str(data / "b.png")]
    clip = {"type": "video", "video": frames, "fps": 2}
    row = {"messages": [{"role": "user", "content": [clip]}, turn("assistant", "two")]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    read = read_rows(tmp_path / "rows.jsonl")[0]
    assert read_messages(read)[0]["content"] == [clip]
    assert read_content(read) == {}


def test_addresses_are_left_as_they_are(tmp_path):
    addresses = ["https://example.org/a.png", "data:image/png;base64,AAAA"]
    messages = [turn("user", "?", image=address) for address in addresses] + [turn("assistant", "two")]
    checked = check_messages(messages, tmp_path)
    assert [message["content"][0]["image"] for message in checked[:2]] == addresses


def test_names_a_file_without_rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n")
    with pytest.raises(RowError, match=r"rows\.jsonl: holds no row"):
        read_rows(file)


def test_what_training_does_not_read_may_be_anything(tmp_path):
    """Columns have one type, and files are mixed: a key that nothing needs must not keep them apart."""
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    extra = [{}, {"id": 1, "score": 1}, {"id": "one", "score": "n/a"}]
    files[0].write_text("".join(json.dumps({**GOOD, **more}) + "\n" for more in extra))
    files[1].write_text(json.dumps({**GOOD, "score": {"by": "me"}, "source": ["web"], "prompts": "Why?"}) + "\n")
    rows = read_mixture(list(map(str, files)), None, 0)
    assert rows["id"] == [None, "1", "one", None] and rows["prompts"] == [None, None, None, ["Why?"]]
    assert rows[3]["source"] == f"{files[1]}, row 1"


plain = st.text().filter(lambda text: "<" not in text)


@given(plain.filter(str.strip), plain, st.floats(0.1, 9))
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


def shown(rows: Dataset, index: int = 0) -> list:
    """What a row's messages hold in order: texts, and media by their kind."""
    contents = [message["content"] for message in read_messages(rows[index])]
    return [entry.get("text", entry["type"]) for content in contents for entry in content]


@pytest.mark.parametrize(
    ("question", "media", "expected"),
    [
        # As TRL has them: all pictures of the column come first.
        ("Which?", ["images", 2], ["image", "image", "Which?", "two"]),
        ("Which?", ["image", 1], ["image", "Which?", "two"]),
        # LLaMA-Factory's.
        ("<image>Which? <image>", ["images", 2], ["image", "Which? ", "image", "two"]),
        # HuggingFaceH4/llava-instruct-mix-vsft's, with what Arrow fills in.
        (
            [{"index": None, "text": "Which?", "type": "text"}, {"index": 0, "text": None, "type": "image"}],
            ["images", 1],
            ["Which?", "image", "two"],
        ),
        (
            [{"text": "Which?", "type": "text"}, {"text": "", "type": "image"}],
            ["images", 1],
            ["Which?", "image", "two"],
        ),
    ],
)
def test_datasets_may_hold_pictures_in_columns(data, tmp_path, monkeypatch, question, media, expected):
    monkeypatch.setattr(data_module, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    column, count = media
    pictures = [{"bytes": (data / "a.png").read_bytes(), "path": None}] * count
    row = {
        "messages": [{"role": "user", "content": question}],
        column: pictures if column == "images" else pictures[0],
    }
    row["messages"].append(
        {"role": "assistant", "content": "two" if isinstance(question, str) else [text_entry("two")]}
    )
    rows = Dataset.from_list([row]).cast_column(column, List(Image()) if column == "images" else Image())
    rows.save_to_disk(str(tmp_path / "mine"))
    read = read_source(str(tmp_path / "mine"))
    assert shown(read) == expected
    assert read["source"] == [f"{tmp_path / 'mine'}, row 1"]
    assert json.loads(read["messages"][0])[0]["content"] == [
        {"type": "image", **({"index": 0} if isinstance(question, list) and "index" in question[0] else {})}
        if part == "image"
        else text_entry(part)
        for part in expected[:-1]
    ]


def text_entry(text: str) -> dict:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("messages", "columns", "cause"),
    [
        ([{"role": "human", "content": "?"}, {"role": "gpt", "content": "two"}], {}, "expected a 'role' among"),
        ([{"role": "user", "content": "?"}], {}, "no answer to learn"),
        (
            [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "2"}],
            {"images": ["a.png", "a.png"]},
            "of them",
        ),
        (
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}],
            {"images": ["b.png"]},
            "no such file",
        ),
        (
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}],
            {"content": "a text"},
            "'content' is 'a",
        ),
        ('"a text"', {}, "'messages' is 'a text', expected a list"),
        ("a text", {}, "'messages' is 'a text', expected a list"),
        ('[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "2"}]', {}, "half a character"),
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "<synergy>"}], {}, "holds <synergy>"),
    ],
)
def test_rows_of_datasets_are_checked_like_those_of_files(tmp_path, data, messages, columns, cause):
    good = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}]
    good = json.dumps(good) if isinstance(messages, str) else good
    rows = [{"messages": good, **dict.fromkeys(columns)}, {"messages": messages, **columns}]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "mine"))
    (tmp_path / "mine/a.png").write_bytes((data / "a.png").read_bytes())
    with pytest.raises(RowError) as error:
        read_source(str(tmp_path / "mine"))
    assert f"{tmp_path / 'mine'}, row 2: " in str(error.value) and cause in str(error.value)


def test_pictures_in_messages_are_told_where_to_stand(data, tmp_path):
    entry = {"type": Value("string"), "image": Image(), "text": Value("string")}
    features = Features({"messages": List({"role": Value("string"), "content": List(entry)})})
    messages = [
        {"role": "user", "content": [{"type": "image", "image": str(data / "a.png"), "text": None}]},
        {"role": "assistant", "content": [{"type": "text", "image": None, "text": "two"}]},
    ]
    Dataset.from_list([{"messages": messages}], features=features).save_to_disk(str(tmp_path / "mine"))
    with pytest.raises(RowError, match=r"row 1: image .*media themselves stand in a dataset's column 'images'"):
        read_source(str(tmp_path / "mine"))


def test_datasets_of_contents_alone(tmp_path):
    rows = [{"content": {"image": None, "video": "v.mp4"}, "messages": None}]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "mine"))
    (tmp_path / "mine/v.mp4").touch()
    (row,) = read_source(str(tmp_path / "mine"))
    assert is_silent(row) and read_content(row) == {"video": str(tmp_path / "mine/v.mp4")}
    with pytest.raises(RowError, match="mine, row 1: it names a content, and has no messages"):
        read_messages(row)


PICTURE = {"bytes": b"png", "path": None}
ASKED = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "two"}]


@pytest.mark.parametrize(
    ("columns", "features", "expected"),
    [
        # A row's pictures are in the one column or in the other.
        ({"images": [], "image": PICTURE}, {"images": List(Image()), "image": Image()}, ["image", "Which?", "two"]),
        ({"images": None, "image": PICTURE}, {"images": List(Image()), "image": Image()}, ["image", "Which?", "two"]),
        (
            {"images": [PICTURE], "image": None},
            {"images": List(Image()), "image": Image()},
            ["image", "Which?", "two"],
        ),
        ({"images": [None, PICTURE]}, {"images": List(Image())}, ["image", "Which?", "two"]),
        ({"images": [PICTURE] * 2}, {"images": List(Image(), length=2)}, ["image", "image", "Which?", "two"]),
        ({"image": ""}, {"image": Value("string")}, ["Which?", "two"]),
        ({"image": "a.png"}, {"image": Value("string")}, ["image", "Which?", "two"]),
        ({"images": ["a.png", None]}, {"images": List(Value("string"))}, ["image", "Which?", "two"]),
    ],
)
def test_columns_of_datasets_come_in_many_kinds(columns, features, expected, data, tmp_path):
    texts = Features({"messages": List({"role": Value("string"), "content": Value("string")})})
    rows = Dataset.from_list([{"messages": ASKED, **columns}], features=Features({**texts, **features}))
    rows.with_format("numpy", columns=["messages"]).save_to_disk(str(tmp_path / "mine"))
    (tmp_path / "mine/a.png").write_bytes((data / "a.png").read_bytes())
    assert shown(read_source(str(tmp_path / "mine"))) == expected


def test_a_row_with_media_in_two_columns_is_refused(tmp_path):
    features = {"images": List(Image()), "image": Image()}
    texts = Features({"messages": List({"role": Value("string"), "content": Value("string")})})
    rows = [{"messages": ASKED, "images": [PICTURE], "image": PICTURE}]
    Dataset.from_list(rows, features=Features({**texts, **features})).save_to_disk(str(tmp_path / "mine"))
    with pytest.raises(RowError, match="row 1: its columns images and image both hold media"):
        read_source(str(tmp_path / "mine"))


def test_a_folder_that_datasets_cannot_read_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.jsonl").write_text('{"messages": [\n')
    with pytest.raises(RowError, match=r"dataset=.*mine: An error occurred .*JSON parse error"):
        read_source(str(tmp_path / "mine"))


def test_rows_that_were_read_may_be_saved_and_read_again(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    rows = read_rows("rows.jsonl")
    rows.save_to_disk(str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    again = read_source("mine")
    assert again["messages"] == rows["messages"] and again["source"][0] == "mine, row 1"


def test_files_may_have_their_media_in_a_list(data, tmp_path):
    file = tmp_path / "rows.jsonl"
    (tmp_path / "a.png").write_bytes((data / "a.png").read_bytes())
    ask = {"role": "user", "content": "Here <image>: how many?"}
    file.write_text(json.dumps({"messages": [ask, *GOOD["messages"][1:]], "images": "a.png"}) + "\n")
    assert read_messages(read_rows(file)[0])[0]["content"] == [
        text_entry("Here "),
        {"type": "image", "image": str(tmp_path / "a.png")},
        text_entry(": how many?"),
    ]


@pytest.mark.parametrize("source", ["no/such", "folder"])
def test_names_a_dataset_that_is_none(tmp_path, source):
    (tmp_path / "folder").mkdir()
    source = str(tmp_path / source)
    with pytest.raises(RowError, match=f"dataset={source}: .*Expected a file of rows"):
        read_source(source)


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
    with pytest.raises(RowError, match=r"id 'r7': its messages show image 2, and its column images holds 1"):
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
