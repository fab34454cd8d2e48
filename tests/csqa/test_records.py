# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from polyv.csqa.importers.world import from_world
from polyv.csqa.records import Appearance, Media, Relation, SceneObject, SceneRecord, read_records, write_records
from tests.world.factory import random_record


def scene(**changes) -> SceneRecord:
    """The least that a graph may tell: two things in a video, and what one does to the other."""
    values = {
        "scene_id": "one",
        "source": "mine",
        "split": "train",
        "media": Media(video="one.mp4"),
        "objects": (SceneObject(id="1", category="person"), SceneObject(id="2", category="cup")),
        "relations": (Relation(subject="1", predicate="holding", object="2", start=1.0, end=2.5),),
        "fps": 5.0,
    }
    return SceneRecord(**{**values, **changes})


def test_records_come_back_from_json_lines_as_they_were(tmp_path):
    records = [scene(), *(from_world(random_record(index)) for index in range(5))]
    assert write_records(tmp_path / "graphs.jsonl", iter(records)) == 6
    assert list(read_records(tmp_path / "graphs.jsonl")) == records
    assert [path.name for path in tmp_path.iterdir()] == ["graphs.jsonl"]


def test_a_bad_line_is_named_with_its_field(tmp_path):
    path = tmp_path / "graphs.jsonl"
    good = scene().model_dump_json()
    for bad, message in [
        ("{", r"graphs\.jsonl, line 3: the record: Invalid JSON"),
        (json.dumps({**json.loads(good), "fps": "fast"}), r"line 3: fps: .*number.*got 'fast'"),
        (json.dumps({**json.loads(good), "colour": 1}), r"line 3: colour: Extra inputs are not permitted"),
    ]:
        path.write_text(f"{good}\n\n{bad}\n")
        lines = read_records(path)
        assert next(lines) == scene()
        with pytest.raises(ValueError, match=message):
            next(lines)


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "graphs.jsonl"
    write_records(path, [scene()])

    def interrupted():
        yield scene(scene_id="two")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, interrupted())
    assert [record.scene_id for record in read_records(path)] == ["one"]
    assert [file.name for file in tmp_path.iterdir()] == ["graphs.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": (SceneObject(id="1", category="cup"),) * 2}, "the ids 1 stand more than once"),
        (
            {"relations": (Relation(subject="9", predicate="on"),)},
            r"relations\[0\]: its subject '9' is the id of no object",
        ),
        ({"times": (0.0, 0.5)}, None),
        (
            {"relations": (Relation(subject="1", predicate="on", object="22"),)},
            r"relations\[0\]: its object '22' is the id of no object, nor among `surroundings`",
        ),
        (
            {
                "times": (0.0, 0.5),
                "objects": (
                    SceneObject(id="1", category="cup", in_video=(Appearance(),) * 3),
                    SceneObject(id="2", category="cup"),
                ),
                "relations": (),
            },
            "in_video has 2 and 3 entries",
        ),
    ],
)
def test_a_graph_that_does_not_fit_together_is_refused(changes, message):
    if message is None:
        scene(**changes)
        return
    with pytest.raises(ValidationError, match=message):
        scene(**changes)


def test_times_come_from_the_annotation_or_the_rate():
    assert scene().seconds(3) == 0.6
    assert scene(times=(0.0, 1.5)).seconds(1) == 1.5
    with pytest.raises(ValueError, match="scene one: neither `times` nor `fps` is told"):
        scene(fps=None).seconds(0)


def test_names_are_colour_and_category():
    assert SceneObject(id="1", category="ball", attributes={"colour": "red", "size": "large"}).name == "red ball"
    assert SceneObject(id="1", category="person").name == "person"


def test_the_published_schema_is_todays():
    """Renew it by `python -m polyv.csqa.records > docs/scene-record.schema.json`."""
    schema = Path(__file__).parents[2] / "docs" / "scene-record.schema.json"
    assert json.loads(schema.read_text(encoding="utf-8")) == SceneRecord.model_json_schema()


def test_the_ten_lines_of_the_documentation_give_what_they_say(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "csqa.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", text, re.DOTALL).groups()
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/csqa.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in printed.splitlines()]
