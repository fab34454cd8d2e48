# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which questions an evaluation asks: by name, evenly over templates, the same for the same seed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from polyv.evaluation.suites import SUITES, locate_media, parse_suites, select_questions


def write_world(folder: Path, counts: dict[tuple[str, str], int]) -> Path:
    """A questions.jsonl with so many questions of each (suite, template)."""
    rows = [
        {
            "id": f"{suite}-{template}-{i}",
            "suite": suite,
            "template": template,
            "question": f"question {i}?",
            "answer": "red",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": f"scenes/{i:06}/image.png"},
                        {"type": "text", "text": f"question {i}?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            ],
        }
        for (suite, template), count in counts.items()
        for i in range(count)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_parse_suites():
    assert parse_suites("all") == list(SUITES)
    assert parse_suites("scene_qa, general_image,scene_qa") == ["scene_qa", "general_image"]


@pytest.mark.parametrize("text", ["", "everything", "scene_qa,scene", "ALL"])
def test_parse_suites_refuses_what_is_no_suite(text):
    with pytest.raises(ValueError, match="general_image, spatial_image"):
        parse_suites(text)


def test_select_takes_n_a_suite_and_the_templates_evenly(tmp_path):
    world = write_world(
        tmp_path,
        {("scene_qa", "count"): 50, ("scene_qa", "rare"): 2, ("scene_qa", "shape"): 50, ("embodied_qa", "t"): 20},
    )
    rows = select_questions(world, ["embodied_qa", "scene_qa"], 12, seed=0)
    assert [row["suite"] for row in rows] == ["embodied_qa"] * 12 + ["scene_qa"] * 12
    assert Counter(row["template"] for row in rows[12:]) == {"count": 5, "shape": 5, "rare": 2}
    assert len({row["id"] for row in rows}) == 24


def test_select_depends_on_the_seed_only(tmp_path):
    world = write_world(tmp_path, {("scene_qa", "count"): 50})
    ids = [[row["id"] for row in select_questions(world, ["scene_qa"], 10, seed)] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_select_refuses_a_world_that_is_too_small(tmp_path):
    world = write_world(tmp_path, {("scene_qa", "count"): 5})
    with pytest.raises(ValueError, match="holds 5 questions of the suite scene_qa, n=6"):
        select_questions(world, ["scene_qa"], 6, seed=0)
    with pytest.raises(ValueError, match="holds 0 questions of the suite embodied_qa"):
        select_questions(world, ["embodied_qa"], 1, seed=0)
    with pytest.raises(ValueError, match="n=0"):
        select_questions(world, ["scene_qa"], 0, seed=0)


def test_media_are_found_from_the_working_folder(tmp_path):
    [row] = select_questions(write_world(tmp_path, {("scene_qa", "count"): 1}), ["scene_qa"], 1, seed=0)
    image, text = row["messages"][0]["content"]
    assert image == {"type": "image", "image": str(tmp_path / "scenes/000000/image.png")}
    assert text == {"type": "text", "text": "question 0?"}


def test_locate_media_leaves_its_argument_alone():
    messages = [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "?"}]}]
    assert locate_media(messages, Path("w"))[0]["content"][0]["video"] == str(Path("w/a.mp4"))
    assert messages[0]["content"][0]["video"] == "a.mp4"
