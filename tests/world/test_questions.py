# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Answers are derived a second time here, from the records alone and by other means than the package's."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyv.csqa.balance import Balance
from polyv.csqa.executor import NUMBERS
from polyv.world.questions import GENERAL, SUITES, Question, ask, ask_general
from polyv.world.records import WorldObject, WorldRecord, WorldRelation
from polyv.world.templates import Found
from tests.world.factory import HOME, Thing, project, random_record, record


TEN = (
    "general_image",
    "spatial_image",
    "multi_image",
    "spatial_video",
    "cross_video",
    "general_video",
    "scene_qa",
    "situated_qa",
    "embodied_qa",
    "temporal_image",
)
SHAPE_TELLS = ("does_move", "does_fall", "will_fall", "hit_what", "seen_in_view", "will_hit_it")
SPACE_AND_TIME = (
    "left right front behind ahead above below near nearer nearest close closer closest far farther distance depth camera "
    "move moves moved motion first second before after fall falls roll rolls hit hits towards away turn walk"
)


@pytest.fixture(scope="module")
def records() -> dict[str, WorldRecord]:
    return {item.scene_id: item for item in (random_record(index) for index in range(180))}


@pytest.fixture(scope="module")
def questions(records) -> list[Question]:
    """Every template asked once a scene; each moving scene is shown with the next one."""
    balance, ordered = Balance(), list(records.values())
    moving = [item for item in ordered if item.layout != "static"]
    partners = {a.scene_id: b for a, b in pairwise(moving)}
    return [
        question
        for number, item in enumerate(ordered)
        for question in ask(item, np.random.default_rng(number), balance, 1, partners.get(item.scene_id))
    ]


def of(questions: list[Question], template: str) -> list[Question]:
    chosen = [question for question in questions if question.template == template]
    assert len(chosen) >= 5, f"too few questions of {template} to test"
    return chosen


def named(question: Question, scene: WorldRecord) -> list[WorldObject]:
    """The objects that a question names, in the order of its text."""
    places = {thing.id: question.question.find(thing.name) for thing in scene.objects}
    return sorted((thing for thing in scene.objects if places[thing.id] >= 0), key=lambda thing: places[thing.id])


def flat(thing: WorldObject) -> complex:
    """Its place on the floor plan as a complex number."""
    return complex(*thing.position[:2])


def test_there_are_the_ten_suites_and_each_asks_something(questions):
    assert tuple(SUITES) == TEN
    assert {question.suite for question in questions} == set(TEN)


def test_template_names_are_unique_within_a_suite():
    for suite, templates in SUITES.items():
        assert all(template.suite == suite for template in templates)
        assert len({template.name for template in templates}) == len(templates)
        assert all(len(set(template.wordings)) >= 2 for template in templates)


def test_answers_are_one_lower_case_word(questions):
    assert {question.answer for question in questions if not re.fullmatch("[a-z]+", question.answer)} == set()


def test_questions_are_whole_sentences(questions):
    for question in questions:
        assert re.fullmatch(r"[A-Z][^{}]*[.?]", question.question), question.question
        assert not re.search(r"\ba [aeiou]", question.question), question.question


# --- answers, derived again ----------------------------------------------------------------------------------------


def test_counts(questions, records):
    for question in of(questions, "count_shape"):
        shape = next(s for s in ("ball", "box", "cylinder", "cone") if s in question.question)
        shown = sum(thing.category == shape for thing in records[question.scene_id].objects)
        assert NUMBERS.index(question.answer) == shown
    for question in of(questions, "count_all"):
        assert NUMBERS.index(question.answer) == len(records[question.scene_id].objects)


def test_colour_and_shape_of(questions, records):
    for question in of(questions, "shape_of_colour") + of(questions, "colour_of_shape"):
        words = set(re.findall("[a-z]+", question.question)) | {question.answer}
        names = [(t.attributes["colour"], t.category) for t in records[question.scene_id].objects]
        assert [name for name in names if set(name) <= words] != []


def test_existence(questions, records):
    for question in of(questions, "exists"):
        assert question.answer == ("yes" if named(question, records[question.scene_id]) else "no")


def test_closer_to_camera_is_nearer_in_metres(questions, records):
    for question in of(questions, "closer_to_camera"):
        near, far = sorted(
            named(question, records[question.scene_id]), key=lambda t: np.linalg.norm(np.subtract(t.position, HOME))
        )
        assert question.answer == near.attributes["colour"] != far.attributes["colour"]


