# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Answers derived a second time, from the records alone: by none of the code that asks."""

import json

import numpy as np
import pytest

from polyv.world.conversations import write_jsonl
from polyv.world.questions import SUITES
from polyv.world.records import Appearance, WorldRelation
from polyv.world.sightings import Sight
from tests.world import factory
from tests.world.factory import COLOURS, SHAPES, Thing, random_record


NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> dict[str, list]:
    """(question, answer, record, partner's record) by template, of 160 scenes."""
    folder = tmp_path_factory.mktemp("world")
    records = {record.scene_id: record for record in (hide_one(random_record(index)) for index in range(160))}
    write_jsonl(folder, list(records.values()), seed=5)
    found: dict[str, list] = {}
    for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        media = [part["video"] for part in row["messages"][0]["content"] if part["type"] == "video"]
        partner = next((r for r in records.values() if len(media) == 2 and r.media.video == media[1]), None)
        entry = (row["question"].lower(), row["answer"], records[row["scene_id"]], partner)
        found.setdefault(f"{row['suite']}/{row['template']}", []).append(entry)
    return found


def hide_one(scene):
    """The same with its last object out of sight in the third view."""
    *others, last = scene.objects
    views = (*last.in_views[:2], Appearance(box=None, visible=0.0), *last.in_views[3:])
    return scene.model_copy(update={"objects": (*others, last.model_copy(update={"in_views": views}))})


def looks(thing, medium: str) -> list:
    return {"image": [thing.in_image], "video": thing.in_video, "scene": thing.in_views}[medium]


def shown(record, medium: str) -> list:
    """What shows at all and is neither table nor ramp; where it is counted, all of it is clear."""
    solid = [thing for thing in record.objects if thing.category in SHAPES]
    return [thing for thing in solid if any(look.box is not None for look in looks(thing, medium))]


def named(words: str, record):
    """The object of a name, colour and shape, in a question."""
    (found,) = [thing for thing in record.objects if f"{thing.attributes['colour']} {thing.category}" in words]
    return found


def word_in(words: str, among) -> str:
    (found,) = [word for word in among if any(part.startswith(word) for part in words.split())]
    return found


@pytest.mark.parametrize("template", ["general_image/count_colour", "scene_qa/count_colour"])
def test_objects_of_a_colour(asked, template):
    medium = "image" if "image" in template else "scene"
    for question, answer, record, _ in (rows := asked[template]):
        colour = word_in(question, COLOURS)
        assert answer == NUMBERS[sum(thing.attributes["colour"] == colour for thing in shown(record, medium))]
    assert len({answer for _, answer, *_ in rows}) > 1


def test_objects_of_a_fly_through(asked):
    for _, answer, record, _ in asked["spatial_video/fly_count"]:
        assert answer == NUMBERS[len(shown(record, "video"))]
    for question, answer, record, _ in asked["spatial_video/fly_count_shape"]:
        shape = word_in(question, SHAPES)
        assert answer == NUMBERS[sum(thing.category == shape for thing in shown(record, "video"))]


def test_the_object_nearest_to_the_camera(asked):
    for _, answer, record, _ in (rows := asked["spatial_image/closest_shape"]):
        eye = np.array(record.image_camera.pose)[:3, 3]
        nearest = min(record.objects, key=lambda thing: np.linalg.norm(np.subtract(thing.position, eye)))
        assert answer == nearest.category
    assert len({answer for _, answer, *_ in rows}) > 1


@pytest.mark.parametrize("first", [0, 1])
def test_what_moves_first(first):
    things = [
        Thing("red", "ball", (-0.8, 0, 0.2), step=(0, 0.1, 0)),
        Thing("blue", "ball", (0.8, 0, 0.2), step=(0, 0.1, 0)),
    ]
    starts = {f"object_{first}": 0.0, f"object_{1 - first}": 1.0}
    moves = tuple(
        WorldRelation(subject=who, predicate="moves", object=None, start=start) for who, start in starts.items()
    )
    (template,) = [one for one in SUITES["general_video"] if one.name == "moves_first"]
    (found,) = template.find(Sight(factory.record(things, moves)), np.random.default_rng(0))
    assert found.answer == things[first].colour


def way(thing, camera) -> str:
    """Which way it goes for the camera, from its first steps: they are straight."""
    places = np.array(thing.track)
    moving = np.linalg.norm(places - places[0], axis=1) > 0.05
    step = (places[moving.argmax()] - places[0]) @ np.array(camera.pose)[:3, :3]
    sideways, _, forward = step
    if abs(sideways) > abs(forward):
        return "right" if sideways > 0 else "left"
    return "away" if forward > 0 else "towards"


def test_whether_two_set_out_the_same_way(asked):
    for question, answer, record, partner in (rows := asked["cross_video/same_direction"]):
        half = question.index(" in the second" if " in the second" in question else " of the second")
        middle = question.index("first video")
        one, other = named(question[:middle], record), named(question[middle:half], partner)
        same = way(one, record.video_cameras[0]) == way(other, partner.video_cameras[0])
        assert answer == ("yes" if same else "no"), question
    assert {answer for _, answer, *_ in rows} == {"yes", "no"}


def test_what_a_view_shows(asked):
    for question, answer, record, _ in (rows := asked["embodied_qa/seen_in_view"]):
        view = ORDINALS.index(word_in(question, ORDINALS))
        assert answer == ("no" if named(question, record).in_views[view].box is None else "yes")
    assert {answer for _, answer, *_ in rows} == {"yes", "no"}


def test_what_a_ball_will_hit(asked):
    for question, answer, record, _ in (rows := asked["temporal_image/will_hit_it"]):
        end = question.index(" hit the ")
        ball, target = named(question[:end], record), named(question[end:], record)
        hits = sorted(
            (one.start, one.object) for one in record.relations if one.predicate == "hits" and one.subject == ball.id
        )
        assert answer == ("yes" if hits and hits[0][1] == target.id else "no")
    assert rows