@pytest.mark.parametrize("template", ["nearer", "fly_nearer", "scene_nearer"])
def test_nearer_to_a_third(questions, records, template):
    for question in of(questions, template):
        things = named(question, records[question.scene_id])
        target = things[-1] if question.question.startswith("Of ") else things[0]
        others = [thing for thing in things if thing is not target]
        distances = {t.attributes["colour"]: np.linalg.norm(np.subtract(t.position, target.position)) for t in others}
        assert question.answer == min(distances, key=distances.get)
        assert max(distances.values()) >= 1.15 * min(distances.values()), "a near tie was asked"


@pytest.mark.parametrize("template", ["seen_from", "standing_side"])
def test_left_and_right_of_someone_in_the_scene(questions, records, template):
    for question in of(questions, template):
        standing, facing, target = map(flat, named(question, records[question.scene_id]))
        # Turned so that `facing` lies along the positive real axis, what is on the left has a positive imaginary part.
        turned = (target - standing) / (facing - standing)
        assert question.answer == ("left" if turned.imag > 0 else "right")


def test_ahead_and_behind(questions, records):
    for question in of(questions, "standing_ahead"):
        standing, facing, target = map(flat, named(question, records[question.scene_id]))
        assert question.answer == ("ahead" if ((target - standing) / (facing - standing)).real > 0 else "behind")


def test_turning(questions, records):
    for question in of(questions, "turn"):
        scene = records[question.scene_id]
        start = complex(scene.view_cameras[0].pose[0][3], scene.view_cameras[0].pose[1][3])
        via, target = map(flat, named(question, scene))
        assert question.answer == ("left" if ((target - via) / (via - start)).imag > 0 else "right")


def test_left_is_left_by_hand():
    """You stand at the red ball in the south and look north at the blue box: the green cone in the west is left."""
    scene = record(
        [
            Thing("red", "ball", (0.0, -1.0, 0.2)),
            Thing("blue", "box", (0.0, 1.0, 0.2)),
            Thing("green", "cone", (-1.2, -0.3, 0.2)),
        ]
    )
    answers = {}
    for seed in range(60):
        for question in ask(scene, np.random.default_rng(seed), Balance(), 6):
            if question.template in ("standing_side", "seen_from"):
                answers[tuple(thing.name for thing in named(question, scene))] = question.answer
    assert answers["red ball", "blue box", "green cone"] == "left"
    assert answers["blue box", "red ball", "green cone"] == "right"
    assert answers["green cone", "blue box", "red ball"] == "right"


def test_closest_object(questions, records):
    for question in of(questions, "closest_colour") + [
        q for q in of(questions, "closest_shape") if q.suite == "scene_qa"
    ]:
        scene = records[question.scene_id]
        (thing,) = named(question, scene)
        others = [other for other in scene.objects if other is not thing]
        closest = min(others, key=lambda other: np.linalg.norm(np.subtract(other.position, thing.position)))
        assert question.answer in (closest.attributes["colour"], closest.category)


def test_nearest_to_the_cameras(questions, records):
    for question in of(questions, "nearest_shape"):
        scene = records[question.scene_id]
        eye = [row[3] for row in scene.view_cameras[0].pose[:3]]
        assert (
            question.answer == min(scene.objects, key=lambda t: np.linalg.norm(np.subtract(t.position, eye))).category
        )


def test_camera_motion_is_how_the_pose_changed(questions, records):
    names = {(0, -1): "left", (0, 1): "right", (1, -1): "up", (1, 1): "down", (2, 1): "forward", (2, -1): "backward"}
    for question in of(questions, "camera_motion"):
        scene = records[question.scene_id]
        one, two = (np.array(camera.pose) for camera in (scene.image_camera, scene.moved_camera))
        step = np.linalg.inv(one) @ two[:, 3]
        axis = int(np.argmax(np.abs(step[:3])))
        assert question.answer == names[axis, int(np.sign(step[axis]))]


def test_shifts_in_the_picture(questions, records):
    for question in of(questions, "shift"):
        scene = records[question.scene_id]
        (thing,) = named(question, scene)
        before = project(thing.position, scene.image_camera)
        after = project(thing.position, scene.moved_camera)
        dx, dy = after[0] - before[0], after[1] - before[1]
        across = "right" if dx > 0 else "left"
        assert question.answer == (across if abs(dx) > abs(dy) else ("down" if dy > 0 else "up"))


def test_growing_and_shrinking(questions, records):
    for question in of(questions, "size_change"):
        scene = records[question.scene_id]
        (thing,) = named(question, scene)
        nearer = project(thing.position, scene.moved_camera)[2] < project(thing.position, scene.image_camera)[2]
        assert question.answer == ("bigger" if nearer else "smaller")


def test_first_appearance(questions, records):
    for question in of(questions, "appears_first"):
        things = named(question, records[question.scene_id])
        first = [next(i for i, look in enumerate(thing.in_video) if look.box) for thing in things]
        assert question.answer == things[int(np.argmin(first))].attributes["colour"]


def test_direction_of_motion(questions, records):
    for question in of(questions, "direction"):
        scene = records[question.scene_id]
        (thing,) = named(question, scene)
        view = scene.video_cameras[0]
        start, end = (project(point, view) for point in (thing.track[0], thing.track[4]))
        # Back to metres across at the depth of the start, from pixels.
        across = (end[0] * end[2] - start[0] * start[2] - 56 * (end[2] - start[2])) / view.intrinsics[0][0]
        along = end[2] - start[2]
        expected = (
            ("right" if across > 0 else "left") if abs(across) > abs(along) else ("away" if along > 0 else "towards")
        )
        assert question.answer == expected


def test_events_are_the_relations(questions, records):
    for question in questions:
        scene = records[question.scene_id]
        kinds = {relation.predicate for relation in scene.relations}
        if question.template == "anything_falls":
            assert question.answer == ("yes" if "falls_from" in kinds else "no")
        if question.template == "will_roll":
            assert question.answer == ("yes" if "rolls_down" in kinds else "no")
        if question.template in ("does_fall", "will_fall"):
            assert question.answer == ("yes" if "falls_from" in kinds else "no")
        if question.template in ("hit_what", "will_hit"):
            hit = scene.objects[1].attributes["colour"] if "hits" in kinds else "nothing"
            assert question.answer == hit
        if question.template == "does_move":
            assert question.answer == (
                "yes" if named(question, scene)[0].track[0] != named(question, scene)[0].track[-1] else "no"
            )
        if question.template in ("moved_colour", "moved_shape"):
            assert question.answer in (scene.objects[0].attributes["colour"], scene.objects[0].category)


def test_two_videos(questions, records):
    for template, predicate in (("which_collides", "hits"), ("which_falls", "falls_from")):
        for question in of(questions, template):
            scenes = [records[path.split("/")[1]] for _, path in question.media]
            happens = [any(relation.predicate == predicate for relation in scene.relations) for scene in scenes]
            assert happens == ([True, False] if question.answer == "first" else [False, True])


def test_only_inferable_motion_is_foretold():
    """A ball that already rolls along the floor looks at rest: no question may foretell what it does."""
    moves = WorldRelation(subject="object_0", predicate="moves", object=None, start=0.0, end=1.0)
    hits = WorldRelation(subject="object_0", predicate="hits", object="object_1", start=1.0, end=1.1)
    scene = record(
        [Thing("red", "ball", (0.0, 0.0, 0.2), step=(0.05, 0, 0)), Thing("blue", "box", (1.0, 0.0, 0.2))],
        (moves, hits),
    )
    suites = {question.suite for question in ask(scene, np.random.default_rng(0), Balance(), 5)}
    assert "general_video" in suites and "temporal_image" not in suites


def test_a_blocked_way_is_not_free():
    def reach(middle_y: float) -> str:
        scene = record(
            [
                Thing("red", "ball", (-1.2, 0.0, 0.2)),
                Thing("blue", "box", (1.2, 0.0, 0.2)),
                Thing("green", "cone", (0.0, middle_y, 0.2)),
            ]
        )
        asked = [
            q for s in range(20) for q in ask(scene, np.random.default_rng(s), Balance(), 6) if q.template == "reach"
        ]
        answers = {q.answer for q in asked if {t.name for t in named(q, scene)} == {"red ball", "blue box"}}
        return "/".join(sorted(answers))

    assert [reach(0.0), reach(0.3), reach(1.2)] == ["no", "", "yes"]


# --- what may be asked ---------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_what_is_hardly_visible_is_never_named(index, victim):
    scene = random_record(index)
    objects = [thing for thing in scene.objects if thing.category not in ("table", "ramp")]
    thing = objects[min(victim, len(objects) - 1)]
    dim = {"box": (50.0, 50.0, 53.0, 53.0), "visible": 0.2}
    looks = dict.fromkeys(("in_image", "in_moved"), dim)
    many = {"in_video": [dim] * 16, "in_views": [dim] * 6}
    changed = WorldObject.model_validate({**thing.model_dump(), **looks, **many})
    objects = tuple(changed if other is thing else other for other in scene.objects)
    scene = scene.model_copy(update={"objects": objects})
    for question in ask(scene, np.random.default_rng(0), Balance(), 3) + ask_general(
        scene, np.random.default_rng(0), Balance(), 3
    ):
        if question.template != "exists":
            assert changed not in named(question, scene), question
        assert not question.template.startswith(("count", "fly_count")), "one object is in doubt: nobody can count"


def test_near_ties_are_never_asked():
    things = [
        Thing("red", "ball", (0.0, 0.0, 0.2)),
        Thing("blue", "box", (1.0, 0.0, 0.2)),
        Thing("green", "cone", (-1.05, 0.0, 0.2)),
    ]
    scene = record(things)
    for seed in range(20):
        for question in ask(scene, np.random.default_rng(seed), Balance(), 6):
            assert not re.search("(closest|nearest|nearer) to the red ball", question.question), question


def test_general_questions_say_nothing_of_space_or_time(records):
    balance = Balance()
    asked = [
        question
        for number, scene in enumerate(records.values())
        for question in ask_general(scene, np.random.default_rng(number), balance, 3)
    ]
    assert {kind for question in asked for kind, _ in question.media} == {"image", "video", "scene"}
    for question in asked:
        words = set(re.findall("[a-z]+", f"{question.question} {question.answer}".lower()))
        assert question.general and not words & set(SPACE_AND_TIME.split()), question
    assert all(template.general for template in GENERAL)


def test_objects_are_not_counted_over_a_fly_through_in_general_questions(records):
    static = [scene for scene in records.values() if scene.layout == "static"]
    for number, scene in enumerate(static):
        for question in ask_general(scene, np.random.default_rng(number), Balance(), 3):
            assert not (question.media[0][0] == "video" and question.template.startswith("count"))


def test_suites_mark_general_questions(questions):
    for question in questions:
        if question.suite == "general_image":
            assert question.general
        if question.general:
            assert question.suite in ("general_image", "scene_qa")


# --- balance -------------------------------------------------------------------------------------------------------


def test_answers_stay_level(questions):
    """No answer is much more frequent than the next one; where the shape in the question tells, within each shape."""
    counts: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for question in questions:
        tells = question.template in SHAPE_TELLS  # the shape of what is named last: the subject, or what is hit
        shape = re.findall("ball|box|cylinder|cone", question.question)[-1] if tells else ""
        counts[question.suite, question.template, shape][question.answer] += 1
    for kind, answers in counts.items():
        ordered = [count for _, count in answers.most_common()] + [0]
        assert ordered[0] <= 1.1 * ordered[1] + 2, (kind, answers)


def test_balance_refuses_an_answer_that_dominates():
    balance, template, rng = Balance(), SUITES["temporal_image"][0], np.random.default_rng(0)
    given = [balance.choose(template.name, [Found({}, "no")], 1, rng) for _ in range(20)]
    assert sum(map(len, given)) == 1
    assert [f.answer for f in balance.choose(template.name, [Found({}, "no"), Found({}, "yes")], 1, rng)] == ["yes"]
    assert sum(len(balance.choose(template.name, [Found({}, "no", given="ball")], 1, rng)) for _ in range(20)) == 1


def test_balance_takes_the_rarest_answer_first_and_no_more_than_asked():
    balance, template, rng = Balance(), SUITES["spatial_image"][0], np.random.default_rng(0)
    found = [Found({"n": str(i)}, answer) for i, answer in enumerate(["red"] * 9 + ["blue"] * 2)]
    chosen = balance.choose(template.name, found, 4, rng)
    assert Counter(f.answer for f in chosen) == {"red": 2, "blue": 2}
    assert len({f.slots["n"] for f in chosen}) == 4


def test_same_seed_same_questions(records):
    def run() -> list[Question]:
        balance = Balance()
        return [
            q for i, s in enumerate(list(records.values())[:20]) for q in ask(s, np.random.default_rng(i), balance, 2)
        ]

    assert run() == run()


def test_without_a_partner_nothing_is_asked_of_two_videos(records):
    for scene in list(records.values())[:20]:
        assert all(q.suite != "cross_video" for q in ask(scene, np.random.default_rng(0), Balance()))
